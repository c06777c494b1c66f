"""The tour: what a new user sees is true, and what is not true is said."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio

from dicomnode.cli.main import main
from dicomnode.demo.measure import gain_db
from dicomnode.demo.tour import ALL_SAMPLES, Sample, TourReport, run_tour
from dicomnode.errors import InputError
from dicomnode.imaging.body import body_mask, body_scale
from dicomnode.imaging.frame import read_frames
from dicomnode.imaging.stack import load_volume
from tests.support.model_folders import random_stack
from tests.support.mr_series import write_mr_series


def _tour(out: Path, *samples: Sample) -> TourReport:
    said: list[str] = []
    report = run_tour(out, say=said.append, samples=samples)
    assert said[0].startswith("starting")
    assert said[-1] == "stopping"
    return report


@pytest.mark.timeout(900)
def test_both_samples_go_through_and_come_out_whole_and_better_than_interpolated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["demo", "--out", str(tmp_path), "--json"])
    shown = capsys.readouterr()
    assert caught.value.code == 0, shown
    report = json.loads(shown.out)
    prostate, brain = report["samples"]
    assert (prostate["sent"], prostate["derived"], prostate["found"]) == (19, 57, 57)
    assert (brain["sent"], brain["derived"], brain["found"]) == (37, 148, 148)
    assert (prostate["spacing_before_mm"], prostate["spacing_after_mm"]) == (3.0, 1.0)
    assert (brain["spacing_before_mm"], brain["spacing_after_mm"]) == (4.0, 1.0)
    assert prostate["gain_db"] is None, "nobody knows the truth of it"
    for line in report["samples"]:
        assert line["is_whole"]
        assert line["problem"] == ""
        assert min(line["stages"].values()) >= 0
        assert line["stages"]["derive"] > 0
    assert [Path(picture).read_bytes()[:4] for picture in report["pictures"]] == [b"\x89PNG"] * 2
    if report["model"] != "cubic-dc":
        assert brain["split"] == "validation", "a gain on training data would be no claim"
        assert brain["gain_db"] > 0


def test_a_series_that_is_kept_is_a_problem_with_the_verdict_s_sentence(tmp_path: Path) -> None:
    write_mr_series(tmp_path / "few", slices=4)
    report = _tour(tmp_path / "out", Sample(name="few", thick=tmp_path / "few"))
    (line,) = report.samples
    assert not report.is_good
    assert line.problem == "Only 4 slices; at least 5 are needed."
    assert report.pictures == ()


def test_a_missing_sample_is_a_sentence_before_anything_is_started(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="brain"):
        run_tour(tmp_path, say=pytest.fail, samples=[Sample(name="brain", thick=tmp_path / "nosuch")])


def test_the_samples_are_what_the_table_says() -> None:
    prostate, brain = ALL_SAMPLES
    assert brain.truth is not None
    thick = load_volume(read_frames(brain.files)).volume
    truth = load_volume(read_frames(sorted(brain.truth.glob("*.dcm")))).volume
    assert len(truth.voxels) == 4 * len(thick.voxels)
    assert thick.slice_spacing_mm == pytest.approx(4 * truth.slice_spacing_mm)
    means = truth.voxels.reshape(-1, 4, *truth.voxels.shape[1:]).mean(axis=1)
    assert np.abs(means - thick.voxels).max() <= 0.51, "each thick slice is the mean of its four thin ones, rounded"
    assert len(prostate.files) == 19


def test_the_gain_is_the_difference_of_two_psnr_inside_the_body() -> None:
    """Against scikit-image, on the voxels of the mask alone."""
    truth = random_stack(12, 40, 40)
    noise = np.random.default_rng(3).normal(size=truth.voxels.shape).astype(np.float32)
    near, far = (replace(truth, voxels=truth.voxels + np.float32(amount) * noise) for amount in (10.0, 30.0))
    scale = np.float32(body_scale(truth.voxels))
    mask = body_mask(truth.voxels / scale)
    expected = [
        peak_signal_noise_ratio(truth.voxels[mask] / scale, volume.voxels[mask] / scale, data_range=1.0)  # type: ignore[no-untyped-call]
        for volume in (near, far)
    ]
    assert gain_db(near, far, truth) == pytest.approx(expected[0] - expected[1], abs=1e-4)
