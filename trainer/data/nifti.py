"""NIfTI files: one volume each, or a reason why not; and whose they are, as far as their names tell.

A NIfTI file names no person. BIDS writes one into the names of files and folders (``sub-01``), within one data set.
"""

from __future__ import annotations

import hashlib
import re
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import nibabel
import numpy as np
from nibabel.spatialimages import HeaderDataError, SpatialImage
from nibabel.wrapstruct import WrapStructError

from dicomnode.imaging.geometry import is_orthonormal
from dicomnode.imaging.volume import Volume

UNREADABLE = (
    nibabel.filebasedimages.ImageFileError, HeaderDataError, WrapStructError, OSError, EOFError, ValueError, TypeError,
    OverflowError, MemoryError, zlib.error,
)  # fmt: skip
DEFLATE_AT_MOST = 1032  # bytes out of one byte of gzip (zlib's own figure): more is a header that lies
SINGULAR_MM = 1e-3  # of a voxel's edge
THICK = 1.5  # an axis whose voxels are so many times as long as the shortest edge is the slice axis
DATASET_FILE = "dataset_description.json"  # stands in the root of a BIDS data set, and of its derivatives
INNER_FOLDERS = ("derivatives", "sourcedata", "rawdata")  # of one BIDS data set: the people are the same
SUBJECT = re.compile(r"sub-([A-Za-z0-9]+)(?=[_.]|$)")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NiftiVolume:
    """One volume, in LPS, its slices ascending along the normal."""

    volume: Volume
    content: str = field(repr=False)  # digest of voxels and place: equal for a packed and an unpacked copy


def read_nifti(path: Path) -> NiftiVolume | str:
    """The volume of a file, or what keeps it from being one, completing "it cannot be used: …".

    The axis with the longest voxels is the slice axis if they are THICK: most programs write it last. Otherwise, and
    for the others, the axes keep their order as (D, H, W). Slices that fall along the normal are turned round.
    (x, y, z, 1) is one volume.
    """
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            image = nibabel.load(path)
            if fault := _header_fault(image, path):
                return fault
            assert isinstance(image, nibabel.Nifti1Image)
            voxels = image.get_fdata(dtype=np.float32).reshape(image.shape[:3])
            affine = np.asarray(image.affine, dtype=np.float64)
    except PermissionError as error:
        return f"it cannot be opened ({error.strerror})"
    except UNREADABLE:
        return "its NIfTI file cannot be read" if path.stat().st_size else "its NIfTI file cannot be read: it is empty"
    if infinite := int(np.count_nonzero(~np.isfinite(voxels))):
        return f"{infinite} of its voxels are no finite numbers"
    if float(voxels.min()) == float(voxels.max()):
        return "all its voxels have one value"
    content = hashlib.sha256(affine.round(6).tobytes() + repr(voxels.shape).encode())
    content.update(np.ascontiguousarray(voxels).data)
    slice_axis = _slice_axis(affine)
    order = (slice_axis, *(axis for axis in range(3) if axis != slice_axis))
    placed = affine[:, [*order, 3]]
    volume = _volume(np.ascontiguousarray(voxels.transpose(order)), placed)
    return NiftiVolume(volume=volume, content=content.hexdigest())


def _slice_axis(affine: np.ndarray) -> int:
    edges = np.linalg.norm(affine[:3, :3], axis=0)
    longest = int(edges.argmax())
    return longest if edges[longest] >= THICK * edges.min() else 0


