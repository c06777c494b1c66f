"""Settles series for which no further instance arrives, reaches a verdict on each, and plans the jobs.

DICOM has no sign that a series is complete. A series is therefore *settled* when no instance has arrived for a while.
Its instances are then frozen as a revision, and their headers are read from the archive. The first rule that matches
gives the limits. The verdict either keeps the series, with the reason in one sentence, or plans a job. The job records
everything that decides its result.

This file does not load PyTorch. It decodes pixels in one case only: when a file of the series was set aside because its
SOP Instance UID was in the archive already. That file is compared with the archived instance. If they differ in a way
that matters, and no person has marked the file as seen, the series is kept. If the series has its verdict already, its
deliveries are held instead (``ledger``).

A series is settled ``settle.quiet_s`` after its last instance, but not while an association that stored into it is
open. If its last association was aborted, the wait is ``settle.aborted_wait_s``, because the sender may try again. In
every case the series is settled ``settle.max_wait_s`` after its first instance. A series whose rule derives one series
of each study then waits until the study is quiet (``selection``). The waits are measured with the
monotonic clock, because the times in the ledger would be wrong after the wall clock was set. After a restart the wait
of a series begins again; it is then at most ``quiet_s`` longer.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from dicomnode import log
from dicomnode.archive import Archive, FileState
from dicomnode.catalog import NotChosenYet
from dicomnode.derivation import utc_offset_min
from dicomnode.errors import ModelError, NodeError, StorageError
from dicomnode.generators.model_dir import ModelFacts
from dicomnode.ids import JobId, SeriesId
from dicomnode.imaging.comparison import compare
from dicomnode.imaging.enhanced import ENHANCED_MR_IMAGE_STORAGE
from dicomnode.imaging.frame import Slice, frames_of
from dicomnode.imaging.headers import InstanceHeader, UnreadableHeader, read_header_or_reason
from dicomnode.imaging.verdict import VerdictReason
from dicomnode.ledger.store import Ledger
from dicomnode.ledger.values import (
    NOBODY,
    NOT_SELECTED,
    PULLED,
    REMOVED,
    SET_ASIDE,
    WAITS_FOR_STUDY,
    ArchivedInstance,
    Examined,
    Finding,
    Forward,
    Late,
    NotSelected,
    PlannedJob,
    Priority,
    QuarantineReason,
    ReceivingSeries,
    Release,
    SettledSeries,
    Unexamined,
)
from dicomnode.rules import JudgedByRules, Reception, judge_by_rules
from dicomnode.seams import SYSTEM_CLOCK, Clock, checkpoint
from dicomnode.selection import Candidate, StudyWatch
from dicomnode.settings.models import SettleSettings
from dicomnode.settings.rules import RuleSettings
from dicomnode.worker_thread import WorkerThread

LOGGER = logging.getLogger(__name__)

TICK_S = 5.0  # the longest wait when no wake comes
OPEN_POLL_S = 1.0  # how often a series that would be quiet but for an open association is looked at
SHORTEST_WAIT_S = 0.05  # a series whose time has come this moment may need the next one
PAUSE_S = 10.0  # after the ledger or the disk refused
INSTANCES_LIMIT = 5_000  # a stack has hundreds; some 50 kB of memory for each header
SIBLINGS_S = 60.0  # a scanner that sends each slice, or each volume, as a series of its own sends them together
SIBLINGS_LIMIT = 1_000  # series whose first header is read to find those of the same name
SLICES_LIMIT = 10_000  # over all multi-frame objects of a series
READ_LIMIT_S = 600.0  # for all headers of one series, from a slow disk
_PRIORITIES = {"urgent": Priority.URGENT, "normal": Priority.NORMAL, "offpeak": Priority.OFF_PEAK}
SIBLINGS = (
    "Of the same study and with the same description, {count} other series began within a minute of it; "
    "have the scanner send them as one."
)
NOT_JUDGED = "not_judged"  # beside imaging.verdict.VerdictReason: we could not do our part


class _TooMuch(Exception):
    """The series is too large to be judged. It is kept, with the text of this exception as the sentence."""


class _Stopped(Exception):
    """The service stops. The series stays settled and gets its verdict after the next start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """A series that is to be settled now."""

    series: ReceivingSeries
    note: str = ""  # why it is settled now, if the usual quiet time is not the reason
    is_quiet: bool = True  # False: instances still arrive; those that have arrived by then belong to the revision


