"""A pull: what a peer has is counted, fetched series by series, and counted again at both ends.

    studies found → series found → instances counted → fetched → counted in the ledger → the absent one by one
    → counted at the peer again

What a C-MOVE says of its sub-operations is not read: many a peer says success with images missing, or a failure though
all have come. Only what the ledger holds has come. What comes is marked as pulled at the door, and no rule takes it.
"""

from __future__ import annotations

import fcntl
import fnmatch
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from pathlib import Path

from pydicom.datadict import tag_for_keyword

from dicomnode import log, wire
from dicomnode.dimse.identifiers import IMAGE, SERIES, STUDY
from dicomnode.dimse.outcome import RequestOutcome
from dicomnode.errors import InputError, PeerError
from dicomnode.ids import is_harmless_uid
from dicomnode.ledger.store import Ledger
from dicomnode.pull.source import Match, Source
from dicomnode.settings.match import window

LOGGER = logging.getLogger(__name__)

ARRIVAL_S = 10.0  # from the last instance that came: the peer may still send when it has answered the C-MOVE
ARRIVAL_OF_ONE_S = 2.0
_LOOK_S = 0.1
_MR = "MR"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """The studies that are to be pulled (by UID, of a patient, since a day), and a filter for their series."""

    studies: tuple[str, ...] = ()
    patient: str = ""
    since: date | None = None
    matches: Mapping[str, str]  # keyword → pattern of the value of a series


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundSeries:
    """A series at the peer."""

    study_uid: str
    series_uid: str
    instances: frozenset[str]  # SOP Instance UIDs of the classes that we take
    others: int  # instances of other classes


@dataclass(frozen=True, slots=True, kw_only=True)
class PulledSeries:
    """The result of a pull for one series."""

    series: int | None  # our number; None: we have nothing of it
    wanted: int  # instances at the peer
    before: int  # of these, here before
    here: int  # of these, here now
    others: int  # instances of classes that we do not take
    sentence: str  # what went wrong; empty: nothing

    @property
    def is_whole(self) -> bool:
        """Did everything come?"""
        return self.here == self.wanted


def find_series(source: Source, wish: Wish) -> list[FoundSeries]:
    """Find the series at the peer that the wish covers, with their instances. Raises PeerError without an answer."""
    found = []
    for study_uid in wish.studies or _studies(source, wish):
        keys = {"StudyInstanceUID": study_uid, "SeriesInstanceUID": "", "Modality": ""}
        keys |= dict.fromkeys(wish.matches.keys() - keys.keys(), "")
        for series in _ask(source, SERIES, keys):
            is_meant = series["Modality"] in ("", _MR) and _fits(series, wish.matches)
            if is_meant and is_harmless_uid(series["SeriesInstanceUID"]):
                found.append(_count(source, study_uid, series["SeriesInstanceUID"]))
    return found


def look_up(ledger: Ledger, found: FoundSeries) -> PulledSeries:
    """Count the instances of a series that are here; fetch nothing."""
    here = len(_here(ledger, found.instances))
    return PulledSeries(
        series=ledger.intake.find_series(found.series_uid), wanted=len(found.instances), before=here, here=here,
        others=found.others, sentence="",
    )  # fmt: skip


def fetch(source: Source, ledger: Ledger, found: FoundSeries, *, arrival_s: float = ARRIVAL_S) -> PulledSeries:
    """Fetch the absent instances of a series together, then one by one those that did not come; return the result."""
    before = _here(ledger, found.instances)
    absent, said = sorted(found.instances - before), ""
    if absent:
        outcome = source.fetch_series(found.study_uid, found.series_uid, absent)
        said = _said(outcome)
        absent = _wait(ledger, found.instances, arrival_s)
    for uid in absent:
        outcome = source.fetch_one(found.study_uid, found.series_uid, uid)
        said = _said(outcome)
        has_come = not _wait(ledger, frozenset([uid]), min(arrival_s, ARRIVAL_OF_ONE_S))
        if outcome.status is None and not has_come:  # the peer is away: it would be the same for every other instance
            break
    try:
        again = _count(source, found.study_uid, found.series_uid)
    except PeerError as exc:  # it has gone since: what came has come
        again, said = found, said or exc.sentence
    if grown := again.instances - found.instances:
        said = f"The peer has {len(grown)} more since it was asked; pull again."
    pulled = look_up(ledger, replace(again, instances=again.instances | found.instances))
    if missing := pulled.wanted - pulled.here:
        said = f"{missing} of {pulled.wanted} instances did not come. {said}".strip()
    pulled = replace(pulled, before=len(before), sentence=said if missing or grown else "")
    log.event(
        LOGGER, "series_pulled", level=logging.INFO if pulled.is_whole else logging.WARNING, series=pulled.series,
        instances=pulled.here - pulled.before, count=pulled.wanted, detail=pulled.sentence or None,
    )  # fmt: skip
    return pulled