def _header_fault(image: object, path: Path) -> str | None:
    """Find a fault by the header alone: nothing is decoded of a file of 4-D data."""
    if not isinstance(image, nibabel.Nifti1Image):
        return "it is no NIfTI volume" if not isinstance(image, SpatialImage) else "it is not a NIfTI file"
    shape, header = image.shape, image.header
    kind = np.dtype(image.get_data_dtype())  # type: ignore[no-untyped-call]
    if kind.fields is not None:
        return "its voxels are colours"
    if kind.kind == "c":
        return "its voxels are complex numbers"
    if len(shape) > 4 and int(np.prod(shape[4:])) > 1:
        return f"it holds {int(np.prod(shape[4:]))} numbers for each voxel (vectors or a warp field)"
    if len(shape) > 3 and int(np.prod(shape[3:])) != 1:
        return f"it holds {int(np.prod(shape[3:]))} volumes (a time or diffusion series)"
    if len(shape) < 3 or min(shape[:3]) < 2:
        return "it is a single slice"
    if not int(header["sform_code"]) and not int(header["qform_code"]):
        return "it does not say where it lies in space (neither sform nor qform)"
    affine = np.asarray(image.affine, dtype=np.float64)[:3, :3]
    edges = np.linalg.norm(affine, axis=0)
    if not np.isfinite(image.affine).all() or edges.min() < SINGULAR_MM:
        return "its place in space cannot be used: its voxels have no size"
    across, down, up = (affine / edges).T
    if not (is_orthonormal([*across, *down]) and is_orthonormal([*down, *up]) and is_orthonormal([*up, *across])):
        return "its axes are not at right angles (a sheared affine)"
    packed = path.stat().st_size * (DEFLATE_AT_MOST if path.name.lower().endswith(".gz") else 1)
    if int(np.prod(shape, dtype=np.float64)) * kind.itemsize > packed:
        return "its NIfTI file cannot be read: it breaks off"
    return None


def _volume(voxels: np.ndarray[tuple[int, ...], np.dtype[np.float32]], affine: np.ndarray) -> Volume:
    affine = affine * np.array([[-1.0], [-1.0], [1.0], [1.0]])  # NIfTI's world is RAS
    steps, origin = affine[:3, :3].T, affine[:3, 3]
    column_spacing, row_spacing = (float(np.linalg.norm(steps[axis])) for axis in (2, 1))
    row, column = steps[2] / column_spacing, steps[1] / row_spacing
    step = steps[0]
    if float(step @ np.cross(row, column)) < 0:
        voxels, origin, step = np.ascontiguousarray(voxels[::-1]), origin + (len(voxels) - 1) * step, -step
    return Volume(
        voxels=voxels,
        origin_mm=origin,
        row_direction=row,
        column_direction=column,
        slice_step_mm=step,
        row_spacing_mm=row_spacing,
        column_spacing_mm=column_spacing,
        slice_thickness_mm=abs(float(step @ np.cross(row, column))),
    )


def people(paths: Sequence[Path]) -> dict[Path, str]:
    """Name the person of each file by the BIDS entity ``sub-``, as a word that means nothing elsewhere; "" without one.

    ``sub-01`` is one person within one data set: its sessions, runs, contrasts and derivatives. Two data sets are two
    people. Where no folder says where a data set begins, files of one name in two folders are of two data sets, and
    files of different names (contrasts sorted into folders) of one: to take two people for one costs a subject, to
    take one for two spoils the judgement.
    """
    named = {path: label for path in paths if (label := _label(path))}
    places = {path: _data_set(path) for path in named}
    loose: dict[str, list[str]] = {}
    for path, label in named.items():
        if places[path] is None:
            loose.setdefault(label, []).append(_stem(path))
    found = dict.fromkeys(paths, "")
    for path, label in named.items():
        place = places[path]
        if place is None and len(set(loose[label])) < len(loose[label]):
            place = path.parent
        found[path] = f"{place or ''}\n{label}"
    return found


def _label(path: Path) -> str:
    """Make a label from the file's name, else from that of the nearest folder."""
    for part in (path.name, *(folder.name for folder in path.parents)):
        if match := SUBJECT.match(part):
            return match[1]
    return ""


def _data_set(path: Path) -> Path | None:
    """The root of the BIDS data set: above the outermost folder of a subject, and above what BIDS puts beside it."""
    folders = [folder for folder in path.parents if SUBJECT.fullmatch(folder.name)]
    roots = [folder for folder in path.parents if (folder / DATASET_FILE).is_file()]
    root = folders[-1].parent if folders else roots[-1] if roots else None
    if root is None:
        return None
    for folder in (root, root.parent):  # derivatives/PIPELINE/sub-01, or rawdata/sub-01
        if folder.name in INNER_FOLDERS:
            return folder.parent
    return root


def _stem(path: Path) -> str:
    return path.name.lower().removesuffix(".gz").removesuffix(".nii")
