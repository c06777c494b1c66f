"""Which series make a pair, and which reason is given for those that make none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.support.mr_series import mr_datasets, write_mr_series, write_series
from tests.support.paired_series import EXTENT, FRAME_UID, RATIO, STUDY_UID, lopsided, write_thick, write_thin
from trainer.data.pairs import Distances, Pairing, load_pairs
from trainer.data.partners import SENTENCES, PairTable, Reason, find_pairs
from trainer.data.scan import scan

NO_PARTNER = "This thick series has no thin partner: {}."


def found(folder: Path, *, allow_contrast: bool = False, pairing: Pairing = Pairing.MONOTONE) -> PairTable:
    return find_pairs(scan([folder]), allow_contrast=allow_contrast, pairing=pairing)


def the_reason(folder: Path) -> tuple[Reason, str]:
    table = found(folder)
    assert not table.pairs
    return table.rejections[0].reason, table.rejections[0].sentence


@pytest.mark.parametrize("pairing", list(Pairing))
def test_a_thick_and_a_thin_series_of_one_study_are_a_pair(pairing: Pairing, tmp_path: Path) -> None:
    thin = lopsided()
    write_thick(tmp_path / "a", thin)
    write_thin(tmp_path / "b", thin)
    table = found(tmp_path, pairing=pairing)
    assert not table.rejections
    (pair,) = table.pairs
    assert (pair.thick.source.label, pair.thin.source.label) == ("subject-1/1", "subject-1/2")
    assert pair.matches == tuple((i, RATIO * i + 1) for i in range(EXTENT // RATIO))
    for apart in pair.distances.values():
        assert isinstance(apart, Distances)
        assert apart.pairs == EXTENT // RATIO
        assert apart.normal_max_mm == pytest.approx(0.5)
    loaded = load_pairs(pair.thick.source, pair.thin.source, matches=pair.matches)
    np.testing.assert_allclose(loaded.thin * loaded.thin_scale, thin, atol=2.5)


def test_a_thin_series_numbered_and_stacked_the_other_way_is_still_matched_by_place(tmp_path: Path) -> None:
    """Its rows run backwards, so its normal points down while the thick one's points up."""
    thin = lopsided()
    write_thick(tmp_path / "a", thin)
    datasets = mr_datasets(slices=EXTENT, slice_spacing_mm=1.0, size=EXTENT)
    for k, dataset in enumerate(datasets):
        dataset.PatientID, dataset.StudyInstanceUID, dataset.FrameOfReferenceUID = "P-1", STUDY_UID, FRAME_UID
        dataset.ImageOrientationPatient = [-1, 0, 0, 0, 1, 0]
        dataset.ImagePositionPatient = [EXTENT - 1.0, 0.0, float(k)]
        dataset.PixelData = thin[k, :, ::-1].astype("<u2").tobytes()
    write_series(tmp_path / "b", datasets)
    (pair,) = found(tmp_path).pairs
    assert pair.matches == tuple((i, RATIO * i + 1) for i in range(EXTENT // RATIO))
    loaded = load_pairs(pair.thick.source, pair.thin.source, matches=pair.matches)
    np.testing.assert_allclose(loaded.thin * loaded.thin_scale, thin, atol=2.5)


def test_a_missing_slice_is_named(tmp_path: Path) -> None:
    paths = write_thick(tmp_path / "a", lopsided())
    paths[5].unlink()
    write_thin(tmp_path / "b", lopsided())
    reason, sentence = the_reason(tmp_path)
    assert reason is Reason.MISSING_SLICE
    assert sentence == "1 slice(s) missing: 8 mm between slices 6 and 8, 4 mm elsewhere."


def test_a_series_that_is_no_stack_keeps_the_verdict_of_the_node(tmp_path: Path) -> None:
    write_thick(tmp_path / "a", lopsided())
    write_mr_series(tmp_path / "b", slices=3)
    assert (Reason.UNUSABLE, "Only 3 slices; at least 5 are needed.") in [
        (rejection.reason, rejection.sentence) for rejection in found(tmp_path).rejections
    ]


def without_partner(folder: Path) -> None:
    write_thick(folder / "a", lopsided())


def of_another_patient(folder: Path) -> None:
    write_thick(folder / "a", lopsided())
    write_thin(folder / "b", lopsided(), patient="P-2")


@pytest.mark.parametrize("make", [without_partner, of_another_patient])
def test_a_study_with_no_thin_partner_says_so(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path)
    assert the_reason(tmp_path) == (
        Reason.NO_THIN_PARTNER,
        NO_PARTNER.format("the study holds no thin series"),
    )


def test_two_thick_series_of_one_study_are_told_apart_by_orientation(tmp_path: Path) -> None:
    write_thick(tmp_path / "a", lopsided())
    datasets = mr_datasets(attributes={"StudyInstanceUID": STUDY_UID, "ImageOrientationPatient": [1, 0, 0, 0, 0, 1]})
    for k, dataset in enumerate(datasets):
        dataset.ImagePositionPatient = [0.0, 4.0 * k, 0.0]
    write_series(tmp_path / "b", datasets)
    assert [(rejection.labels, rejection.sentence) for rejection in found(tmp_path).rejections] == [
        (("subject-1/1",), NO_PARTNER.format("the study's other series are thick too")),
        (("subject-1/1", "subject-1/2"), "Their orientations differ: 90° between the slice normals."),
        (("subject-1/2",), NO_PARTNER.format("the study's other series are thick too")),
    ]


def test_another_frame_of_reference_is_no_partner(tmp_path: Path) -> None:
    write_thick(tmp_path / "a", lopsided())
    write_thin(tmp_path / "b", lopsided(), FrameOfReferenceUID="2.25.3")
    assert the_reason(tmp_path) == (Reason.FRAME_OF_REFERENCE, SENTENCES[Reason.FRAME_OF_REFERENCE])


def test_another_orientation_is_named_by_its_angle(tmp_path: Path) -> None:
    write_thick(tmp_path / "a", lopsided())
    angle = np.radians(10)
    turned = [1, 0, 0, 0, float(np.cos(angle)), float(np.sin(angle))]
    datasets = mr_datasets(slices=EXTENT, slice_spacing_mm=1.0, size=EXTENT)
    for k, dataset in enumerate(datasets):
        dataset.StudyInstanceUID, dataset.FrameOfReferenceUID = STUDY_UID, FRAME_UID
        dataset.ImageOrientationPatient = turned
        dataset.ImagePositionPatient = [0.0, -k * float(np.sin(angle)), k * float(np.cos(angle))]
    write_series(tmp_path / "b", datasets)
    assert the_reason(tmp_path) == (
        Reason.ORIENTATION,
        "Their orientations differ: 10° between the slice normals.",
    )


def test_series_of_different_places_do_not_overlap(tmp_path: Path) -> None:
    write_thick(tmp_path / "a", lopsided())
    write_thin(tmp_path / "b", lopsided(), first_mm=40.0)
    reason, sentence = the_reason(tmp_path)
    assert reason is Reason.NO_OVERLAP
    assert sentence == "They do not overlap: 3 of 12 thick slices have a thin one within reach."


def test_series_side_by_side_do_not_overlap(tmp_path: Path) -> None:
    write_thick(tmp_path / "a", lopsided())
    write_thin(tmp_path / "b", lopsided(), corner_mm=(40.0, 0.0))
    reason, sentence = the_reason(tmp_path)
    assert reason is Reason.NO_OVERLAP
    assert sentence == "They do not overlap: 15% of the thick field of view is in the thin one."


def test_the_published_rule_that_runs_out_of_slices_is_a_reason_and_not_a_crash(tmp_path: Path) -> None:
    write_thick(tmp_path / "a", lopsided())
    write_thin(tmp_path / "b", lopsided()[:30])
    (rejection,) = found(tmp_path, pairing=Pairing.PAPER).rejections
    assert rejection.reason is Reason.PAIRING
    assert "no thin slice left for thick slice" in rejection.sentence


def test_another_anatomy_does_not_agree(tmp_path: Path) -> None:
    write_thick(tmp_path / "a", lopsided())
    other = lopsided(12)
    other[:, :16] = 0
    other[30:, 24:] = 0
    write_thin(tmp_path / "b", other)
    reason, sentence = the_reason(tmp_path)
    assert reason is Reason.REGISTRATION
    assert sentence.startswith("The registration does not agree: ")


def test_another_contrast_is_a_pair_only_where_it_is_allowed(tmp_path: Path) -> None:
    write_thick(tmp_path / "a", lopsided())
    write_thin(tmp_path / "b", lopsided(), EchoTime="20")
    (rejection,) = found(tmp_path).rejections
    assert (rejection.reason, rejection.sentence) == (
        Reason.CONTRAST,
        "Their contrast differs: Echo Time 100 and 20 ms.",
    )
    assert rejection.pair is not None
    (pair,) = found(tmp_path, allow_contrast=True).pairs
    assert pair.contrast == ("Echo Time 100 and 20 ms",)


def test_every_reason_has_a_sentence() -> None:
    assert set(SENTENCES) == set(Reason)