def refuse_in(blackout: str, peer: str, now: datetime) -> None:
    """Raise InputError in the hours in which nothing is pulled from the peer. ``now``: any time zone."""
    if not blackout:
        return
    hours = window(blackout)
    assert hours is not None, "the settings were checked"
    if hours.holds(now):
        raise InputError(
            f"Nothing is pulled from {peer} from {hours.begin:%H:%M} to {hours.end:%H:%M} (peer.pull_blackout).",
            hint=f"Pull after {hours.end:%H:%M}.",
        )


@contextmanager
def only_one(data: Path, peer: str) -> Iterator[None]:
    """Hold the one pull that a peer has at a time. Raises InputError where another one runs."""
    descriptor = os.open(data / f"pull-{peer}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise InputError(f"Another pull from {peer} runs.", hint="Wait until it has ended.") from exc
        yield
    finally:
        os.close(descriptor)


def _studies(source: Source, wish: Wish) -> Iterator[str]:
    keys = {"StudyInstanceUID": "", "ModalitiesInStudy": _MR}
    if wish.patient:
        keys["PatientID"] = wish.patient
    if wish.since is not None:
        keys["StudyDate"] = f"{wish.since:%Y%m%d}-"
    for study in _ask(source, STUDY, keys):
        if is_harmless_uid(study["StudyInstanceUID"]):
            yield study["StudyInstanceUID"]


def patterns(words: Sequence[str]) -> dict[str, str]:
    """Split each ``KEYWORD=PATTERN``. Raises InputError for a word of another form or an unknown keyword."""
    found = {}
    for word in words:
        keyword, equals, pattern = word.partition("=")
        if not (equals and pattern and tag_for_keyword(keyword) is not None):
            raise InputError(f"{word} is not KEYWORD=PATTERN.", hint='Such as "SeriesDescription=*T2*".')
        found[keyword] = pattern
    return found


def since(days: int, now: datetime) -> date:
    """Return the date ``days`` days ago, in the time zone of this machine."""
    return (now.astimezone() - timedelta(days=days)).date()


def _count(source: Source, study_uid: str, series_uid: str) -> FoundSeries:
    keys = {"StudyInstanceUID": study_uid, "SeriesInstanceUID": series_uid, "SOPInstanceUID": "", "SOPClassUID": ""}
    uids: set[str] = set()
    others = 0
    for one in _ask(source, IMAGE, keys):
        is_taken = one["SOPClassUID"] in ("", *wire.SOP_CLASSES) and is_harmless_uid(one["SOPInstanceUID"])
        if is_taken:
            uids.add(one["SOPInstanceUID"])
        else:
            others += 1
    return FoundSeries(study_uid=study_uid, series_uid=series_uid, instances=frozenset(uids), others=others)


def _ask(source: Source, level: str, values: Mapping[str, str]) -> Sequence[Match]:
    answer = source.find(level, values)
    if isinstance(answer, RequestOutcome):
        raise PeerError(f"The peer does not say what it has. {_said(answer)}", hint=answer.hint)
    return answer


def _fits(series: Match, matches: Mapping[str, str]) -> bool:
    return all(fnmatch.fnmatchcase(series[key].upper(), pattern.upper()) for key, pattern in matches.items())


def _here(ledger: Ledger, uids: frozenset[str]) -> set[str]:
    return {uid for uid in uids if ledger.intake.find_instance(uid) is not None}


def _wait(ledger: Ledger, uids: frozenset[str], arrival_s: float) -> list[str]:
    """Wait until all of these are here, or nothing has come for a while; return those that are not."""
    absent, came_s = uids - _here(ledger, uids), time.monotonic()
    while absent and time.monotonic() - came_s < arrival_s:
        time.sleep(_LOOK_S)
        left = absent - _here(ledger, absent)
        if left != absent:
            absent, came_s = left, time.monotonic()
    return sorted(absent)


def _said(outcome: RequestOutcome) -> str:
    if outcome.status is None:
        return outcome.sentence
    return "" if outcome.status == 0 else f"It answered {outcome.status:04X}."
