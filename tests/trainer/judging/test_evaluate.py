"""A whole evaluation on phantoms: what is judged, what is refused before anything is computed, what is noted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dicomnode.errors import InputError
from dicomnode.generators.card import DataRow
from dicomnode.generators.kinds import Kind
from tests.support.model_folders import random_srresnet, random_thin, write_paper, write_thin
from tests.support.paired_series import lopsided, write_thick
from tests.support.paired_series import write_thin as write_thin_series
from tests.support.phantom_sources import phantom, write_series
from trainer.data.pairs import Origin
from trainer.judging.cases import Selection
from trainer.judging.evaluate import NO_FEATURES, SCANNED, Evaluation, Request, evaluate, preferred_ratio, study_cases
from trainer.judging.figures import Figure
from trainer.judging.paper_table import LOW

SMALL = Selection(planes=(0,), ratios=(4,), mismatches=False)


def write_inventory(folder: Path) -> Path:
    """A thin volume to judge on, and a thick one; ``trained`` is not for judging."""
    rows = (("thin", "one", "validation"), ("thick", "two", "unseen"), ("trained", "three", "train"))
    for number, (name, subject, split) in enumerate(rows):
        voxels = phantom(number, extent=37)
        is_thick = split == "unseen"
        write_series(
            folder / name, voxels[12:24] if is_thick else voxels, slice_spacing_mm=3.0 if is_thick else 1.0,
            patient=subject,
        )  # fmt: skip
    text = "".join(
        f'[[source]]\npath = "{name}"\nlabel = "{name}-label"\n'
        f'subject = "{subject}"\nsplit = "{split}"\nlicence = "CC0"\n'
        for name, subject, split in rows
    )
    (folder / "inventory.toml").write_text(text)
    return folder / "inventory.toml"


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("studies")
    write_inventory(folder)
    return folder


@pytest.fixture(scope="module")
def done(studies: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Evaluation, tuple[Figure, ...], list[str]]:
    """Both volumes, a slice network, pairs and probes."""
    folder = tmp_path_factory.mktemp("model")
    model = write_paper(folder / "net", Kind.SLICE, net=random_srresnet(outputs=1, channels=4, blocks=1), name="net")
    told: list[str] = []
    request = Request(
        studies=(studies,), inventory=studies / "inventory.toml", models=(model,), selection=SMALL,
        with_paper_table=True, with_probes=True,
    )  # fmt: skip
    evaluation, figures = evaluate(request, report=told.append)
    return evaluation, figures, told


def test_what_may_be_judged_is_judged_by_every_method(
    done: tuple[Evaluation, tuple[Figure, ...], list[str]],
) -> None:
    evaluation, _, told = done
    judged = {(row.case.label, row.method) for row in evaluation.rows}
    methods = ["nearest", "linear", "cubic", "cubic-dc", "net", "net, not projected"]
    assert judged == {(label, method) for label in ("thin-label", "thick-label") for method in methods}
    assert [method.name for method in evaluation.methods] == methods
    assert {source[0] for source in evaluation.sources} == {"thin-label", "thick-label"}
    assert {row.group for row in evaluation.subjects} == {"thin truth", "re-thickened"}
    assert sum("ratio 4: " in line for line in told) >= len(methods), "a line while each is done"


def test_pairs_probes_and_pictures_come_along(done: tuple[Evaluation, tuple[Figure, ...], list[str]]) -> None:
    evaluation, figures, _ = done
    table = {(row.subject, row.method) for row in evaluation.paper_table}
    assert {("one", LOW), ("one", "net"), ("one", "net, as served"), ("one", "cubic")} <= table
    assert {row.origin for row in evaluation.paper_table} == {Origin.SIMULATED}
    assert {one.method for one in evaluation.probes} == {"net", "net, not projected"}
    assert len(figures) == 2 + 2 + 1, "both reformats of both volumes, and a slice pair"
    titles = [panel.title for panel in figures[0].pictures]
    assert titles == ["low", "cubic-dc", "net", "net, not projected", "high"]


def test_the_papers_table_can_be_had_without_judging_volumes(studies: Path, tmp_path: Path) -> None:
    """Its rows are the same; a slice network is not run on whole stacks."""
    net = write_paper(tmp_path / "net", Kind.SLICE, net=random_srresnet(outputs=1, channels=4, blocks=1), name="net")
    request = Request(
        studies=(studies,), inventory=studies / "inventory.toml", models=(net, "thin"), selection=SMALL,
        with_paper_table=True, with_volumes=False,
    )  # fmt: skip
    evaluation, figures = evaluate(request, report=lambda _line: None)
    assert not evaluation.rows
    assert "whole volumes: not judged, slices only" in evaluation.notes
    assert len(figures) == 1
    found = {row.method for row in evaluation.paper_table}
    assert {LOW, "nearest", "cubic-dc", "net", "thin, as served"} <= found
    assert "net, as served" not in found


def test_a_table_without_simulated_pairs_says_why(studies: Path) -> None:
    sides = Selection(planes=(1,), ratios=(4,), mismatches=False)
    request = Request(studies=(studies,), inventory=studies / "inventory.toml", selection=sides, with_paper_table=True)
    evaluation, _ = evaluate(request, report=lambda _line: None)
    assert not evaluation.paper_table
    assert "paper's table: no simulated pairs, which are of plane 0" in evaluation.notes


def test_what_was_not_computed_is_said(done: tuple[Evaluation, tuple[Figure, ...], list[str]]) -> None:
    evaluation, _, _ = done
    assert NO_FEATURES in evaluation.notes
    assert any(note.startswith("no pair: thick-label") for note in evaluation.notes)
    assert SCANNED not in evaluation.notes


def test_scanned_folders_are_judged_and_the_doubt_is_said(studies: Path) -> None:
    request = Request(studies=(studies / "thick", studies / "thin"), selection=SMALL)
    evaluation, _ = evaluate(request, report=lambda _line: None)
    assert SCANNED in evaluation.notes
    assert {row.case.subject for row in evaluation.rows} == {"subject-1", "subject-2"}


def test_a_real_pair_is_judged_slice_by_slice_where_its_contrast_may_differ(tmp_path: Path) -> None:
    write_thick(tmp_path / "thick", lopsided(), EchoTime="80")
    write_thin_series(tmp_path / "thin", lopsided(), EchoTime="20")
    request = Request(studies=(tmp_path,), selection=SMALL, with_paper_table=True, allow_contrast=True)
    evaluation, _ = evaluate(request, report=lambda _line: None)
    assert Origin.REAL in {row.origin for row in evaluation.paper_table}


def test_a_model_is_not_judged_on_whom_it_was_trained_on(studies: Path, tmp_path: Path) -> None:
    data = (DataRow(volume="v", subject="one", split="train", licence="CC0"),)
    model = write_thin(tmp_path / "net", net=random_thin(blocks=1), data=data)
    request = Request(studies=(studies,), inventory=studies / "inventory.toml", models=(model,), selection=SMALL)
    with pytest.raises(InputError, match="Model small was trained on one"):
        evaluate(request, report=lambda line: pytest.fail(f"computed before it was refused: {line}"))


def test_series_too_short_to_judge_are_one_sentence(tmp_path: Path) -> None:
    write_series(tmp_path / "thick", phantom(0, extent=49)[20:26], slice_spacing_mm=4.0)
    with pytest.raises(InputError, match="No volume has slices enough to be judged"):
        evaluate(Request(studies=(tmp_path,)), report=lambda _line: None)


@pytest.mark.parametrize(("ratios", "preferred"), [((3, 4, 5), 4), ((2, 3), 3), ((6,), 6)])
def test_the_one_ratio_that_is_shown_is_four_where_it_was_asked_for(ratios: tuple[int, ...], preferred: int) -> None:
    assert preferred_ratio(Selection(ratios=ratios)) == preferred


def test_readers_see_every_method_on_every_case_or_the_study_is_refused(studies: Path, tmp_path: Path) -> None:
    inventory = studies / "inventory.toml"
    model = write_thin(tmp_path / "all", net=random_thin(blocks=1))
    request = Request(studies=(studies,), inventory=inventory, models=(model,), selection=SMALL)
    found = list(study_cases(request, report=lambda _line: None))
    assert [(case.label, list(results)) for case, results in found] == [
        ("thin-label", ["cubic-dc", "small"]),
        ("thick-label", ["cubic-dc", "small"]),
    ]
    assert all(np.isfinite(stack).all() for _, results in found for stack in results.values())
    picky = write_thin(tmp_path / "some", net=random_thin(blocks=1), ratios=(4, 5))
    refused = Request(studies=(studies,), inventory=inventory, models=(picky,), selection=SMALL)
    with pytest.raises(InputError, match="was not made for ratio 2"):
        list(study_cases(refused, report=lambda _line: None))