@dataclass(frozen=True, slots=True, kw_only=True)
class _Timing:
    """A series in state ``receiving`` as last read, and when, on the monotonic clock, it began and last changed."""

    seen: ReceivingSeries
    began: float
    changed: float


class QuietWatch:
    """Measures how long each series in state ``receiving`` has been quiet. Used by one thread."""

    def __init__(self, settings: SettleSettings, clock: Clock) -> None:
        self.settings = settings
        self._clock = clock
        self._timings: dict[SeriesId, _Timing] = {}
        self._looked_at = clock.monotonic()  # the quiet time of a series cannot begin before this

    def look(self, receiving: Sequence[ReceivingSeries], open_series: AbstractSet[SeriesId]) -> tuple[list[Due], float]:
        """Return the series that are to be settled now, and the seconds until the next one may be."""
        now = self._clock.monotonic()
        self._timings = {one.id: self._timing(one, now) for one in receiving}
        self._looked_at = now
        due: list[Due] = []
        next_s = TICK_S
        for one in receiving:
            answer = self._due(self._timings[one.id], now, is_open=one.id in open_series)
            if isinstance(answer, Due):
                due.append(answer)
            else:
                next_s = min(next_s, answer)
        return due, next_s

    def _timing(self, seen: ReceivingSeries, now: float) -> _Timing:
        before = self._timings.get(seen.id)
        if before is not None and before.seen == seen:
            return before
        is_known = before is not None and before.seen.revision == seen.revision
        began = before.began if before is not None and is_known else now - self._age(seen.first_at, now)
        return _Timing(seen=seen, began=began, changed=now - self._age(seen.last_at, now))

    def _age(self, moment: datetime, now: float) -> float:
        """Return the seconds since a stored time, but at most those since the last call of ``look``."""
        return min(max((self._clock.now() - moment).total_seconds(), 0.0), now - self._looked_at)

    def _due(self, timing: _Timing, now: float, *, is_open: bool) -> Due | float:
        """Return the series if it is to be settled now, else the seconds until it may be."""
        settings, series = self.settings, timing.seen
        longest_s = settings.max_wait_s - (now - timing.began)
        wait_s = settings.aborted_wait_s if series.aborted else settings.quiet_s
        quiet_in_s = wait_s - (now - timing.changed)
        if quiet_in_s <= 0 and not is_open:
            note = f"Its last association broke off: settled {wait_s:g} s later (settle.aborted_wait_s)."
            return Due(series=series, note=note if series.aborted else "")
        if longest_s <= 0:
            note = f"Settled after {settings.max_wait_s:g} s without a quiet moment (settle.max_wait_s)."
            return Due(series=series, note=note, is_quiet=False)
        return min(longest_s, max(quiet_in_s, OPEN_POLL_S) if is_open else quiet_in_s)


