"""The acts of a person on a series or a delivery. The command line and the web page share them and their sentences.

In: what an operator may do in the ledger, the number of the row, and who acts. Out: a sentence on what was done. An act
that the state of the row does not allow raises InputError, and nothing is changed; ``is_offered`` says for which states
it is worth showing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Final

from dicomnode.ids import DeliveryId, SeriesId
from dicomnode.ledger.deliveries import IDENTITY
from dicomnode.ledger.facades.operator import Operator
from dicomnode.ledger.lists import no_peer_sentence
from dicomnode.ledger.states import DeliveryState, JobState, SeriesState
from dicomnode.ledger.values import NOT_SELECTED, PULLED
from dicomnode.ledger.views import DeliveryLine

Reachable = Collection[str]  # the names of the peers that can be sent to


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """One act of a person."""

    label: str  # on a button
    effect: str  # a sentence: what it does
    states: frozenset[str]  # states of the series or its last job, or of the delivery, in which the act is offered
    run: Callable[
        ..., str
    ]  # arguments: the ledger's facade, the number, who acts, the reachable peers; a note where the act takes one
    takes_note: bool = False  # true: the person may say why
    reasons: frozenset[str] = frozenset()  # reasons for which a series is kept and the act is offered, too
    on_alert: bool = False  # true: the act is offered in every state while the series has an alert

    def is_offered(self, states: Collection[str], *, reason: str | None = None, alert: bool = False) -> bool:
        """Tell whether the act is worth offering for a row with these states, this reason, and an alert or none."""
        return (self.on_alert and alert) or reason in self.reasons or not self.states.isdisjoint(states)


def retry_series(operator: Operator, number: int, by: str, _reachable: Reachable = ()) -> str:
    """Judge a series again."""
    operator.retry_series(SeriesId(number), by)
    return f"Series {number} is judged again."


def release_series(operator: Operator, number: int, by: str, _reachable: Reachable = ()) -> str:
    """Go on with a series as it is."""
    operator.release_series(SeriesId(number), by)
    return f"Series {number} goes on as it is."


def cancel_series(operator: Operator, number: int, by: str, _reachable: Reachable = ()) -> str:
    """Cancel the jobs of a series."""
    jobs = ", ".join(map(str, operator.cancel_series(SeriesId(number), by)))
    return f"Of series {number} is cancelled: job {jobs}."


def retry_delivery(operator: Operator, number: int, by: str, reachable: Reachable) -> str:
    """Send a delivery now."""
    operator.retry_delivery(DeliveryId(number), by)
    return f"Delivery {number} is due now.{_caution(operator, number, reachable)}"


def release_delivery(operator: Operator, number: int, by: str, reachable: Reachable, note: str = "") -> str:
    """Send a delivery that is held. If it waits for review, this accepts the result."""
    operator.release_delivery(DeliveryId(number), by, note=note)
    return f"Delivery {number} is due.{_caution(operator, number, reachable)}"


def cancel_delivery(operator: Operator, number: int, by: str, _reachable: Reachable = (), note: str = "") -> str:
    """Send no further instance of a delivery. If it waits for review, this rejects the result and needs a note."""
    operator.cancel_delivery(DeliveryId(number), by, note=note)
    return f"Delivery {number} is cancelled."


def is_refreshable(line: DeliveryLine) -> bool:
    """Tell whether a refresh is worth offering: the peer has the study under another patient, and nothing of ours."""
    return (
        line.state == DeliveryState.HELD and line.reason == IDENTITY and line.job is not None and not line.acknowledged
    )


def _caution(operator: Operator, number: int, reachable: Reachable) -> str:
    """Return a sentence for a delivery whose peer has no address in the settings, else an empty text."""
    peer = operator.peer_of_delivery(DeliveryId(number))
    return "" if peer in reachable else f" {no_peer_sentence(number, peer)}"


ON_SERIES: Final[Mapping[str, Act]] = {
    "retry": Act(
        label="Judge again",
        effect="The series is judged again now, with the present settings. A job that is held or failed starts again. "
        "After a job that is done, a new job derives the series once more.",
        states=frozenset({SeriesState.KEPT, SeriesState.PLANNED}),
        run=retry_series,
    ),
    "release": Act(
        label="Go on as it is",
        effect="What was set aside of the series counts as seen, and its alert ends. A held job runs, and a series "
        "that was kept because of what was set aside is judged without it. One that was pulled is judged like one that "
        "was sent, and one whose rule chose another series of the study is derived, too.",
        states=frozenset({JobState.HELD}),
        reasons=frozenset({PULLED, NOT_SELECTED}),
        run=release_series,
        on_alert=True,
    ),
    "cancel": Act(
        label="Cancel the job",
        effect="The jobs of the series that wait, run, are held or failed are cancelled. A running job is stopped "
        "within seconds.",
        states=frozenset({JobState.QUEUED, JobState.RUNNING, JobState.HELD, JobState.FAILED}),
        run=cancel_series,
    ),
}
ON_DELIVERY: Final[Mapping[str, Act]] = {
    "retry": Act(
        label="Send now",
        effect="The delivery is sent now, together with the instances that the peer refused before.",
        states=frozenset({DeliveryState.DUE, DeliveryState.HELD, DeliveryState.CANCELLED}),
        run=retry_delivery,
    ),
    "release": Act(
        label="Release",
        effect="The delivery, which is held, is sent. If it waits for review, this accepts the result.",
        states=frozenset({DeliveryState.HELD}),
        takes_note=True,
        run=release_delivery,
    ),
    "cancel": Act(
        label="Cancel",
        effect="No further instance of the delivery is sent. The peer keeps the instances that it has. If it "
        "waits for review, this rejects the result, and you have to say why.",
        states=frozenset({DeliveryState.DUE, DeliveryState.SENDING, DeliveryState.HELD}),
        takes_note=True,
        run=cancel_delivery,
    ),
}
