"""Rules that derive one series of a study (``select = "most_slices"``): the series that wait, how long, and the choice.

In: series that such a rule takes, and the rows of their studies in the ledger. Out: choices. Nothing is written here.
The ledger records a choice in one transaction, so that a kill leaves all series of a study waiting, or none.

A study has no end, as a series has none. The choice falls when every series of the study that came has been judged, and
nothing of the study has come for ``settle.study_quiet_s``. It is measured on the monotonic clock, from the first look
after the last arrival, and again from the beginning after a restart. What comes after the choice does not change it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from dicomnode.ids import SeriesId
from dicomnode.ledger.states import SeriesState
from dicomnode.ledger.values import Forward, PlannedJob, Selected, SettledSeries, StudySeries
from dicomnode.seams import Clock

Arrivals = tuple[tuple[SeriesId, int, datetime | None], ...]  # series, revision, last instance


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A series that its rule would derive if it had the most slices of its study."""

    series: SeriesId
    revision: int
    study_uid: str
    slices: int
    planned: PlannedJob
    notes: tuple[str, ...]
    alert: bool
    forward: Forward

    @property
    def rule(self) -> str:
        """The name of the rule that takes it."""
        return self.planned.parameters.rule

    @property
    def selected(self) -> Selected:
        """The candidate as the ledger takes it when it is chosen."""
        return Selected(
            series=self.series, revision=self.revision, planned=self.planned, notes=self.notes, alert=self.alert,
            forward=self.forward,
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The decision of one rule on its candidates in one study."""

    planned: Candidate | None  # None: the rule chose another series before
    kept: tuple[tuple[Candidate, str], ...]  # with a sentence that names the chosen one


def most_slices(series: Sequence[tuple[Hashable, int]]) -> list[int]:
    """Return, for each series (its group and its number of slices), the index of the chosen series of its group.

    The one with most slices is chosen, the first of them where several have as many.

    >>> most_slices([("study 1", 20), ("study 1", 60), ("study 2", 8), ("study 1", 60)])
    [1, 1, 2, 1]
    """
    best: dict[Hashable, int] = {}
    for place, (group, slices) in enumerate(series):
        if group not in best or slices > series[best[group]][1]:
            best[group] = place
    return [best[group] for group, _ in series]


def not_selected(rule: str, slices: int, chosen: object, most: int) -> str:
    """Say why a series is kept although its rule takes it."""
    return (
        f"Rule {rule} derives the series with most slices of each study: series {chosen} has {most}, this one has "
        f"{slices}."
    )


class StudyWatch:
    """The candidates that wait for their study. Used by one thread."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._candidates: dict[SeriesId, Candidate] = {}
        self._arrivals: dict[str, tuple[Arrivals, float]] = {}  # of a study, and when they were seen first

    @property
    def is_waiting(self) -> bool:
        """Is there a candidate?"""
        return bool(self._candidates)

    def add(self, candidate: Candidate) -> None:
        """Let a series wait for its study."""
        self._candidates[candidate.series] = candidate

    def holds(self, series: SettledSeries) -> bool:
        """Does this revision of a series wait here?"""
        held = self._candidates.get(series.id)
        return held is not None and held.revision == series.revision

    def forget(self) -> None:
        """Drop all candidates, to be judged anew, because the rules have changed."""
        self._candidates.clear()

    def due(
        self,
        settled: Collection[SettledSeries],
        study: Callable[[str], Sequence[StudySeries]],
        *,
        quiet_s: float,
    ) -> Iterator[Choice]:
        """Yield the choices that are to be made now; a series in one of them waits here no longer.

        ``settled``: the series that wait for a verdict. ``study``: returns the series of a study that came.
        """
        still = {(one.id, one.revision) for one in settled}
        self._candidates = {
            number: one for number, one in self._candidates.items() if (number, one.revision) in still
        }  # fmt: skip
        groups: defaultdict[tuple[str, str], list[Candidate]] = defaultdict(list)
        for _, candidate in sorted(self._candidates.items()):
            groups[candidate.study_uid, candidate.rule].append(candidate)
        self._arrivals = {uid: one for uid, one in self._arrivals.items() if any(uid == key[0] for key in groups)}
        for (study_uid, rule), candidates in groups.items():
            others = study(study_uid)
            earlier = [one.id for one in others if rule in one.rules]
            if earlier or self._is_quiet(study_uid, others, quiet_s):
                for candidate in candidates:
                    del self._candidates[candidate.series]
                yield from _by_earlier_choice(candidates, earlier) if earlier else [_by_slices(candidates)]

    def _is_quiet(self, study_uid: str, others: Sequence[StudySeries], quiet_s: float) -> bool:
        now_s = self._clock.monotonic()
        came = tuple((one.id, one.revision, one.last_at) for one in others)
        before = self._arrivals.get(study_uid)
        if before is None or before[0] != came:
            before = self._arrivals[study_uid] = (came, now_s)
        waits = [one for one in others if one.state in (SeriesState.RECEIVING, SeriesState.SETTLED)]
        return now_s - before[1] >= quiet_s and all(one.id in self._candidates for one in waits)


def _by_earlier_choice(candidates: Sequence[Candidate], earlier: Sequence[SeriesId]) -> Iterator[Choice]:
    """Keep an earlier choice: the new revision of the series that was chosen is planned, and no other series is."""
    for one in candidates:
        if one.series in earlier:
            yield Choice(planned=one, kept=())
        else:
            sentence = f"Rule {one.rule} derives one series of each study, and chose series {earlier[0]} before."
            yield Choice(planned=None, kept=((one, sentence),))


def _by_slices(candidates: Sequence[Candidate]) -> Choice:
    chosen = candidates[most_slices([("", one.slices) for one in candidates])[0]]
    return Choice(
        planned=chosen,
        kept=tuple(
            (one, not_selected(one.rule, one.slices, chosen.series, chosen.slices))
            for one in candidates
            if one is not chosen
        ),
    )
