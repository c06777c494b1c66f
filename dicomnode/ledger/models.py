"""Imported models: their rows, the one that rules get under a name, and the one to which a rollback goes back.

Also which default model a start of the service chose.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, func, insert, literal, select

from dicomnode.errors import InputError
from dicomnode.ledger.mapping.event import event_line
from dicomnode.ledger.mapping.model import imported_model, model_row, new_model
from dicomnode.ledger.schema import boot, events, model
from dicomnode.ledger.statements import bind_values, bound, moving, stands
from dicomnode.ledger.states import Event, ModelState
from dicomnode.ledger.transaction import LedgerTransaction
from dicomnode.ledger.values import ImportedModel, ModelEvent, ModelId
from dicomnode.ledger.views import EventLine, ModelChoice, ModelRow

_BY_DIGEST = select(model.c.id).where(model.c.digest == bound("digest"))
_ONE = select(model.c.name, model.c.state).where(model.c.id == bound("model"))
_ACTIVE = select(model).where(stands(model, ModelState.ACTIVE)).order_by(model.c.name)
_FOREMOST_REPLACED = (
    select(model)
    .where(model.c.name == bound("name"), stands(model, ModelState.REPLACED))
    .order_by(model.c.place.desc())
    .limit(1)
)
_NEXT_PLACE: Final = func.coalesce(select(func.max(model.c.place)).scalar_subquery(), 0) + 1
_REPLACE = moving(model, Event.SUPERSEDE).where(model.c.name == bound("name"))
_ACTIVATE = moving(model, Event.ACTIVATE).where(model.c.id == bound("model")).values(place=_NEXT_PLACE)
_WITHDRAW = moving(model, Event.WITHDRAW).where(model.c.name == bound("name")).values(place=None)
_RESTORE = moving(model, Event.RESTORE).where(model.c.id == bound("model"))
_ALL = select(model).order_by(model.c.id)
_HISTORY = (
    select(events, literal(1).label("times"))
    .where(events.c.table_name == model.name, events.c.row_id == bound("model"))
    .order_by(events.c.id)
)
_LAST_CHOICE = (
    select(events.c.kind, events.c.detail)
    .where(
        events.c.table_name == boot.name,
        events.c.row_id == select(func.max(boot.c.id)).scalar_subquery(),
        events.c.kind.in_(list(ModelEvent)),
    )
    .order_by(events.c.id.desc())
    .limit(1)
)


def take_in(transaction: LedgerTransaction, imported: ImportedModel) -> tuple[ModelId, bool]:
    """Give a model whose files are flushed and in their folder its row. False: it had one already."""
    known = transaction.connection.execute(_BY_DIGEST, bind_values(digest=imported.digest)).scalar_one_or_none()
    if known is not None:
        transaction.note("imported_again", table=model.name, row=known)
        return ModelId(known), False
    made = transaction.connection.execute(
        insert(model).returning(model.c.id), new_model(transaction, imported)
    ).scalar_one()
    return ModelId(made), True


def activate(transaction: LedgerTransaction, model_id: ModelId) -> bool:
    """Make a model the active one of its name. False: it was so already."""
    row = transaction.connection.execute(_ONE, bind_values(model=model_id)).one()
    if row.state == ModelState.ACTIVE:
        return False
    transaction.move(_REPLACE, f"model {model_id} was activated", name=row.name)
    moved = transaction.move(_ACTIVATE, model=model_id)
    assert moved == 1, "every state but active can be activated"
    return True


def roll_back(transaction: LedgerTransaction, name: str, *, to: ModelId | None) -> None:
    """Withdraw the active model of a name and go back to ``to``; None: to the one that came with the node, if any.

    Raises InputError where no imported one is active, or where ``to`` is not the model behind it any more.
    """
    behind = before_active(transaction.connection, name)
    if (behind.id if behind else None) != to:
        raise InputError(f"The models named {name} changed meanwhile; nothing was rolled back.", hint="Ask again.")
    if transaction.move(_WITHDRAW, "rolled back", name=name) == 0:
        raise InputError(
            f"No imported model named {name} is active; nothing was rolled back.",
            hint="`dicomnode model list` shows which are.",
        )
    if to is not None:
        moved = transaction.move(_RESTORE, "rolled back to", model=to)
        assert moved == 1, "it was replaced a moment ago"


def active(connection: Connection) -> dict[str, ImportedModel]:
    """Return the active imported model of each name. A missing name means the model that came with the node."""
    return {row.name: imported_model(row) for row in connection.execute(_ACTIVE)}


def before_active(connection: Connection, name: str) -> ImportedModel | None:
    """Return the imported model to which a rollback of this name would go back. None: there is none."""
    row = connection.execute(_FOREMOST_REPLACED, bind_values(name=name)).one_or_none()
    return None if row is None else imported_model(row)


def imported(connection: Connection) -> list[ModelRow]:
    """List the imported models, the oldest first."""
    return [model_row(row) for row in connection.execute(_ALL)]


def history(connection: Connection, model_id: int) -> tuple[EventLine, ...]:
    """List the events of one imported model."""
    return tuple(event_line(row, row.row_id) for row in connection.execute(_HISTORY, bind_values(model=model_id)))


def last_choice(connection: Connection) -> ModelChoice | None:
    """Return the default model that the last start chose. None: it had nothing to choose, or has not chosen yet."""
    row = connection.execute(_LAST_CHOICE).one_or_none()
    return None if row is None else ModelChoice(is_fast=row.kind == ModelEvent.FAST, sentence=row.detail)
