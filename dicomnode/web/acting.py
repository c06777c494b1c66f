"""The acts of a person on the page: each is confirmed on a page of its own, and recorded with the person's name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from dicomnode.acts import ON_DELIVERY, ON_SERIES, Act
from dicomnode.errors import InputError
from dicomnode.web.entry import actor, clean_note
from dicomnode.web.exchange import Answer
from dicomnode.web.pages import Visit

_ACTS: Final[Mapping[str, Mapping[str, Act]]] = {"series": ON_SERIES, "deliveries": ON_DELIVERY}


def confirm(visit: Visit, table: str, number: int, name: str) -> Answer:
    """Show a page that describes an act and asks for confirmation."""
    act = _act(visit, table, name)
    return visit.show("confirm.html", act=act, table=table, number=number, back=_series_of(visit, table, number))


def perform(visit: Visit, table: str, number: int, name: str) -> Answer:
    """Do the act. Raises InputError where the state of the row does not allow it, and LedgerError."""
    act = _act(visit, table, name)
    person = visit.signed()
    back = _series_of(visit, table, number)
    with visit.node.writer() as ledger:
        note = {"note": clean_note(visit.request.filled("note"))} if act.takes_note else {}
        sentence = act.run(ledger.operator, number, actor(person), visit.node.settings.reachable_peers, **note)
    return visit.show("done.html", sentence=sentence, back=back)


def _act(visit: Visit, table: str, name: str) -> Act:
    visit.refuse_without_actions()
    act = _ACTS[table].get(name)
    if act is None:
        raise InputError("There is no such act.")
    return act


def _series_of(visit: Visit, table: str, number: int) -> int:
    """Find the series to whose page the person goes back. Raises InputError where there is no such row."""
    if table == "series":
        return visit.node.reader.series_show(number).id
    return visit.node.delivery(number).series
