"""Judges one settled series: its headers are read, a rule and a verdict found, and the series is kept or planned.

The first rule that matches gives the limits. The verdict either keeps the series, with the reason in one sentence, or
plans a job. Whatever the rules say, a series is kept if a file of it was set aside that differs in a way that matters
and that no person has marked as seen, if it was only pulled, or if some of its images were removed from the archive.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from dicomnode import log
from dicomnode.catalog import NotChosenYet
from dicomnode.derivation import utc_offset_min
from dicomnode.errors import ModelError, NodeError
from dicomnode.generators.model_dir import ModelFacts
from dicomnode.ids import SeriesId
from dicomnode.imaging.enhanced import ENHANCED_MR_IMAGE_STORAGE
from dicomnode.imaging.frame import Slice
from dicomnode.imaging.verdict import VerdictReason
from dicomnode.ledger.store import Ledger
from dicomnode.ledger.values import (
    NOBODY,
    PULLED,
    REMOVED,
    SET_ASIDE,
    ArchivedInstance,
    Forward,
    Late,
    PlannedJob,
    Priority,
    Release,
    SettledSeries,
)
from dicomnode.rules import JudgedByRules, Reception, judge_by_rules
from dicomnode.scanners.facts import told_by
from dicomnode.seams import Clock
from dicomnode.settings.models import SettleSettings
from dicomnode.settings.rules import RuleSettings
from dicomnode.settle.decisions import Decisions
from dicomnode.settle.examine import Examiner
from dicomnode.settle.reading import HeaderReader, Stopped, TooMuchError
from dicomnode.settle.selection import Candidate

LOGGER = logging.getLogger(__name__)

NOT_JUDGED = "not_judged"  # beside imaging.verdict.VerdictReason: an error of the node prevented the verdict
SIBLINGS_S = 60.0  # a scanner that sends each slice, or each volume, as a series of its own sends them together
SIBLINGS_LIMIT = 1_000  # series whose first header is read to find those of the same name
SIBLINGS = (
    "Of the same study and with the same description, {count} other series began within a minute of it; "
    "have the scanner send them as one."
)
_PRIORITIES: Final = {"urgent": Priority.URGENT, "normal": Priority.NORMAL, "offpeak": Priority.OFF_PEAK}


@dataclass(frozen=True, slots=True, kw_only=True)
class Basis:
    """The settings by which series are judged in one turn."""

    settle: SettleSettings
    rules: Sequence[RuleSettings]
    enhanced_kept: frozenset[str] = frozenset()  # the peers whose Enhanced MR is never processed


class SeriesJudge:
    """Reaches verdicts. Used by one thread."""

    def __init__(
        self,
        ledger: Ledger,
        reader: HeaderReader,
        examiner: Examiner,
        decisions: Decisions,
        *,
        model_of: Callable[[str | None], ModelFacts],
        clock: Clock,
    ) -> None:
        """``model_of``: what a rule's ``model`` is now; None: the default model."""
        self._ledger = ledger
        self._reader = reader
        self._examiner = examiner
        self._decisions = decisions
        self._model_of = model_of
        self._clock = clock

    def judge(self, series: SettledSeries, basis: Basis) -> None:
        """Keep or plan one series. If the verdict fails with an exception, the series is kept.

        It stays settled where the service stops, or no model is chosen yet. Raises NodeError for a fault of the disk or
        the ledger.
        """
        if series.is_pulled:
            sentence = "Every instance was pulled by this node, and no rule takes what was pulled."
            how = f"`dicomnode series release {series.id}` has it judged like one that was sent."
            self._decisions.keep(series, reason=PULLED, sentence=f"{sentence} {how}", alert=False)
            return
        instances = self._ledger.settling.instances_of(series.id, series.revision)
        if any(one.is_removed for one in instances):
            self._keep_incomplete(series, instances)
            return
        begun = self._clock.monotonic()
        try:
            self._examiner.examine(series.id)
            objections = self._ledger.quarantine.objections(series.id)
            slices = self._reader.slices(instances)
            judged = self._judged(instances, slices, basis) if instances else None
            told = None if judged is None else told_by(judged.verdict, slices, instances)
            if judged is not None and judged.verdict.reason is VerdictReason.TOO_FEW:
                judged = self._with_siblings(series.id, instances[0], judged)
        except (Stopped, NotChosenYet):
            return  # the next turn, or the next start, judges it
        except TooMuchError as exc:
            self._decisions.keep(series, reason=NOT_JUDGED, sentence=str(exc), alert=True)
        except ModelError as exc:  # no model of that name is active; no other model is used instead
            sentence = f"{exc.sentence} Activate one, then `dicomnode series retry {series.id}`."
            self._decisions.keep(series, reason=NOT_JUDGED, sentence=sentence, alert=True)
        except NodeError:
            raise  # a fault of the disk or the ledger, not of the series
        except Exception as exc:  # noqa: BLE001 (border: one series' judgement)
            log.failure(LOGGER, "judge_failed", series=series.id)
            sentence = f"The headers could not be judged ({type(exc).__name__}); the log holds the traceback."
            self._decisions.keep(series, reason=NOT_JUDGED, sentence=sentence, alert=True)
        else:
            if told is not None:
                self._ledger.settling.judged(series.id, told)  # first: after a crash the verdict is reached once more
            self._decide(series, judged, objections, basis)
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
        self._decisions.keep(series, reason=REMOVED, sentence=sentence, alert=True)

    def _judged(self, instances: Sequence[ArchivedInstance], slices: Sequence[Slice], basis: Basis) -> JudgedByRules:
        kept = any(
            one.sop_class_uid == ENHANCED_MR_IMAGE_STORAGE and one.peer in basis.enhanced_kept for one in instances
        )
        received = [Reception(called_ae=one.called_ae, at=one.received_at) for one in instances]
        return judge_by_rules(slices, basis.rules, model_of=self._model_of, received=received, enhanced=not kept)

    def _with_siblings(self, series: SeriesId, instance: ArchivedInstance, judged: JudgedByRules) -> JudgedByRules:
        """Say how many series of the same name began when this one did: together they may be one stack."""
        own = self._reader.name_of(instance.file)
        beside = self._ledger.settling.series_beside(series, within_s=SIBLINGS_S, limit=SIBLINGS_LIMIT) if own else []
        count = sum(self._reader.name_of(file) == own for file in beside)
        if not count:
            return judged
        sentence = f"{judged.verdict.sentence} {SIBLINGS.format(count=count)}"
        return replace(judged, verdict=replace(judged.verdict, sentence=sentence))

    def _decide(
        self, series: SettledSeries, judged: JudgedByRules | None, objections: Sequence[str], basis: Basis
    ) -> None:
        """Keep or plan the series by its verdict, but keep it if no person has seen a file of it that was set aside."""
        if judged is None:
            sentence = " ".join(objections) or "Every instance of this series was set aside; nothing is left to derive."
            self._decisions.keep(series, reason=SET_ASIDE, sentence=sentence, alert=False)
            return
        verdict = judged.verdict
        notes = (*judged.choice.passed_over, *judged.choice.conflicts, *verdict.notes, *judged.broken)
        if verdict.process and judged.model.why:
            notes += (judged.model.why,)
        alert = verdict.alert or bool(judged.broken)
        if objections:
            notes = (f"Without what was set aside, the verdict would be: {verdict.sentence}", *notes)
            self._decisions.keep(series, reason=SET_ASIDE, sentence=" ".join(objections), alert=alert, notes=notes)
        elif verdict.process:
            self._plan(series, judged, notes, alert=alert, settle=basis.settle)
        else:
            if verdict.reason is VerdictReason.PARTS and self._decisions.wait_for_parts(
                series, verdict.sentence, wait_s=basis.settle.parts_wait_s
            ):
                return
            forward = NOBODY if verdict.reason == VerdictReason.OWN_OUTPUT else _forward(judged.choice.rule)
            self._decisions.keep(
                series, reason=verdict.reason, sentence=verdict.sentence, alert=alert, notes=notes, forward=forward
            )

    def _plan(
        self, series: SettledSeries, judged: JudgedByRules, notes: tuple[str, ...], *, alert: bool,
        settle: SettleSettings,
    ) -> None:  # fmt: skip
        """Plan a job, or have the series wait for its study where its rule derives one series of each."""
        rule, verdict = judged.choice.rule, judged.verdict
        assert rule is not None
        assert judged.parameters is not None
        assert verdict.ratio is not None
        parameters = replace(judged.parameters, ratio=verdict.ratio, utc_offset_min=utc_offset_min(self._clock.now()))
        job = PlannedJob(
            parameters=parameters, deliver_to=rule.deliver_to, sentence=verdict.sentence,
            priority=_PRIORITIES[rule.priority], release=Release(rule.release), late=Late(settle.late),
        )  # fmt: skip
        if rule.select == "most_slices" and series.study_uid is not None and not series.is_wanted:
            candidate = Candidate(
                series=series.id, revision=series.revision, study_uid=series.study_uid, slices=verdict.slices,
                planned=job, notes=notes, alert=alert, forward=_forward(rule),
            )  # fmt: skip
            self._decisions.wait_for_study(candidate, quiet_s=settle.study_quiet_s)
        else:
            self._decisions.plan(series, job, notes=notes, alert=alert, forward=_forward(rule))


def _forward(rule: RuleSettings | None) -> Forward:
    """Return the peers that get a series of this rule as it was received, with the priority."""
    return Forward(peers=rule.forward_originals, priority=_PRIORITIES[rule.priority]) if rule else NOBODY
