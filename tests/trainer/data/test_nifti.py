"""NIfTI files as researchers leave them: one volume each or a reason, and whose they are."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray

from dicomnode.errors import InputError
from tests.support.mr_series import write_mr_series
from tests.support.phantom_sources import phantom
from trainer.data.inventory import read_inventory
from trainer.data.nifti import NiftiVolume, people, read_nifti
from trainer.data.scan import scan
from trainer.data.series import Role, Series, describe
from trainer.data.volumes import volume_of


def good(seed: int = 0) -> NDArray[np.float32]:
    return phantom(seed, extent=12)


def save(path: Path, voxels: NDArray[np.generic], affine: NDArray[np.float64] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4) if affine is None else affine), path)  # type: ignore[no-untyped-call]
    return path


def nowhere(path: Path) -> None:
    """Neither sform nor qform."""
    nibabel.save(nibabel.Nifti1Image(good(), None), path)  # type: ignore[no-untyped-call]


def holed(value: float) -> NDArray[np.float32]:
    voxels = good()
    voxels[0, 0, :2] = value
    return voxels


def sheared() -> NDArray[np.float64]:
    affine = np.eye(4)
    affine[0, 1] = 0.2
    return affine


def cut(path: Path) -> None:
    save(path, good())
    path.write_bytes(path.read_bytes()[:-400])


def lying(path: Path) -> None:
    """A header of 32 terabytes: nothing of that size may ever be asked for."""
    save(path, good())
    image = nibabel.load(path)
    header = bytearray(image.header.binaryblock)  # type: ignore[attr-defined]
    header[42:48] = np.array([20000, 20000, 20000], dtype="<i2").tobytes()
    content = bytes(header) + bytes(4 + 1000)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


RGB = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
UNUSABLE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a time series": (lambda path: save(path, np.stack([good()] * 3, -1)), "it holds 3 volumes"),
    "vectors": (
        lambda path: save(path, np.stack([good()] * 3, -1)[:, :, :, None]),
        "it holds 3 numbers for each voxel",
    ),
    "colours": (lambda path: save(path, np.zeros((4, 4, 4), dtype=RGB)), "its voxels are colours"),
    "complex numbers": (lambda path: save(path, good().astype(np.complex64)), "its voxels are complex numbers"),
    "NaN": (lambda path: save(path, holed(np.nan)), "2 of its voxels are no finite numbers"),
    "infinite values": (lambda path: save(path, holed(np.inf)), "2 of its voxels are no finite numbers"),
    "one value": (lambda path: save(path, np.zeros((4, 4, 4), dtype=np.int16)), "all its voxels have one value"),
    "no bytes": (lambda path: path.touch(), "it is empty"),
    "words": (lambda path: path.write_text("<html>Not found</html>"), "its NIfTI file cannot be read"),
    "half of it": (cut, "its NIfTI file cannot be read"),
    "a header that lies": (lying, "it breaks off"),
    "no place": (nowhere, "it does not say where it lies in space"),
    "a sheared affine": (lambda path: save(path, good(), sheared()), "its axes are not at right angles"),
    "two dimensions": (lambda path: save(path, good()[0]), "it is a single slice"),
    "one slice": (lambda path: save(path, good()[:, :, :1]), "it is a single slice"),
}


@pytest.mark.parametrize("suffix", ["nii", "nii.gz"])
@pytest.mark.parametrize("kind", UNUSABLE)
def test_a_file_that_is_no_volume_is_one_row_with_its_name_and_the_rest_is_listed(
    kind: str, suffix: str, tmp_path: Path
) -> None:
    make, words = UNUSABLE[kind]
    write_mr_series(tmp_path / "dicom")
    save(tmp_path / "sub-01_T1w.nii.gz", good())
    path = tmp_path / f"sub-03_T1w.{suffix}"
    make(path)
    _, fine, odd = scan([tmp_path])
    assert (fine.role, odd.role) == (Role.THIN, Role.UNUSABLE)
    assert odd.sentence.startswith(f"{path.name} cannot be used: ")
    assert words in odd.sentence
    with pytest.raises(InputError, match=f"^{odd.source.label} cannot be used: "):
        volume_of(odd.source)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_slice_axis_of_a_thick_stack_is_found_wherever_the_file_has_it(axis: int, tmp_path: Path) -> None:
    stack = np.random.default_rng(0).random((6, 14, 15), dtype=np.float32)  # (D, H, W), slices of 4 mm
    order = [(0, 1, 2), (1, 0, 2), (1, 2, 0)][axis]
    affine = np.diag([*(4.0 if one == 0 else 0.8 for one in order), 1.0])
    read = read_nifti(save(tmp_path / "v.nii.gz", stack.transpose(order), affine))
    assert isinstance(read, NiftiVolume)
    assert read.volume.slice_spacing_mm == pytest.approx(4.0)
    assert read.volume.row_spacing_mm == read.volume.column_spacing_mm == pytest.approx(0.8)
    assert sorted(read.volume.voxels[0].ravel()) in (sorted(stack[0].ravel()), sorted(stack[-1].ravel()))
    normal = np.cross(read.volume.row_direction, read.volume.column_direction)
    assert float(normal @ read.volume.slice_step_mm) == pytest.approx(4.0)


@pytest.mark.parametrize("more", [(1,), (1, 1), (1, 1, 1)])
def test_further_axes_of_length_one_are_one_volume(more: tuple[int, ...], tmp_path: Path) -> None:
    voxels = good()
    read = read_nifti(save(tmp_path / "v.nii.gz", voxels.reshape(*voxels.shape, *more)))
    assert isinstance(read, NiftiVolume)
    assert read.volume.voxels.shape == voxels.shape


def test_an_inventory_that_names_such_a_file_still_describes_it_by_name(tmp_path: Path) -> None:
    save(tmp_path / "bold.nii.gz", np.stack([good()] * 3, -1))
    file = tmp_path / "inventory.toml"
    file.write_text('[[source]]\npath="bold.nii.gz"\nlabel="one"\nsubject="s"\nsplit="train"\nlicence="CC0"\n')
    (listed,) = read_inventory(file, [tmp_path])
    series = describe(listed)
    assert (series.role, series.source.label) == (Role.UNUSABLE, "one")
    assert series.sentence.startswith("bold.nii.gz cannot be used: it holds 3 volumes")


def test_where_nothing_can_be_used_one_sentence_says_so_and_why(tmp_path: Path) -> None:
    (tmp_path / "a.nii.gz").touch()
    with pytest.raises(InputError, match=r"^Nothing in the studies can be used; subject-1/1: a.nii.gz cannot be used"):
        scan([tmp_path])


def scanned(folder: Path, *files: str, notes: list[str] | None = None) -> dict[str, str]:
    """Subject by file, of files that each hold another volume."""
    for seed, name in enumerate(files):
        save(folder / name, good(seed))
    told: list[str] = [] if notes is None else notes
    found: tuple[Series, ...] = scan([folder], note=told.append)
    return {str(one.source.paths[0].relative_to(folder)): one.source.subject for one in found}


def test_sessions_runs_and_contrasts_of_one_subject_are_one_person(tmp_path: Path) -> None:
    found = scanned(
        tmp_path,
        "sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz",
        "sub-01/ses-2/anat/sub-01_ses-2_run-2_T1w.nii.gz",
        "sub-01/anat/FLAIR.nii.gz",
        "derivatives/reg/sub-01/anat/sub-01_desc-reg_T1w.nii.gz",
        "sub-02/anat/sub-02_T1w.nii.gz",
    )
    assert len(set(found.values())) == 2
    assert found["sub-02/anat/sub-02_T1w.nii.gz"] not in {who for name, who in found.items() if "sub-01" in name}


def test_subjects_of_two_data_sets_are_two_people(tmp_path: Path) -> None:
    found = scanned(tmp_path, "a/sub-01/anat/sub-01_T1w.nii.gz", "b/sub-01/anat/sub-01_T1w.nii.gz")
    assert len(set(found.values())) == 2


def test_without_folders_of_subjects_equal_names_are_two_people_and_contrasts_are_one(tmp_path: Path) -> None:
    found = scanned(
        tmp_path, "a/sub-01_T1w.nii.gz", "b/sub-01_T1w.nii.gz", "t1/sub-02_T1w.nii.gz", "fl/sub-02_FLAIR.nii.gz"
    )
    assert found["a/sub-01_T1w.nii.gz"] != found["b/sub-01_T1w.nii.gz"]
    assert found["t1/sub-02_T1w.nii.gz"] == found["fl/sub-02_FLAIR.nii.gz"]


def test_a_packed_and_an_unpacked_copy_are_one_volume(tmp_path: Path) -> None:
    save(tmp_path / "sub-02_T1w.nii", good())
    save(tmp_path / "sub-02_T1w.nii.gz", good())
    save(tmp_path / "again" / "scan.nii.gz", good())
    notes: list[str] = []
    (series,) = scan([tmp_path], note=notes.append)
    assert series.role is Role.THIN
    assert notes[0].endswith(": the same as another file, which counts once.")


def test_files_that_name_no_person_count_as_one_each_and_that_is_said(tmp_path: Path) -> None:
    notes: list[str] = []
    found = scanned(tmp_path, "head_t1.nii.gz", "head_t2.nii.gz", "sub-01_T1w.nii.gz", notes=notes)
    assert len(set(found.values())) == 3
    (note,) = notes
    assert note.startswith("2 NIfTI file(s) name no person")
    assert "--inventory" in note


def test_the_root_of_a_data_set_is_told_by_its_description(tmp_path: Path) -> None:
    paths = [tmp_path / place / "sub-01_T1w.nii.gz" for place in ("a/raw", "a/more", "b")]
    for root in ("a", "b"):
        (tmp_path / root).mkdir()
        (tmp_path / root / "dataset_description.json").write_text("{}")
    one, other, stranger = people(paths).values()
    assert one == other != stranger
