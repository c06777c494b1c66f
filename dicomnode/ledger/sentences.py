"""The sentences that ``series explain`` prints: the verdict on a series first, then its job and its deliveries.

The functions are pure: they get the rows that ``one_series`` has read. The sentence of the verdict itself was stored
when the verdict was reached, and is printed unchanged.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from dicomnode.derivation import GateFigure
from dicomnode.ids import SeriesId
from dicomnode.ledger.states import NOT_ACCEPTED, OPERATOR, CommitmentState, DeliveryState, JobState, SeriesState
from dicomnode.ledger.values import Finding, Release, SetAside
from dicomnode.ledger.views import DeliveryLine, JobLine

SHOWN_DIGEST: Final = 12  # digits, as in the folder of an imported model
SHOWN_NAMES: Final = 6  # of attributes that differ
REPLACED: Final = "A newer revision or derivation of the series replaced it."
OF_DETAIL: Final = "put_back"  # the first check of the result gate that a small series does not get
BROKEN_UID: Final = "which PS3.5 section 9.1 forbids; a PACS may refuse it."  # ends the notes that are alerts


_RELEASES: Final[dict[str, str]] = {
    Release.REVIEW: " A person reviews each result of this rule before it is sent.",
    Release.SHADOW: " Results of this rule are measured and archived, and never sent.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """The number of instances that a peer added in a revision."""

    revision: int
    peer: str | None
    instances: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """The state of a series, and how many instances arrived in each revision."""

    state: SeriesState
    revision: int
    aborted: bool
    last_at: datetime | None
    verdict: str
    arrivals: tuple[Arrival, ...]
    called: tuple[str, ...] = ()  # our AE titles that its senders called, as far as that is known


def explain(
    standing: Standing,
    job: JobLine | None,
    figures: Sequence[GateFigure],
    notes: Iterable[str],
    deliveries: Sequence[DeliveryLine],
) -> tuple[str, ...]:
    """Return the sentences on verdict, revisions, rule, job, result gate, notes and deliveries, in this order."""
    return (
        _verdict(standing),
        *([f"It was sent to our AE title {' and to '.join(standing.called)}."] if standing.called else []),
        *_revisions(standing, deliveries),
        *([] if job is None else [_rule(job), _job(job, standing)]),
        *_gate(figures),
        *notes,
        *(_delivery(line, standing.revision) for line in deliveries),
    )


def set_aside(groups: Sequence[SetAside], instances: int) -> tuple[str, ...]:
    """Describe what was set aside of a series that has ``instances`` in the archive: one sentence for each finding."""
    elsewhere = sum(group.files for group in groups if group.finding is Finding.OTHER_SERIES)
    return tuple(_group(group, instances + elsewhere) for group in groups)


def beside(others: Mapping[SeriesId, int]) -> tuple[str, ...]:
    """Say how many objects of other series were set aside because this series had their UIDs already."""
    return tuple(
        f"{_objects(files)} of series {number} came under SOP Instance UIDs of this series and "
        f"{'was' if files == 1 else 'were'} set aside."
        for number, files in others.items()
    )


def alerting(sentence: str, notes: Iterable[str]) -> str:
    """Return the text of a series' alert: its verdict, and the notes on UIDs that break the standard."""
    return " ".join((sentence, *(note for note in notes if note.endswith(BROKEN_UID))))


def moment(at: datetime) -> str:
    """Return a moment as text for an operator.

    >>> from datetime import UTC
    >>> moment(datetime(2026, 5, 4, 13, 2, 1, tzinfo=UTC))
    '2026-05-04 13:02:01 UTC'
    """
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"


def _images(number: int) -> str:
    return "1 image" if number == 1 else f"{number} images"


def _group(group: SetAside, total: int) -> str:
    one = group.files == 1
    objects, were = _objects(group.files), "was" if one else "were"
    uids = "a SOP Instance UID" if one else "SOP Instance UIDs"
    taken = f"{objects} came under {uids} that this series has already"
    match group.finding:
        case Finding.OTHER_SERIES:
            theirs = "its SOP Instance UID is that of an instance" if one else "their SOP Instance UIDs are those"
            return f"{group.files} of its {total} instances {were} set aside: {theirs} of series {group.kept_series}."
        case Finding.OTHER_IDENTITY:
            first = "the first one stays" if one else "the first ones stay"
            return f"{objects} came again, with another {_names(group.details)}, and {were} set aside; {first}."
        case Finding.OTHER_CONTENT:
            return f"{taken}, with other {_names(group.details)}, and {were} set aside."
        case Finding.NOT_STORED:
            return (
                f"{'1 file' if one else f'{group.files} files'} of this series had no row in the ledger, "
                f"as after a crash or with an older ledger, and {were} set aside; "
                f"the series may lack {'it' if one else 'them'}."
            )
        case Finding.NOT_COMPARED:
            return f"{taken}, and {were} set aside; what differs could not be determined: {_names(group.details)}."
        case _:
            taken = f"{objects} came under {uids} that {'is' if one else 'are'} taken"
            return f"{taken}, and {were} set aside; nobody has compared {'it' if one else 'them'} yet."


def _objects(number: int) -> str:
    return "1 object" if number == 1 else f"{number} objects"


def _names(names: Sequence[str]) -> str:
    """List the first SHOWN_NAMES names."""
    more = len(names) - SHOWN_NAMES
    return ", ".join(names[:SHOWN_NAMES]) + (f" and {more} more" if more > 0 else "")


