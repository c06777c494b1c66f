"""Of the series of a study that a rule takes, the one with most slices is derived, and the others say which it was."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from dicomnode.errors import InputError
from dicomnode.ids import SeriesId
from dicomnode.ledger.values import NOBODY, NotSelected, PlannedJob, Selected
from dicomnode.settings.load import parse
from dicomnode.settings.models import SettleSettings
from tests.ledger.scene import plan_for
from tests.support.mr_series import mr_datasets
from tests.support.quiet_node import QuietNode, quiet_node

STUDY_QUIET_S = SettleSettings().study_quiet_s


@pytest.fixture
def study() -> str:
    """The UID of a study."""
    return str(generate_uid())


@pytest.fixture
def node(tmp_path: Path) -> Iterator[QuietNode]:
    """A node whose rule derives one series of each study."""
    with quiet_node(tmp_path, select="most_slices") as started:
        yield started


def _send(node: QuietNode, study: str, slices: int) -> SeriesId:
    datasets = _datasets(study, slices)
    assert node.send(datasets) == [0] * slices
    return node.number_of(datasets)


def _datasets(study: str, slices: int) -> list[Dataset]:
    return mr_datasets(slices=slices, attributes={"StudyInstanceUID": study})


def _be_quiet(node: QuietNode) -> None:
    """Let the study become quiet, too."""
    node.settle()
    node.clock.advance(STUDY_QUIET_S)
    node.settler.turn()


def _states(node: QuietNode) -> list[tuple[int, str, str | None]]:
    return [(line.id, line.state, line.reason) for line in reversed(node.reader.series_list())]


def test_the_series_with_most_slices_of_each_study_is_derived_when_the_study_is_quiet(
    node: QuietNode, study: str
) -> None:
    few, most, fewer = (_send(node, study, slices) for slices in (8, 10, 6))
    alone = _send(node, str(generate_uid()), 6)
    node.settle()
    node.clock.advance(STUDY_QUIET_S - 1)
    node.settler.turn()
    assert {state for _, state, _ in _states(node)} == {"settled"}, "the study is not quiet yet"
    assert node.explain(few).sentences[0] == (
        "Rule all derives one series of each study; it chooses when nothing of the study has come for 600 s "
        "(settle.study_quiet_s)."
    )
    node.clock.advance(1)
    node.settler.turn()
    assert _states(node) == [
        (few, "kept", "not_selected"), (most, "planned", "process"), (fewer, "kept", "not_selected"),
        (alone, "planned", "process"),
    ]  # fmt: skip
    assert node.explain(few).sentences[0] == (
        f"Rule all derives the series with most slices of each study: series {most} has 10, this one has 8. "
        f"`dicomnode series release {few}` derives this one, too."
    )
    assert node.attention() == {}, "nothing waits for a person"


def test_of_several_with_as_many_slices_the_one_that_came_first_is_derived(node: QuietNode, study: str) -> None:
    first, second = _send(node, study, 8), _send(node, study, 8)
    _be_quiet(node)
    assert _states(node) == [(first, "planned", "process"), (second, "kept", "not_selected")]


def test_what_still_comes_of_the_study_is_waited_for(node: QuietNode, study: str) -> None:
    first = _send(node, study, 6)
    node.settle()
    node.clock.advance(STUDY_QUIET_S - 1)
    late = _datasets(study, 10)
    node.send(late[:5])
    node.clock.advance(20)
    node.settler.turn()
    assert node.explain(first).state == "settled"
    node.send(late[5:])
    _be_quiet(node)
    assert _states(node) == [(first, "kept", "not_selected"), (node.number_of(late), "planned", "process")]


def test_a_series_that_the_rule_does_not_take_or_that_is_not_fit_is_no_rival(tmp_path: Path, study: str) -> None:
    with quiet_node(tmp_path, select="most_slices", match={"SeriesDescription": "T2*"}) as node:
        unfit = mr_datasets(slices=12, slice_spacing_mm=1.0, attributes={"StudyInstanceUID": study})
        other = mr_datasets(slices=14, attributes={"StudyInstanceUID": study, "SeriesDescription": "T1"})
        node.send([*unfit, *other])
        taken = _send(node, study, 6)
        _be_quiet(node)
        assert _states(node)[-1] == (taken, "planned", "process")
        assert [reason for *_, reason in _states(node)[:2]] == ["already_thin", "no_rule"]


def test_after_the_choice_it_stands_and_a_person_may_derive_another_one_too(node: QuietNode, study: str) -> None:
    first = _send(node, study, 6)
    _be_quiet(node)
    more = _send(node, study, 12)
    node.settle()
    assert _states(node) == [(first, "planned", "process"), (more, "kept", "not_selected")]
    assert node.explain(more).sentences[0] == (
        f"Rule all derives one series of each study, and chose series {first} before. "
        f"`dicomnode series release {more}` derives this one, too."
    )
    node.ledger.operator.retry_series(more, "operator")
    node.settler.turn()
    assert node.explain(more).reason == "not_selected"
    node.ledger.operator.release_series(more, "operator")
    node.settler.turn()
    assert node.explain(more).state == "planned"
    with pytest.raises(InputError, match="no held job to release"):
        node.ledger.operator.release_series(first, "operator")


def test_the_chosen_series_stays_chosen_with_a_late_slice_and_gives_way_when_its_job_is_cancelled(
    node: QuietNode, study: str
) -> None:
    datasets = _datasets(study, 7)
    node.send(datasets[:-1])
    chosen = node.number_of(datasets)
    other = _send(node, study, 6)
    _be_quiet(node)
    node.finish_job()
    node.send(datasets[-1:])
    node.settle()
    explained = node.explain(chosen)
    assert (explained.state, explained.revision) == ("planned", 2), "at once: it was chosen before"
    node.ledger.operator.cancel_series(chosen, "operator")
    node.ledger.operator.retry_series(other, "operator")
    node.settler.turn()
    assert node.explain(other).reason == "not_selected", "the first revision of the chosen one was derived"


def test_a_restart_before_the_choice_changes_it_in_no_way(tmp_path: Path, study: str) -> None:
    with quiet_node(tmp_path, select="most_slices") as node:
        few, most = _send(node, study, 6), _send(node, study, 8)
        node.settle()
    with quiet_node(tmp_path, select="most_slices") as node:
        node.settler.turn()
        assert [state for _, state, _ in _states(node)] == ["settled", "settled"]
        node.clock.advance(STUDY_QUIET_S)
        node.settler.turn()
        assert _states(node) == [(few, "kept", "not_selected"), (most, "planned", "process")]


def test_new_rules_judge_what_waits_anew(node: QuietNode, study: str) -> None:
    few, most = _send(node, study, 6), _send(node, study, 8)
    node.settle()
    rules = parse({"rule": [{"name": "each", "model": "cubic-dc"}]}).rule
    node.settler.take(SettleSettings(), rules)
    node.settler.turn()
    assert _states(node) == [(few, "planned", "process"), (most, "planned", "process")]


def test_a_choice_is_recorded_as_a_whole_or_not_at_all(node: QuietNode, study: str) -> None:
    few, most = _send(node, study, 6), _send(node, study, 8)
    node.settle()
    chosen = _selected(most, plan_for())
    with pytest.raises(Exception, match="not JSON serializable"):
        node.ledger.settling.choose(chosen, [_unselected(few, notes=(object(),))])
    assert [state for _, state, _ in _states(node)] == ["settled", "settled"], "no job without the verdict beside it"
    stale = Selected(series=most, revision=2, planned=plan_for(), notes=(), alert=False, forward=NOBODY)
    assert node.ledger.settling.choose(stale, [_unselected(few)]) == (None, [])
    assert [state for _, state, _ in _states(node)] == ["settled", "settled"]
    job, kept = node.ledger.settling.choose(chosen, [_unselected(few)])
    assert (job is not None, kept) == (True, [few])


def _selected(series: SeriesId, planned: PlannedJob) -> Selected:
    return Selected(series=series, revision=1, planned=planned, notes=(), alert=False, forward=NOBODY)


def _unselected(series: SeriesId, *, notes: tuple[object, ...] = ()) -> NotSelected:
    return NotSelected(
        series=series, revision=1, sentence="another one", notes=notes, alert=False, forward=NOBODY,  # type: ignore[arg-type]
    )  # fmt: skip
