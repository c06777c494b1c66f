"""Why a series stands where it stands, in sentences: the verdict first, then what came of it.

Pure: from the rows that ``queries`` read to the words that ``series explain`` prints. The verdict's own sentence was
written when it was reached and comes through unchanged.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from dicomnode.ids import SeriesId
from dicomnode.ledger.states import OPERATOR, DeliveryState, JobState, SeriesState
from dicomnode.ledger.values import Finding, SetAside
from dicomnode.ledger.views import DeliveryLine, JobLine

SHOWN_DIGEST: Final = 12  # digits, as in the folder of an imported model
SHOWN_NAMES: Final = 6  # of attributes that differ
BROKEN_UID: Final = "which PS3.5 section 9.1 forbids; a PACS may refuse it."  # ends the notes that are alerts


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """How many instances a peer added in a revision."""

    revision: int
    peer: str | None
    instances: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where a series stands, and how it came together."""

    state: SeriesState
    revision: int
    aborted: bool
    last_at: datetime | None
    verdict: str
    arrivals: tuple[Arrival, ...]


def explain(
    standing: Standing, job: JobLine | None, notes: Iterable[str], deliveries: Sequence[DeliveryLine]
) -> tuple[str, ...]:
    """Verdict, revisions, rule, job, notes, deliveries: in this order."""
    return (
        _verdict(standing),
        *_revisions(standing, deliveries),
        *([] if job is None else [_rule(job), _job(job, standing)]),
        *notes,
        *(_delivery(line, standing.revision) for line in deliveries),
    )


def set_aside(groups: Sequence[SetAside], instances: int) -> tuple[str, ...]:
    """What was set aside of a series that has so many instances, and why that matters: a sentence for each cause."""
    elsewhere = sum(group.files for group in groups if group.finding is Finding.OTHER_SERIES)
    return tuple(_group(group, instances + elsewhere) for group in groups)


def beside(others: Mapping[SeriesId, int]) -> tuple[str, ...]:
    """Objects of other series that were set aside because this one had their UIDs."""
    return tuple(
        f"{_objects(files)} of series {number} came under SOP Instance UIDs of this series and "
        f"{'was' if files == 1 else 'were'} set aside."
        for number, files in others.items()
    )


def alerting(sentence: str, notes: Iterable[str]) -> str:
    """What makes a series an alert: its verdict, and the notes of rules that its sender broke."""
    return " ".join((sentence, *(note for note in notes if note.endswith(BROKEN_UID))))


def moment(at: datetime) -> str:
    """A moment as an operator reads it.

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
                f"{'1 file' if one else f'{group.files} files'} of it had no row in the ledger, as after a crash or "
                f"with an older ledger, and {were} set aside; the series may lack {'it' if one else 'them'}."
            )
        case Finding.NOT_COMPARED:
            return f"{taken}, and {were} set aside; what differs could not be told: {_names(group.details)}."
        case _:
            taken = f"{objects} came under {uids} that {'is' if one else 'are'} taken"
            return f"{taken}, and {were} set aside; nobody has compared {'it' if one else 'them'} yet."


def _objects(number: int) -> str:
    return "1 object" if number == 1 else f"{number} objects"


def _names(names: Sequence[str]) -> str:
    """The first of them in a row."""
    more = len(names) - SHOWN_NAMES
    return ", ".join(names[:SHOWN_NAMES]) + (f" and {more} more" if more > 0 else "")


def _verdict(standing: Standing) -> str:
    if standing.state is SeriesState.SETTLED:
        return "The series is complete and waits for its verdict."
    if standing.state is not SeriesState.RECEIVING:
        return standing.verdict
    if standing.last_at is None:
        return "Nothing has come of this series yet."
    came = _images(sum(arrival.instances for arrival in standing.arrivals))
    cut = "; its sender was cut off, so it is given longer" if standing.aborted else ""
    return f"The series is being received: {came} so far, the last at {moment(standing.last_at)}{cut}."


def _revisions(standing: Standing, deliveries: Sequence[DeliveryLine]) -> list[str]:
    """What each later revision added, and what the peers hold of the one before."""
    sentences = []
    for arrival in standing.arrivals:
        if arrival.revision == 1:
            continue
        before = [line for line in deliveries if line.revision < arrival.revision and line.sent_at is not None]
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
        f"Rule {job.rule!r} derives it with model {job.model} ({job.model_digest[:SHOWN_DIGEST]}), ratio {job.ratio}; "
        f"derivation {job.derivation_number}."
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
            return f"{name} gave way to a newer revision."
        case JobState.CANCELLED:
            return f"{name} was cancelled by {'an operator' if job.reason == OPERATOR else 'a new verdict'}."


def _after(job: JobLine) -> str:
    if not job.sentence:
        return ""
    if job.attempts == 0:
        return f"; the last try ended without counting as one: {job.sentence.rstrip('.')}"
    times = "once" if job.attempts == 1 else f"{job.attempts} times"
    return f"; it failed {times} before: {job.sentence.rstrip('.')}"


def _delivery(line: DeliveryLine, revision: int) -> str:
    older = "" if line.revision == revision else f" (revision {line.revision})"
    progress = f"{line.acknowledged} of {line.items} acknowledged"
    name = f"Delivery {line.id} to {line.peer}{older}"
    match DeliveryState(line.state):
        case DeliveryState.DUE:
            then = "" if line.next_at is None else f", next try at {moment(line.next_at)}"
            words = f"{name} is due: {progress}{then}.{_because(line)}"
        case DeliveryState.SENDING:
            words = f"{name} is on its way: {progress}."
        case DeliveryState.SENT:
            at = "" if line.sent_at is None else f" at {moment(line.sent_at)}"
            words = f"{name} was sent{at}: {progress}; proof: {line.proof}."
        case DeliveryState.HELD:
            words = f"{name} is held: {progress}.{_because(line)}"
        case DeliveryState.CANCELLED:
            why = line.sentence if line.reason == OPERATOR else "Something newer took its place."
            words = f"{name} was cancelled: {progress}. {why}"
    return words + _answers(line)


def _because(line: DeliveryLine) -> str:
    return f" {line.sentence}" if line.sentence else ""


def _answers(line: DeliveryLine) -> str:
    """Statuses other than plain success: those an operator looks up."""
    said = ", ".join(f"{_images(answer.items)} {answer.status}" for answer in line.answers if answer.status != "0000")
    return f" Answered: {said}." if said else ""
