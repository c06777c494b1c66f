"""What is trained on must not come back where it is judged: neither the person nor the picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from dicomnode.errors import InputError
from tests.support.paired_series import averaged, lopsided, write_thin
from tests.support.phantom_sources import write_series
from trainer.data.leakage import check_leakage, refuse_shared_people
from trainer.data.sources import Source, Split

Voxels = NDArray[np.float32]


def source(label: str, paths: list[Path], *, subject: str, split: Split) -> Source:
    return Source(label=label, subject=subject, split=split, licence="MIT", paths=tuple(paths))


def nifti(path: Path, voxels: Voxels) -> list[Path]:
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), path)  # type: ignore[no-untyped-call]
    return [path]


def leak_of(folder: Path, trained: Voxels, judged: Voxels) -> str | None:
    """The sentence that training on one and judging on the other gives, as NIfTI files of two people."""
    try:
        check_leakage(
            [
                source("ours", nifti(folder / "a.nii", trained), subject="one", split=Split.TRAIN),
                source("theirs", nifti(folder / "b.nii", judged), subject="two", split=Split.VALIDATION),
            ]
        )
    except InputError as error:
        return error.sentence
    return None


def test_two_different_heads_are_no_leak(tmp_path: Path) -> None:
    assert leak_of(tmp_path, lopsided(1), lopsided(2)) is None


RE_EXPORTS: dict[str, Callable[[Voxels], Voxels]] = {
    "other grey values": lambda voxels: voxels * 0.37 + 12,
    "another gamma": lambda voxels: np.power(voxels, 0.8),
    "slices the other way round": lambda voxels: voxels[::-1],
    "rows and columns exchanged": lambda voxels: voxels.transpose(0, 2, 1),
    "mirrored": lambda voxels: voxels[:, :, ::-1],
    "along another axis": lambda voxels: voxels.transpose(2, 0, 1)[:, ::-1],
    "a third of its slices": lambda voxels: voxels[16:32],
    "resampled": lambda voxels: ndimage.zoom(voxels, 0.8, order=1),
    "eight bits": lambda voxels: np.rint(voxels * (255 / voxels.max())),
    "the air cut off": lambda voxels: voxels[2:-2, 2:-2, 2:-2],
}


@pytest.mark.parametrize("name", list(RE_EXPORTS))
def test_a_re_export_of_what_is_trained_on_is_found(name: str, tmp_path: Path) -> None:
    changed = np.ascontiguousarray(RE_EXPORTS[name](lopsided()).astype(np.float32))
    sentence = leak_of(tmp_path, lopsided(), changed)
    assert sentence is not None
    assert sentence.startswith("The split leaks: ours (train) and theirs (validation) sh")
    assert sentence.endswith("the same image content; nothing was trained.")


def test_thick_slices_made_of_a_trained_volume_are_found(tmp_path: Path) -> None:
    large = lopsided(extent=96)
    thin = write_thin(tmp_path / "a", large, patient="P-1")
    thick = write_series(tmp_path / "b", averaged(large), slice_spacing_mm=4.0, patient="P-2")
    with pytest.raises(InputError, match="show the same image content"):
        check_leakage(
            [
                source("thin", thin, subject="one", split=Split.TRAIN),
                source("thick", thick, subject="two", split=Split.UNSEEN),
            ]
        )


def test_one_patient_under_two_words_is_found_by_the_headers_and_not_named(tmp_path: Path) -> None:
    first = write_thin(tmp_path / "a", lopsided(1), patient="Doe-4711", PatientAge="060Y")
    second = write_thin(tmp_path / "b", lopsided(2), patient="Doe-4711", PatientAge="061Y")
    with pytest.raises(InputError) as raised:
        check_leakage(
            [
                source("first", first, subject="one", split=Split.TRAIN),
                source("second", second, subject="two", split=Split.VALIDATION),
            ]
        )
    assert raised.value.sentence.startswith("The split leaks: first (train) and second (validation) are of one patient")
    assert "4711" not in f"{raised.value.sentence} {raised.value.hint}"
    assert str(tmp_path) not in f"{raised.value.sentence} {raised.value.hint}"


def test_one_subject_in_two_splits_is_refused() -> None:
    people = [
        (source("a", [], subject="one", split=Split.TRAIN), ""),
        (source("b", [], subject="one", split=Split.VALIDATION), ""),
    ]
    with pytest.raises(InputError, match=r"a .train. and b .validation. are of one patient"):
        refuse_shared_people(people)


def test_the_same_person_twice_in_one_split_is_no_leak(tmp_path: Path) -> None:
    volume = source("a", nifti(tmp_path / "a.nii", lopsided()), subject="one", split=Split.TRAIN)
    check_leakage([volume, replace(volume, label="again")])


def test_empty_slices_are_nobodys(tmp_path: Path) -> None:
    """Two volumes share their black end slices."""
    one, other = lopsided(1), lopsided(2)
    one[:8], other[:8] = 0, 0
    assert leak_of(tmp_path, one, other) is None
