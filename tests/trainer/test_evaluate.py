"""Judging: the cases, the baseline, and what a model directory says of them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from dicomnode.generators import model_dir
from dicomnode.generators.thin import ThinNet
from dicomnode.imaging.profile import ProfileKind
from tests.support.phantom_sources import phantom
from trainer.cases import cases, prepare
from trainer.checkpoint import Checkpoint
from trainer.evaluate import Row, judge, summarise
from trainer.handoff import write_model
from trainer.loop import Trainee, TrainSettings
from trainer.probes import Probe
from trainer.sources import Split

PROBE = Probe(what="constant 0.5: largest deviation", cubic_dc=0.0, model=0.001)


@pytest.fixture(scope="module")
def row() -> Row:
    """An untrained net on one phantom."""
    case = prepare("philips_mprage", Split.VALIDATION, phantom(3, extent=49), plane=1, ratio=3)
    return judge(ThinNet(channels=8, blocks=1), case)


def untrained() -> Checkpoint:
    """The state of a run before its first step."""
    settings = TrainSettings(steps=1, channels=8, blocks=1)
    weights = Trainee(settings).average
    nothing = torch.zeros_like(weights)
    return Checkpoint(
        step=0,
        settings=dataclasses.asdict(settings),
        schedule=((0, 1),),
        master=weights,
        average=weights,
        first_moment=nothing,
        second_moment=nothing,
    )


def test_an_untrained_net_is_cubic_dc(row: Row) -> None:
    assert row.model_gain == pytest.approx(0.0, abs=1e-3)
    assert row.model.ssim == pytest.approx(row.cubic_dc.ssim, abs=1e-4)
    assert row.residual < 1e-3


def test_cubic_dc_beats_cubic(row: Row) -> None:
    assert row.cubic_dc.psnr > row.cubic.psnr
    assert row.cubic_dc.haarpsi > row.cubic.haarpsi


def test_a_case_holds_whole_slabs_of_the_chosen_axis() -> None:
    volume = phantom(0, extent=49)
    volume[:20] = 0  # the axes differ, so a mix-up would show
    case = prepare("m2307_t2", Split.VALIDATION, volume, plane=0, ratio=4)
    assert len(case.truth) % 4 == 0
    assert len(case.truth) < 49 - 20 + 8
    assert case.truth.shape == case.mask.shape
    across = prepare("m2307_t2", Split.VALIDATION, volume, plane=2, ratio=4)
    np.testing.assert_array_equal(across.truth[:8, :8, :8], case.truth.transpose(2, 0, 1)[:8, :8, :8])


def test_a_wrongly_assumed_profile_costs_consistency_nothing() -> None:
    """The slices are Gaussian, a box is assumed: its averages are the slices all the same."""
    case = prepare("philips_mprage", Split.VALIDATION, phantom(3, extent=49), plane=1, ratio=3)
    row = judge(ThinNet(channels=8, blocks=1), dataclasses.replace(case, profile=ProfileKind.GAUSSIAN))
    assert row.residual < 1e-3
    assert not row.is_contiguous_box


def test_every_validation_cell_and_every_thick_series_is_judged(phantom_data: Path) -> None:
    judged = [
        (case.subject, case.plane, case.ratio, case.profile, case.thickness_over_spacing)
        for case in cases(phantom_data)
    ]
    assert len(judged) == len(set(judged)) == 2 * (9 + 2) + 6
    assert ("philips_mprage", 2, 5, ProfileKind.BOX, 1.0) in judged
    assert ("lumbar_t2_sag", 0, 2, ProfileKind.BOX, 1.0) in judged


def test_a_subject_is_summarised_by_mean_and_smallest_gain(row: Row) -> None:
    rows = [dataclasses.replace(row, model_gain=gain) for gain in (1.0, 3.0)]
    rows.append(dataclasses.replace(row, model_gain=9.0, profile=ProfileKind.GAUSSIAN))  # told apart
    (summary,) = summarise(rows)
    assert (summary.subject, summary.cases) == ("philips_mprage", 2)
    assert (summary.mean_gain, summary.smallest_gain) == (2.0, 1.0)


def test_the_model_directory_is_sealed_small_and_says_what_was_measured(row: Row, tmp_path: Path) -> None:
    folder = tmp_path / "thin"
    digest = write_model(folder, untrained(), [row], [PROBE])
    assert model_dir.verify(folder) == digest
    card = model_dir.read_card(folder)
    assert (card.name, card.kind, card.ratios, card.consistency) == ("thin", "thin", (2, 6), True)
    assert {volume.split for volume in card.data} == {"train", "validation"}
    assert {metric.volume for metric in card.metrics} == {"philips_mprage"}
    rows = json.loads((folder / "metrics.json").read_text())["rows"]
    assert rows[0]["cubic_dc"]["psnr"] == pytest.approx(row.cubic_dc.psnr)
    assert sum(path.stat().st_size for path in folder.iterdir()) < 5 * 2**20


def test_a_model_directory_is_refreshed_in_place(row: Row, tmp_path: Path) -> None:
    first = write_model(tmp_path / "thin", untrained(), [row], [PROBE])
    second = write_model(tmp_path / "thin", untrained(), [dataclasses.replace(row, model_gain=1.0)], [PROBE])
    assert first != second
    assert model_dir.verify(tmp_path / "thin") == second
