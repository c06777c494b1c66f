"""The rows of alerts: the conditions that hold, the destinations to which they were sent, and failures to send.

In: the conditions that hold now, as the watch of the node found them. Out: the alerts that a destination is still
to be told of. Each destination has rows of its own. Nothing here sends.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Final

from sqlalchemy import Connection, func, insert, select, update

from dicomnode.ledger.mapping.alert import alert_of, new_alert
from dicomnode.ledger.schema import alert
from dicomnode.ledger.statements import bind_values, bound, moving, stands
from dicomnode.ledger.states import AlertState, Event
from dicomnode.ledger.transaction import LedgerTransaction
from dicomnode.ledger.values import Alert, Condition
from dicomnode.ledger.views import Undelivered

LETTER: Final = "letter"  # name of the row of the weekly letter

_UNSENT = stands(alert, AlertState.RAISED, AlertState.ENDED)
_OPEN = select(alert).where(
    alert.c.destination == bound("destination"),
    stands(alert, AlertState.RAISED, AlertState.SENT, AlertState.ENDED),
)
_TO_SEND = select(alert).where(alert.c.destination == bound("destination"), _UNSENT).order_by(alert.c.id)
_CHANGE = (
    update(alert)
    .where(alert.c.id == bound("alert"))
    .values(sentence=bound("sentence"), number=bound("number"), sent_number=bound("sent_number"), last_at=bound("now"))
)
_RECUR = moving(alert, Event.RECUR).where(alert.c.id == bound("alert")).values(last_at=bound("now"))
_END = moving(alert, Event.END).where(alert.c.id == bound("alert"))
_SENT = {"sent_at": bound("now"), "failing_since": None, "failure": ""}
_TELL = moving(alert, Event.TELL).where(alert.c.id == bound("alert")).values(sent_number=bound("number"), **_SENT)
_CLOSE = moving(alert, Event.CLOSE).where(alert.c.id == bound("alert")).values(**_SENT)
_FAIL = (
    update(alert)
    .where(alert.c.id == bound("alert"))
    .values(failing_since=func.coalesce(alert.c.failing_since, bound("now", alert.c.failing_since.type)))
    .values(failure=bound("failure"))
)
_UNDELIVERED = (
    select(alert.c.destination, alert.c.failing_since, alert.c.failure, alert.c.id)
    .where(_UNSENT, alert.c.failing_since.is_not(None))
    .order_by(alert.c.failing_since, alert.c.id)
)


def observe(
    transaction: LedgerTransaction,
    destination: str,
    holding: Sequence[Condition],
    ended: Collection[str],
    *,
    again_before: datetime,
) -> None:
    """Raise an alert for each condition that began to hold, and end the alerts whose conditions ``ended`` names.

    An alert that was sent before ``again_before`` is raised again where its condition has more rows than were reported.
    """
    rows = transaction.connection.execute(_OPEN, bind_values(destination=destination))
    known = {row.name: alert_of(row) for row in rows if row.name != LETTER}
    for condition in holding:
        if (one := known.get(condition.name)) is None:
            transaction.connection.execute(insert(alert), new_alert(transaction, destination, condition))
        else:
            _note(transaction, one, condition, again_before)
    for name in known.keys() & set(ended):
        if known[name].state is not AlertState.ENDED:
            transaction.move(_END, alert=known[name].id)


def holding_names(connection: Connection, destination: str) -> list[str]:
    """List the names of the conditions that held when the destination's alerts were observed last."""
    rows = connection.execute(_OPEN, bind_values(destination=destination))
    return [row.name for row in rows if row.name != LETTER and row.state != AlertState.ENDED]


def to_send(connection: Connection, destination: str) -> list[Alert]:
    """List what the destination is to be told, the oldest first."""
    return [alert_of(row) for row in connection.execute(_TO_SEND, bind_values(destination=destination))]


def sent(transaction: LedgerTransaction, told: Sequence[Alert]) -> None:
    """Record that the destination took a message with these alerts, as they were then."""
    for one in told:
        if one.state is AlertState.ENDED:
            transaction.move(_CLOSE, alert=one.id)
        else:
            transaction.move(_TELL, alert=one.id, number=one.number)


def not_sent(transaction: LedgerTransaction, untold: Sequence[Alert], failure: str) -> None:
    """Record that a try to send these alerts failed."""
    binds = [bind_values(alert=one.id, now=transaction.now, failure=failure) for one in untold]
    transaction.connection.execute(_FAIL, binds)


def write_letter(transaction: LedgerTransaction, destination: str, *, due_at: datetime | None) -> None:
    """Let the weekly letter be sent. ``due_at``: only if the last one was written before, and there was one."""
    question = _OPEN.where(alert.c.name == LETTER)
    row = transaction.connection.execute(question, bind_values(destination=destination)).one_or_none()
    if row is None and due_at is None:
        condition = Condition(name=LETTER, sentence="The weekly letter.", number=1, is_error=False)
        transaction.connection.execute(insert(alert), new_alert(transaction, destination, condition))
    elif row is not None and row.state == AlertState.SENT and (due_at is None or row.last_at < due_at):
        transaction.move(_RECUR, alert=row.id)


def undelivered(connection: Connection) -> tuple[Undelivered, ...]:
    """List the destinations to which an alert could not be sent, each with the time since when, and the failure."""
    found: dict[str, Undelivered] = {}
    for row in connection.execute(_UNDELIVERED):
        if row.destination not in found:
            found[row.destination] = Undelivered(
                destination=row.destination, alert=row.id, since=row.failing_since, failure=row.failure
            )
    return tuple(found.values())


def _note(transaction: LedgerTransaction, one: Alert, condition: Condition, again_before: datetime) -> None:
    """Take over the number and the words of a condition whose alert is open."""
    told = min(one.sent_number, condition.number)  # so that what comes after some were settled counts as more
    if (one.sentence, one.number, one.sent_number) != (condition.sentence, condition.number, told):
        values = {"sentence": condition.sentence, "number": condition.number, "sent_number": told}
        transaction.connection.execute(_CHANGE, bind_values(alert=one.id, now=transaction.now, **values))
    is_more = condition.number > told and one.sent_at is not None and one.sent_at <= again_before
    if one.state is AlertState.ENDED or (one.state is AlertState.SENT and is_more):
        transaction.move(_RECUR, alert=one.id)