class Settler:
    """One thread that settles series that are quiet, and reaches a verdict on series that are settled."""

    def __init__(
        self,
        settings: SettleSettings,
        rules: Sequence[RuleSettings],
        ledger: Ledger,
        archive: Archive,
        *,
        model_of: Callable[[str | None], ModelFacts],  # what a rule's ``model`` is now; None: the default model
        open_series: Callable[[], AbstractSet[SeriesId]],  # those that an open association stored into
        planned: Callable[[], None],  # called after a job was made
        enhanced_kept: Collection[str] = (),  # the peers whose Enhanced MR is never processed
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._rules = rules
        self._enhanced_kept = frozenset(enhanced_kept)
        self._next = (settings, rules, self._enhanced_kept)
        self._ledger = ledger
        self._archive = archive
        self._model_of = model_of
        self._open_series = open_series
        self._planned = planned
        self._clock = clock
        self._watch = QuietWatch(settings, clock)
        self._studies = StudyWatch(clock)
        self._waiting: dict[SeriesId, str] = {}  # for a disk that cannot be read, and what was said of it
        self._thread = WorkerThread(self.turn, name="settle", events="settle", logger=LOGGER, pause_s=PAUSE_S)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def take(
        self, settings: SettleSettings, rules: Sequence[RuleSettings], enhanced_kept: Collection[str] = ()
    ) -> None:
        """Use these settings from the next turn on."""
        self._next = (settings, rules, frozenset(enhanced_kept))
        self._thread.wake()

    def wake(self) -> None:
        """Look into the ledger now: an association has ended, or an operator asked for a new verdict."""
        self._thread.wake()

    def stop(self, limit_s: float) -> None:
        """Stop after the present series. Series that wait for their verdict get it after the next start."""
        self._thread.stop(limit_s)

    def turn(self) -> float:
        """Settle the series that are quiet and judge those that are settled; return the seconds until the next turn."""
        if self._next != (self._watch.settings, self._rules, self._enhanced_kept):
            self._watch.settings, self._rules, self._enhanced_kept = self._next
            self._studies.forget()
        # Open associations are read before the rows. An association that breaks off in between is marked in the rows of
        # its series before it counts as closed, so each of them is seen as open, as aborted or as both, never as quiet.
        open_series = self._open_series()
        due, next_s = self._watch.look(self._ledger.settling.receiving(), open_series)
        for one in due:
            self._settle(one)
        for series in self._ledger.settling.settled():
            if self._thread.stopping.is_set():
                break
            if self._studies.holds(series):
                continue
            try:
                self._judge(series)
            except StorageError as exc:  # of this series' files; the files of the next series may be readable
                self._wait_for_disk(series, exc.sentence)
                next_s = max(next_s, PAUSE_S)
            else:
                self._waiting.pop(series.id, None)
        self._choose()
        self._examine_late()
        return max(next_s, SHORTEST_WAIT_S)

    def _wait_for_disk(self, series: SettledSeries, sentence: str) -> None:
        """Leave the series settled until its files can be read. Log and ledger note it once, not at every turn."""
        if self._waiting.get(series.id) != sentence:
            self._waiting[series.id] = sentence
            self._ledger.note("judge_failed", table="series", row=series.id, detail=f"{sentence} It is tried again.")
            log.event(LOGGER, "judge_failed", level=logging.ERROR, series=series.id, sentence=sentence)

    def _settle(self, due: Due) -> None:
        """Freeze the instances as a revision, unless another one has arrived since the rows were read."""
        series = due.series
        seen_at = series.last_at if due.is_quiet else None
        if self._ledger.settling.settle(series.id, series.revision, note=due.note, seen_at=seen_at):
            checkpoint("settle.settled")
            log.event(
                LOGGER, "series_settled", series=series.id, revision=series.revision, instances=series.instances,
                detail=due.note or None,
            )  # fmt: skip

    def _judge(self, series: SettledSeries) -> None:
        """Keep or plan one series. If the verdict fails with an exception, the series is kept."""
        if series.is_pulled:
            sentence = "Every instance was pulled by this node, and no rule takes what was pulled."
            how = f"`dicomnode series release {series.id}` has it judged like one that was sent."
            self._keep(series, reason=PULLED, sentence=f"{sentence} {how}", alert=False)
            return
        instances = self._ledger.settling.instances_of(series.id, series.revision)
        if any(one.is_removed for one in instances):
            self._keep_incomplete(series, instances)
            return
        begun = self._clock.monotonic()
        try:
            self._examine(series.id)
            objections = self._ledger.quarantine.objections(series.id)
            judged = self._judged(instances) if instances else None
            if judged is not None and judged.verdict.reason is VerdictReason.TOO_FEW:
                judged = self._with_siblings(series.id, instances[0], judged)
        except (_Stopped, NotChosenYet):
            return  # the series stays settled; the next turn, or the next start, judges it
        except _TooMuch as exc:
            self._keep(series, reason=NOT_JUDGED, sentence=str(exc), alert=True)
        except ModelError as exc:  # no model of that name is active; no other model is used instead
            sentence = f"{exc.sentence} Activate one, then `dicomnode series retry {series.id}`."
            self._keep(series, reason=NOT_JUDGED, sentence=sentence, alert=True)
        except NodeError:
            raise  # a fault of the disk or the ledger, not of the series
        except Exception as exc:  # noqa: BLE001 (border: one series' judgement)
            log.failure(LOGGER, "judge_failed", series=series.id)
            sentence = f"The headers could not be judged ({type(exc).__name__}); the log holds the traceback."
            self._keep(series, reason=NOT_JUDGED, sentence=sentence, alert=True)
        else:
            self._decide(series, judged, objections)
            log.event(
                LOGGER, "series_judged", level=logging.DEBUG, series=series.id, seconds=self._clock.monotonic() - begun
            )

    def _keep_incomplete(self, series: SettledSeries, instances: Sequence[ArchivedInstance]) -> None:
        """Keep a series to which an instance came after others of it had been removed from the archive."""
        gone = sum(one.is_removed for one in instances)
        sentence = (
            f"{gone} of its {len(instances)} images had been removed from the archive before another one came. "
            f"Have the whole series sent again, then `dicomnode series retry {series.id}`."
        )
        self._keep(series, reason=REMOVED, sentence=sentence, alert=True)

    def _decide(self, series: SettledSeries, judged: JudgedByRules | None, objections: Sequence[str]) -> None:
        """Keep or plan the series by its verdict, but keep it if no person has seen a file of it that was set aside."""
        if judged is None:
            sentence = " ".join(objections) or "Every instance of this series was set aside; nothing is left to derive."
            self._keep(series, reason=SET_ASIDE, sentence=sentence, alert=False)
            return
        verdict = judged.verdict
        notes = (*judged.choice.passed_over, *judged.choice.conflicts, *verdict.notes, *judged.broken)
        if verdict.process and judged.model.why:
            notes += (judged.model.why,)
        alert = verdict.alert or bool(judged.broken)
        if objections:
            notes = (f"Without what was set aside, the verdict would be: {verdict.sentence}", *notes)
            self._keep(series, reason=SET_ASIDE, sentence=" ".join(objections), alert=alert, notes=notes)
        elif verdict.process:
            self._plan(series, judged, notes, alert=alert)
        else:
            forward = NOBODY if verdict.reason == VerdictReason.OWN_OUTPUT else _forward(judged.choice.rule)
            self._keep(
                series, reason=verdict.reason, sentence=verdict.sentence, alert=alert, notes=notes, forward=forward
            )

    def _examine_late(self) -> None:
        """Compare the files that were set aside of series that have their verdict already."""
        for series in self._ledger.quarantine.waiting_series():
            try:
                self._examine(series)
            except _Stopped:
                return
            except StorageError as exc:  # its deliveries stay held, and the next turn tries again
                log.event(
                    LOGGER, "examination_failed", level=logging.ERROR, series=series, code=exc.code,
                    sentence=exc.sentence,
                )  # fmt: skip

    def _examine(self, series: SeriesId) -> None:
        """Compare the files of a series that were set aside with the archived instances, and record the findings."""
        until = self._clock.monotonic() + READ_LIMIT_S
        found: list[Examined] = []
        for one in self._ledger.quarantine.unexamined(series):
            if self._thread.stopping.is_set():
                raise _Stopped
            if self._clock.monotonic() > until:
                found.append(_not_compared(one, "there are too many of them"))
            else:
                found.append(self._examined(one))
        if found:
            self._ledger.quarantine.examined(series, found)
            checkpoint("settle.examined")
            harmful = sum(one.finding is not Finding.SAME for one in found)
            log.event(
                LOGGER, "quarantine_examined", level=logging.WARNING if harmful else logging.INFO, series=series,
                count=len(found), instances=harmful,
            )  # fmt: skip

    def _examined(self, one: Unexamined) -> Examined:
        if one.is_stored:
            return Examined(id=one.id, finding=Finding.SAME)
        if one.reason is QuarantineReason.ORPHAN:
            return Examined(id=one.id, finding=Finding.NOT_STORED)
        kept = one.kept
        if kept is None:
            return _not_compared(one, "the first one is not known")
        if kept.series != one.series:
            return Examined(id=one.id, finding=Finding.OTHER_SERIES)
        aside = self._archive.aside(one.file)
        if not aside.is_file():
            return _not_compared(one, "the file in quarantine is missing")
        state = self._archive.verify(kept.file, kept.sha256)
        if state is FileState.MISSING and kept.is_removed:
            return _not_compared(one, "the first one was removed from the archive")
        if state is not FileState.WHOLE:
            return _not_compared(one, f"the file of the first one is {state}")
        try:
            return _difference(one, aside, self._archive.path(kept.file))
        except NodeError:
            raise  # the disk's matter
        except Exception as exc:  # noqa: BLE001 (border: one object that was set aside)
            log.failure(LOGGER, "examination_failed", quarantine=one.id, series=one.series)
            return _not_compared(one, f"they could not be compared ({type(exc).__name__})")

    def _judged(self, instances: Sequence[ArchivedInstance]) -> JudgedByRules:
        kept = any(
            one.sop_class_uid == ENHANCED_MR_IMAGE_STORAGE and one.peer in self._enhanced_kept for one in instances
        )
        received = [Reception(called_ae=one.called_ae, at=one.received_at) for one in instances]
        return judge_by_rules(
            self._slices(instances), self._rules, model_of=self._model_of, received=received, enhanced=not kept
        )

    def _with_siblings(self, series: SeriesId, instance: ArchivedInstance, judged: JudgedByRules) -> JudgedByRules:
        """Say how many series of the same name began when this one did: together they may be one stack."""
        own = self._name_of(instance.file)
        beside = self._ledger.settling.series_beside(series, within_s=SIBLINGS_S, limit=SIBLINGS_LIMIT) if own else []
        count = sum(self._name_of(file) == own for file in beside)
        if not count:
            return judged
        sentence = f"{judged.verdict.sentence} {SIBLINGS.format(count=count)}"
        return replace(judged, verdict=replace(judged.verdict, sentence=sentence))

    def _name_of(self, file: str) -> tuple[str, str] | None:
        """Study and description of the series that an archived file belongs to; None if it cannot be read."""
        header = read_header_or_reason(self._archive.path(file)) if self._archive.has(file) else None
        if not isinstance(header, InstanceHeader):
            return None
        return header.study_uid, header.text("SeriesDescription")

    def _slices(self, instances: Sequence[ArchivedInstance]) -> list[Slice]:
        """Return the frames of the whole revision. A missing file counts as an unreadable slice. Raises _TooMuch."""
        if len(instances) > INSTANCES_LIMIT:
            raise _TooMuch(f"{len(instances)} instances are more than the {INSTANCES_LIMIT} that are judged.")
        until = self._clock.monotonic() + READ_LIMIT_S
        slices: list[Slice] = []
        for instance in instances:
            if self._thread.stopping.is_set():
                raise _Stopped
            path = self._archive.path(instance.file)
            if self._archive.has(instance.file):
                slices.extend(frames_of(path))
            else:
                slices.append(UnreadableHeader(path=path, reason="its file is missing from the archive"))
            if len(slices) > SLICES_LIMIT:
                raise _TooMuch(f"More than {SLICES_LIMIT} slices are too many to be judged.")
            if self._clock.monotonic() > until:
                raise _TooMuch(f"Reading the headers took longer than {READ_LIMIT_S:g} s.")
        return slices

    def _keep(
        self,
        series: SettledSeries,
        *,
        reason: str,
        sentence: str,
        alert: bool,
        notes: Sequence[str] = (),
        forward: Forward = NOBODY,
    ) -> None:
        if self._ledger.settling.keep(
            series.id, series.revision, reason=reason, sentence=sentence, alert=alert, notes=tuple(notes),
            forward=forward,
        ):  # fmt: skip
            checkpoint("settle.kept")
            log.event(
                LOGGER, "series_kept", level=logging.WARNING if alert or reason == SET_ASIDE else logging.INFO,
                series=series.id, revision=series.revision, reason=reason, sentence=sentence,
            )  # fmt: skip

    def _plan(self, series: SettledSeries, judged: JudgedByRules, notes: Sequence[str], *, alert: bool) -> None:
        rule, verdict = judged.choice.rule, judged.verdict
        assert rule is not None
        assert judged.parameters is not None
        assert verdict.ratio is not None
        parameters = replace(judged.parameters, ratio=verdict.ratio, utc_offset_min=utc_offset_min(self._clock.now()))
        job = PlannedJob(
            parameters=parameters, deliver_to=rule.deliver_to, sentence=verdict.sentence,
            priority=_PRIORITIES[rule.priority], release=Release(rule.release), late=Late(self._watch.settings.late),
        )  # fmt: skip
        if rule.select == "most_slices" and series.study_uid is not None and not series.is_wanted:
            self._wait_for_study(
                Candidate(
                    series=series.id, revision=series.revision, study_uid=series.study_uid, slices=verdict.slices,
                    planned=job, notes=tuple(notes), alert=alert, forward=_forward(rule),
                )
            )  # fmt: skip
            return
        job_id = self._ledger.settling.plan(
            series.id, series.revision, job, notes=notes, alert=alert, forward=_forward(rule)
        )
        if job_id is not None:
            self._log_planned(series.id, series.revision, job, job_id)

    def _wait_for_study(self, candidate: Candidate) -> None:
        """Leave the series settled until its study is quiet. The ledger notes that once in the life of the service."""
        self._studies.add(candidate)
        detail = (
            f"Rule {candidate.rule} derives one series of each study; it chooses when nothing of the study has come "
            f"for {self._watch.settings.study_quiet_s:g} s (settle.study_quiet_s)."
        )
        self._ledger.note(WAITS_FOR_STUDY, table="series", row=candidate.series, detail=detail)
        log.event(
            LOGGER, "series_waits_for_study", series=candidate.series, revision=candidate.revision, rule=candidate.rule
        )

    def _choose(self) -> None:
        """Record what the rules that derive one series of a study choose in the studies that are quiet."""
        if not self._studies.is_waiting:
            return
        quiet_s = self._watch.settings.study_quiet_s
        settled = self._ledger.settling.settled()
        for choice in list(self._studies.due(settled, self._ledger.settling.of_study, quiet_s=quiet_s)):
            chosen = choice.planned
            others = [
                NotSelected(
                    series=one.series, revision=one.revision, notes=one.notes, alert=one.alert, forward=one.forward,
                    sentence=f"{sentence} `dicomnode series release {one.series}` derives this one, too.",
                )
                for one, sentence in choice.kept
            ]  # fmt: skip
            job, kept = self._ledger.settling.choose(None if chosen is None else chosen.selected, others)
            checkpoint("settle.chosen")
            for one in others:
                if one.series in kept:
                    log.event(
                        LOGGER, "series_kept", series=one.series, revision=one.revision, reason=NOT_SELECTED,
                        sentence=one.sentence,
                    )  # fmt: skip
            if chosen is not None and job is not None:
                self._log_planned(chosen.series, chosen.revision, chosen.planned, job)

    def _log_planned(self, series: SeriesId, revision: int, planned: PlannedJob, job: JobId) -> None:
        checkpoint("settle.planned")
        parameters = planned.parameters
        log.event(
            LOGGER, "series_planned", series=series, revision=revision, job=job, rule=parameters.rule,
            model=parameters.model, model_digest=parameters.model_digest, ratio=parameters.ratio,
            sentence=planned.sentence,
        )  # fmt: skip
        self._planned()


def _forward(rule: RuleSettings | None) -> Forward:
    """The peers that get a series of this rule as it was received."""
    return Forward(peers=rule.forward_originals, priority=_PRIORITIES[rule.priority]) if rule else NOBODY


def _not_compared(one: Unexamined, why: str) -> Examined:
    return Examined(id=one.id, finding=Finding.NOT_COMPARED, details=(why,))


def _difference(one: Unexamined, aside: Path, kept: Path) -> Examined:
    """Compare a file that was set aside with the archived instance.

    If only the encoding is known to differ, other attributes than those of patient, study and position are ignored.
    """
    found = compare(kept, aside)
    if found is None:
        return _not_compared(one, "a header cannot be read")
    if found.identity:
        return Examined(id=one.id, finding=Finding.OTHER_IDENTITY, details=found.identity)
    others = found.others if one.reason is QuarantineReason.CONFLICT else ()
    pixels = ("pixels",) if found.has_same_pixels is False else ()
    if details := (*pixels, *found.place, *others):
        return Examined(id=one.id, finding=Finding.OTHER_CONTENT, details=details)
    if found.has_same_pixels is None:
        return _not_compared(one, "pixels cannot be decoded")
    return Examined(id=one.id, finding=Finding.SAME)