def _verdict(standing: Standing) -> str:
    if standing.state is SeriesState.SETTLED:
        return standing.verdict or "The series is complete and waits for its verdict."
    if standing.state is not SeriesState.RECEIVING:
        return standing.verdict
    if standing.last_at is None:
        return "No image of this series has arrived yet."
    came = _images(sum(arrival.instances for arrival in standing.arrivals))
    cut = "; the last association broke off, so the node waits longer for further images" if standing.aborted else ""
    return f"The series is being received: {came} so far, the last at {moment(standing.last_at)}{cut}."


def _revisions(standing: Standing, deliveries: Sequence[DeliveryLine]) -> list[str]:
    """Say what each later revision added, and which earlier revisions were delivered."""
    sentences = []
    for arrival in standing.arrivals:
        if arrival.revision == 1:
            continue
        before = [
            line
            for line in deliveries
            if line.job is not None and line.revision < arrival.revision and line.sent_at is not None
        ]
        sent = "".join(
            f"; revision {line.revision} was delivered to {line.peer} at {moment(line.sent_at)}"
            for line in before
            if line.sent_at is not None
        )
        came_from = "" if arrival.peer is None else f" from {arrival.peer}"
        sentences.append(f"Revision {arrival.revision}: +{_images(arrival.instances)}{came_from}{sent}.")
    return sentences


def _rule(job: JobLine) -> str:
    return (
        f"Rule {job.rule!r} derives the series with model {job.model} ({job.model_digest[:SHOWN_DIGEST]}), "
        f"ratio {job.ratio}; derivation number {job.derivation_number}.{_RELEASES.get(job.release, '')}"
    )


def _job(job: JobLine, standing: Standing) -> str:
    older = "" if job.revision == standing.revision else f" (of revision {job.revision})"
    name = f"Job {job.id}{older}"
    match JobState(job.state):
        case JobState.QUEUED:
            return f"{name} waits for its turn{_after(job)}."
        case JobState.RUNNING:
            return f"{name} is running{_after(job)}."
        case JobState.DONE:
            took = "" if job.seconds is None else f" in {job.seconds:.1f} s"
            return f"{name} is done: it made series {job.output_series}{took}."
        case JobState.HELD:
            return f"{name} is held: {job.sentence}"
        case JobState.FAILED:
            return f"{name} failed after {job.attempts} attempts; the last one: {job.sentence}"
        case JobState.SUPERSEDED:
            return f"{name} was superseded by a newer revision of the series."
        case JobState.CANCELLED:
            return f"{name} was cancelled by {'an operator' if job.reason == OPERATOR else 'a new verdict'}."


def _gate(figures: Sequence[GateFigure]) -> list[str]:
    """Say how near a result that passed the result gate came to a limit; the job's notes say what held another."""
    if not figures or any(figure.holds for figure in figures):
        return []
    nearest = max(figures, key=lambda figure: figure.share or 0.0)
    assert nearest.measured is not None, "what is no finite number holds"
    least = "least" if nearest.is_least else "most"
    was_looked_into = any(figure.check == OF_DETAIL for figure in figures)
    return [
        f"The result gate passed it: of {len(figures)} figures, `{nearest.check}` came nearest to its limit, "
        f"with {nearest.measured:.3g} of at {least} {nearest.limit:.3g}.",
        *([] if was_looked_into else ["The series was too small for the gate's checks of what the model added."]),
    ]


def _after(job: JobLine) -> str:
    if not job.sentence:
        return ""
    if job.attempts == 0:
        return f"; the last try is not counted as an attempt: {job.sentence.rstrip('.')}"
    times = "once" if job.attempts == 1 else f"{job.attempts} times"
    return f"; it failed {times} before: {job.sentence.rstrip('.')}"


def _delivery(line: DeliveryLine, revision: int) -> str:
    older = "" if line.revision == revision else f" (revision {line.revision})"
    progress = f"{line.acknowledged} of {line.items} acknowledged"
    what = " of the received images" if line.job is None else ""
    name = f"Delivery {line.id}{what} to {line.peer}{older}"
    match DeliveryState(line.state):
        case DeliveryState.DUE:
            then = "" if line.next_at is None else f", next try at {moment(line.next_at)}"
            words = f"{name} is due: {progress}{then}.{_because(line)}"
        case DeliveryState.SENDING:
            words = f"{name} is being sent: {progress}."
        case DeliveryState.SENT:
            at = "" if line.sent_at is None else f" at {moment(line.sent_at)}"
            words = f"{name} was sent{at}: {progress}; proof: {line.proof}{_proof(line)}."
        case DeliveryState.HELD:
            words = f"{name} is held: {progress}.{_because(line)}"
        case DeliveryState.CANCELLED:
            why = line.sentence if line.reason in (OPERATOR, NOT_ACCEPTED) else REPLACED
            words = f"{name} was cancelled: {progress}. {why}"
    return words + _answers(line)


def _proof(line: DeliveryLine) -> str:
    """Say on what the proof of a delivery rests, or why there is no better one."""
    match line.commitment:
        case CommitmentState.COMMITTED:
            return " (the peer committed to keep every image)"
        case CommitmentState.QUERIED:
            return " (a query showed every image; a report has not come)"
        case CommitmentState.WANTED:
            return " (the peer is yet to be asked to commit)"
        case CommitmentState.ASKED:
            return " (the peer was asked to commit; its report has not come)"
        case CommitmentState.UNPROVEN:
            return " (the peer gave no better one: neither a report nor an answer to a query)"
        case _:
            return ""


def _because(line: DeliveryLine) -> str:
    return f" {line.sentence}" if line.sentence else ""


def _answers(line: DeliveryLine) -> str:
    """Name the C-STORE statuses other than success."""
    said = ", ".join(
        f"{answer.status} to {_images(answer.items)}" for answer in line.answers if answer.status != "0000"
    )
    return f" The peer answered {said}." if said else ""
