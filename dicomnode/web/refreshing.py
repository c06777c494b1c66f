"""A held delivery whose series is derived anew under the patient whom its peer has (docs/decisions/0013).

In: a person's word on a delivery. Out: the command `deliveries release --refresh`, begun as a process of its own, and
what it said. The peer's answer, which is patient data, does not come to the page.
"""

from __future__ import annotations

from typing import Any, Final

from dicomnode.ids import DeliveryId
from dicomnode.visible import visible
from dicomnode.web.entry import NOTE_LIMIT, actor, clean_note
from dicomnode.web.exchange import Answer, see_other
from dicomnode.web.pages import Visit

ASKED: Final = "refresh_asked"  # event of a delivery: a person began the command on the page


def confirm(visit: Visit, number: int) -> Answer:
    """Show a page that describes the act and asks for confirmation; one that was begun, with its result."""
    visit.refuse_without_actions()
    return visit.show("refresh.html", **_live(visit, number))


def live(visit: Visit, number: int) -> Answer:
    """Show what came of it; the script of the page asks for it again and again."""
    return visit.show("refresh_live.html", **_live(visit, number))


def begin(visit: Visit, number: int) -> Answer:
    """Begin the command. Raises InputError where the delivery does not allow it or nobody signs, and LedgerError."""
    visit.refuse_without_actions()
    person = visit.signed()
    note = visible(clean_note(visit.request.filled("note")))[:NOTE_LIMIT]
    words = ["deliveries", "release", str(number), "--refresh", f"--by={person}", "--note=-"]
    with visit.node.writer() as ledger:
        ledger.refreshes.wanted(DeliveryId(number))
        visit.begin(visit.node.refreshes, str(number), words, said=note)
        ledger.note(ASKED, table="delivery", row=number, by=actor(person))
    return see_other(f"/deliveries/{number}/refresh")


def _live(visit: Visit, number: int) -> dict[str, Any]:
    """Collect what is shown of a delivery. Raises InputError where there is none of this number."""
    delivery = visit.node.delivery(number)
    return {"delivery": delivery, "ran": visit.node.refreshes.known.get(str(number))}
