"""From a request to a plan: what is trained on, and what is refused before anything is written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from dicomnode import ids
from dicomnode.errors import InputError
from tests.support.paired_series import averaged, lopsided
from tests.support.phantom_sources import phantom, write_series
from tests.support.recipes import nifti_sources
from tests.support.shared import DATA, WEIGHTS, needs_shared
from trainer.data.sources import Split
from trainer.training.plan import PairKind, Use
from trainer.training.prepare import Request, dry_run, prepare

CPU = torch.device("cpu")


def test_thin_series_are_split_by_subject(tmp_path: Path) -> None:
    nifti_sources(tmp_path, [Split.TRAIN] * 3)
    plan = prepare(Request(studies=(tmp_path,), recipe="thin", steps=(10,)), CPU)
    assert plan.steps == (10,)
    assert [source.split for source in plan.sources].count(Split.VALIDATION) == 1
    assert {source.use for source in plan.sources} == {Use.THIN}
    assert all(source.licence == "not stated" for source in plan.sources)


def test_steps_may_be_given_for_each_stage(tmp_path: Path) -> None:
    (tmp_path / "studies").mkdir()
    nifti_sources(tmp_path / "studies", [Split.TRAIN])
    file = tmp_path / "vgg19.safetensors"
    save_file({"features.0.weight": torch.zeros(64, 3, 3, 3), "features.0.bias": torch.zeros(64)}, file)
    request = Request(
        studies=(tmp_path / "studies",), recipe="thin-sharp", steps=(0, 7), begin_with="thin",
        features="vgg19:relu1_1", features_file=file, features_sha256=ids.digest(file.read_bytes()),
    )  # fmt: skip
    plan = prepare(request, CPU)
    assert plan.steps == (0, 7)
    assert plan.begin_digest is not None
    with pytest.raises(InputError, match="3 numbers of steps"):
        prepare(replace(request, steps=(1, 2, 3), begin_with=None), CPU)


def test_a_model_of_another_network_is_no_beginning(tmp_path: Path) -> None:
    nifti_sources(tmp_path, [Split.TRAIN])
    with pytest.raises(InputError, match="not those of the recipe's network"):
        prepare(Request(studies=(tmp_path,), recipe="paper-model1", features="vgg19:relu1_1", begin_with="thin"), CPU)


def test_a_thick_stack_is_of_use_for_its_in_plane_detail_only(tmp_path: Path) -> None:
    write_series(tmp_path / "thick", phantom(0, extent=41)[:12], slice_spacing_mm=4.0)
    with pytest.raises(InputError, match="no thin series to train on"):
        prepare(Request(studies=(tmp_path,)), CPU)
    plan = prepare(Request(studies=(tmp_path,), in_plane=True), CPU)
    assert [source.use for source in plan.sources] == [Use.IN_PLANE]


def test_a_study_with_no_thin_partner_says_so(tmp_path: Path) -> None:
    write_series(tmp_path / "thick", phantom(0, extent=41)[:12], slice_spacing_mm=4.0)
    with pytest.raises(InputError, match=r"no real pairs to train on; subject-1/1: .*no thin partner"):
        prepare(Request(studies=(tmp_path,), recipe="paper-model1", pairs=PairKind.REAL), CPU)


def test_the_same_pictures_in_both_splits_are_a_leak(tmp_path: Path) -> None:
    voxels = phantom(0, extent=41)
    write_series(tmp_path / "train", voxels, slice_spacing_mm=1.0, patient="A")
    write_series(tmp_path / "judge", np.ascontiguousarray(voxels[::-1]), slice_spacing_mm=1.0, patient="B")
    request = Request(studies=(tmp_path / "train",), validate=(tmp_path / "judge",))
    with pytest.raises(InputError):
        prepare(request, CPU)


def test_a_thick_stack_whose_rows_teach_and_the_thin_volume_of_the_same_head_are_a_leak(tmp_path: Path) -> None:
    head = lopsided(extent=96)
    write_series(tmp_path / "train", averaged(head), slice_spacing_mm=4.0, patient="A")
    write_series(tmp_path / "judge", head, slice_spacing_mm=1.0, patient="B")
    request = Request(studies=(tmp_path / "train",), validate=(tmp_path / "judge",), in_plane=True)
    with pytest.raises(InputError, match="show the same image content"):
        prepare(request, CPU)


def test_features_that_are_not_the_file_stated_are_refused_before_training(tmp_path: Path) -> None:
    nifti_sources(tmp_path, [Split.TRAIN])
    features = tmp_path / "features.safetensors"
    save_file({"features.0.weight": torch.zeros(1)}, features)
    request = Request(
        studies=(tmp_path,), recipe="paper-model1", features="vgg19:relu3_4", features_file=features,
        features_sha256="0" * 64,
    )  # fmt: skip
    with pytest.raises(InputError, match="sha256"):
        prepare(request, CPU)


@needs_shared
def test_the_one_real_pair_trains_when_its_contrast_is_allowed() -> None:
    """The one real pair: T1 TSE 3.3 mm with T1 FLASH 0.9 mm, 18 slice pairs."""
    request = Request(
        studies=(DATA / "mimbcd_uta11",), recipe="paper-model1", pairs=PairKind.REAL, features="vgg19:relu3_4",
        features_file=WEIGHTS / "vgg19_relu3_4.safetensors",
        features_sha256="8c6aa0e5fbf5192176b82ed155229e8a20845ffaeacc105d9eb40b96d2f8ef72",
    )  # fmt: skip
    with pytest.raises(InputError, match="contrast differs"):
        prepare(request, CPU)
    plan = prepare(replace(request, allow_contrast=True), CPU)
    (pair,) = plan.real
    assert len(pair.matches) == 18
    assert pair.registration is not None
    assert {source.use for source in plan.sources} == {Use.THICK, Use.THIN}


def test_the_inventory_decides_what_is_trained_on(tmp_path: Path) -> None:
    """An unseen series is neither trained on nor judged on."""
    for number, label in enumerate(("stroke", "m2307", "prostate")):
        write_series(tmp_path / label, phantom(number, extent=41), slice_spacing_mm=1.0, patient=label)
    rows = [
        f'[[source]]\npath = "{label}"\nlabel = "{label}"\nsubject = "{label}"\nsplit = "{split}"\nlicence = "CC0"\n'
        for label, split in (("stroke", "train"), ("m2307", "validation"), ("prostate", "unseen"))
    ]
    inventory = tmp_path / "mine.toml"
    inventory.write_text("".join(rows))
    plan = prepare(Request(studies=(tmp_path,), inventory=inventory, steps=(10,), in_plane=True), CPU)
    assert [(source.label, source.split) for source in plan.sources] == [
        ("stroke", Split.TRAIN),
        ("m2307", Split.VALIDATION),
    ]


@pytest.mark.parametrize("seed", range(6))
def test_nobody_is_drawn_to_be_judged_on_whose_series_cannot_be_used(seed: int, tmp_path: Path) -> None:
    """Two people of eight have a thin series: one learns, one judges, whatever the seed."""
    nifti_sources(tmp_path, [Split.TRAIN] * 2)
    for number in range(6):
        write_series(tmp_path / str(number), phantom(0, extent=16)[:3], slice_spacing_mm=1.0, patient=f"P{number}")
    told: list[str] = []
    plan = prepare(Request(studies=(tmp_path,), steps=(10,), seed=seed), CPU, report=told.append)
    assert sorted(source.split for source in plan.sources) == [Split.TRAIN, Split.VALIDATION]
    (line,) = told
    assert line.startswith(
        "Learns from 1 series of 1 patient; is judged on 1 series of 1 patient. Left out: 6 series: "
    )
    assert "6 × Only 3 slices; at least 5 are needed." in line
    assert line.endswith("--dry-run shows every series and its reason.")
    assert "\n" not in line


def test_the_dry_run_draws_as_the_training_does(tmp_path: Path) -> None:
    nifti_sources(tmp_path, [Split.TRAIN] * 2)
    write_series(tmp_path / "thick", phantom(0, extent=41)[:12], slice_spacing_mm=4.0)
    (tmp_path / "notes.txt").write_text("nothing")
    request = Request(studies=(tmp_path,), steps=(10,), seed=3)
    shown = dry_run(request)
    planned = {source.label: source.split for source in prepare(request, CPU).sources}
    assert {row.label: row.split for row in shown.series if row.label in planned} == planned
    assert set(planned.values()) == {Split.TRAIN, Split.VALIDATION}
    assert shown.notes[0] == "Passed over: notes.txt: neither DICOM nor NIfTI."


def test_that_nobody_is_left_to_judge_on_is_said_before_the_training(tmp_path: Path) -> None:
    nifti_sources(tmp_path, [Split.TRAIN])
    told: list[str] = []
    prepare(Request(studies=(tmp_path,), steps=(10,)), CPU, report=told.append)
    assert told[0].startswith("Learns from 1 series of 1 patient; nobody is left to judge it on.")


def test_an_image_that_breaks_off_leaves_its_series_out_and_the_training_goes_on(tmp_path: Path) -> None:
    nifti_sources(tmp_path, [Split.TRAIN] * 2)
    broken = write_series(tmp_path / "a", phantom(5, extent=16), slice_spacing_mm=1.0)[7]
    broken.write_bytes(broken.read_bytes()[:-50])
    told: list[str] = []
    plan = prepare(Request(studies=(tmp_path,), steps=(10,)), CPU, report=told.append)
    assert len(plan.sources) == 2
    assert f"The file {broken.name} breaks off within its pixels." in told[0]
