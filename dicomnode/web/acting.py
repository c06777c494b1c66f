"""The acts of a person on the page: each is confirmed on a page of its own, and recorded with the person's name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from dicomnode.acts import ON_DELIVERY, ON_SERIES, Act
from dicomnode.errors import InputError
from dicomnode.ledger.lists import Wanted
from dicomnode.web.entry import actor, clean_name, clean_note
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
    person = visit.person.name or clean_name(visit.request.filled("name"))
    if not person:
        raise InputError("A name is needed, for the record; nothing was done.", hint="Letters, digits and blanks.")
    back = _series_of(visit, table, number)
    with visit.node.writer() as ledger:
        note = {"note": clean_note(visit.request.filled("note"))} if act.takes_note else {}
        sentence = act.run(ledger.operator, number, actor(person), visit.node.settings.reachable_peers, **note)
    return visit.show("done.html", sentence=sentence, back=back)


def _act(visit: Visit, table: str, name: str) -> Act:
    if not visit.node.settings.web.actions:
        raise InputError("Nothing can be changed on this page.", hint="The key web.actions is false.")
    act = _ACTS[table].get(name)
    if act is None:
        raise InputError("There is no such act.")
    return act


def _series_of(visit: Visit, table: str, number: int) -> int:
    """Find the series to whose page the person goes back. Raises InputError where there is no such row."""
    if table == "series":
        return visit.node.reader.series_show(number).id
    found = visit.node.reader.deliveries_list(Wanted(before=number + 1, limit=1))
    if not found or found[0].id != number:
        raise InputError(f"There is no delivery {number}.")
    return found[0].series
