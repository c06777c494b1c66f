"""What may be trained on and judged on: folders of studies, or an inventory of them → sources → volumes.

An inventory (TOML) says of each series or NIfTI file whose it is, its licence and its split; nothing outside it is
loaded. Without one, folders are scanned: series are told apart by Series Instance UID, people by name, number and
birth date, and both get words of ours ("subject-1", "subject-1/2"): reports, plans and errors say nothing else.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import nibabel
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dicomnode.errors import InputError
from dicomnode.imaging.headers import InstanceHeader, UnreadableHeader, read_header_or_reason, read_headers
from dicomnode.imaging.profile import choose_ratio
from dicomnode.imaging.stack import load_volume
from dicomnode.imaging.verdict import Limits, Reason, Verdict, judge, line_of
from dicomnode.imaging.volume import Volume
from trainer.data.people import alike_of, person_of

OPEN_DATA = Path(__file__).with_name("open_data.toml")
UNSTATED_LICENCE = "not stated"  # of what was scanned; such data never reach weights that ship
NIFTI_SUFFIXES = (".nii", ".nii.gz")
DICOM_SUFFIXES = (".dcm", ".ima")  # by such a name a file claims to be DICOM; others are passed over when they are not
VALIDATION_SHARE = 0.2  # of the subjects

# What makes two series of one place look alike or not; compared by ``pairs``.
CONTRAST = (
    "EchoTime", "RepetitionTime", "InversionTime", "FlipAngle", "ScanningSequence", "SequenceVariant", "ScanOptions",
    "MRAcquisitionType", "ContrastBolusAgent", "SeriesDescription", "SequenceName",
)  # fmt: skip


class Split(StrEnum):
    """What a volume may be used for."""

    TRAIN = "train"
    VALIDATION = "validation"  # models are chosen on these
    UNSEEN = "unseen"  # judged on and never trained on


class Role(StrEnum):
    """What a series can be in a pair."""

    THIN = "thin"  # the node would keep it as already thin: a truth
    THICK = "thick"  # the node would process it: an input
    UNUSABLE = "unusable"  # the node would keep it for another reason, which its sentence says


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One volume: a DICOM series or a NIfTI file. Label and subject are our words, never a header's."""

    label: str
    subject: str  # volumes of one person never sit in two splits
    split: Split
    licence: str
    paths: tuple[Path, ...]  # the instances of a series, or one NIfTI file

    @property
    def is_nifti(self) -> bool:
        """Is it a NIfTI file?"""
        return len(self.paths) == 1 and self.paths[0].name.lower().endswith(NIFTI_SUFFIXES)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Series:
    """A source with what its headers tell: enough to find its partner without decoding a pixel."""

    source: Source
    role: Role
    sentence: str  # the node's verdict
    reason: Reason | None = None  # of that verdict; None for NIfTI, on which the node has none
    slices: int
    series_number: int | None = None
    rows: int = 0
    columns: int = 0
    pixel_spacing_mm: tuple[float, float] = (0.0, 0.0)  # between rows, between columns
    slice_spacing_mm: float | None = None  # None as far as the verdict did not come
    slice_thickness_mm: float | None = None  # None: unknown or not believed
    orientation: tuple[float, ...] = ()  # six cosines, LPS; () where positions make no stack of one direction
    positions_mm: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 3)))  # ascending along the normal
    frame_of_reference_uid: str = field(default="", repr=False)
    person: str = field(default="", repr=False)  # digest
    alike: str = field(default="", repr=False)  # digest, the same for people who may be one; "" where nobody knows
    image_type: tuple[str, ...] = ()
    contrast: Mapping[str, str] = field(default_factory=dict, repr=False)  # of CONTRAST, those that are stated

    @property
    def normal(self) -> NDArray[np.float64]:
        """Unit vector across the slices."""
        return np.cross(self.orientation[:3], self.orientation[3:])

    @property
    def offsets_mm(self) -> NDArray[np.float64]:
        """Position of each slice along the normal."""
        return np.asarray(self.positions_mm @ self.normal)


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    path: Annotated[str, Field(min_length=1)]
    label: Annotated[str, Field(min_length=1, max_length=64)]
    subject: Annotated[str, Field(min_length=1, max_length=64)]
    split: Split
    licence: Annotated[str, Field(min_length=1)]


class _Inventory(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    source: Annotated[tuple[_Row, ...], Field(min_length=1)]


def read_inventory(file: Path, studies: Sequence[Path]) -> tuple[Source, ...]:
    """The sources of an inventory, in its order; every row must be found in one of the folders.

    Raises InputError that names every mistake of the file at once, a label given twice, a subject in two splits.
    """
    rows = _rows(file)
    labels = [row.label for row in rows]
    if twice := sorted({label for label in labels if labels.count(label) > 1}):
        raise InputError(f"The inventory {file.name} gives the label {twice[0]} twice.", hint="Labels tell rows apart.")
    for row in rows:
        splits = {other.split for other in rows if other.subject == row.subject}
        if len(splits) > 1:
            raise InputError(
                f"The inventory {file.name} has the subject {row.subject} in {' and '.join(sorted(splits))}.",
                hint="All volumes of one person belong to one split.",
            )
    return tuple(
        Source(
            label=row.label,
            subject=row.subject,
            split=row.split,
            licence=row.licence,
            paths=_paths_of(row, studies),
        )
        for row in rows
    )


def _rows(file: Path) -> tuple[_Row, ...]:
    try:
        raw = tomllib.loads(file.read_text(encoding="utf-8"))
        return _Inventory.model_validate_json(json.dumps(raw, default=str)).source
    except OSError as error:
        raise InputError(
            f"The inventory {file.name} cannot be read: {error.strerror or type(error).__name__}."
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"The inventory {file.name} is not TOML: {error}.") from error
    except ValidationError as error:
        mistakes = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        raise InputError(
            f"The inventory {file.name} is wrong: {mistakes}.",
            hint="Each [[source]] has path, label, subject, split, licence; trainer/data/open_data.toml is an example.",
        ) from error


def _paths_of(row: _Row, studies: Sequence[Path]) -> tuple[Path, ...]:
    place = next((folder / row.path for folder in studies if (folder / row.path).exists()), None)
    if place is None:
        raise InputError(
            f"{row.label} of the inventory is in none of the studies folders.",
            hint=f"{row.path} is looked for below each folder of --studies.",
        )
    if place.is_file():
        return (place,)
    series = tuple(_series_below([place]).values())
    if len(series) != 1:
        found = "no DICOM series" if not series else f"{len(series)} DICOM series"
        raise InputError(f"{row.label} of the inventory holds {found}.", hint="A row names a folder of one series.")
    return tuple(series[0])


def load(source: Source) -> Volume:
    """Decode a source: modality units, LPS, slices ascending along the normal.

    A NIfTI volume keeps its array axes as (D, H, W), its slices turned round where they fall along the normal. Raises
    InputError where the node would not take the series for a stack either: a missing slice, several orientations.
    """
    if source.is_nifti:
        return _load_nifti(source)
    verdict = judge(read_headers(source.paths), Limits())
    if _role(verdict) is Role.UNUSABLE:
        raise InputError(f"{source.label} cannot be used: {verdict.sentence}", hint="Leave it out, or send it again.")
    try:
        return load_volume(source.paths).volume
    except InputError as error:
        raise InputError(f"{source.label} cannot be used: {error.sentence}", hint=error.hint) from error


def _load_nifti(source: Source) -> Volume:
    try:
        image = nibabel.load(source.paths[0])
        assert isinstance(image, nibabel.Nifti1Image)
        voxels = np.ascontiguousarray(image.get_fdata(dtype=np.float32))
        affine = np.asarray(image.affine, dtype=np.float64)
    except (nibabel.filebasedimages.ImageFileError, OSError, EOFError, ValueError) as error:
        raise InputError(f"{source.label} cannot be used: its NIfTI file cannot be read.") from error
    if voxels.ndim != 3 or not np.isfinite(voxels).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise InputError(f"{source.label} cannot be used: it is not one volume of numbers with a place in space.")
    affine[:2] *= -1  # NIfTI's world is RAS
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


def scan(studies: Sequence[Path], *, validate: Sequence[Path] = ()) -> tuple[Series, ...]:
    """Every DICOM series and NIfTI file below the folders, in the order of their first paths.

    What lies below ``validate`` is of the validation split, all else is to be trained on until ``split_subjects``.
    Raises InputError for a folder that is missing or empty, a DICOM file that cannot be read (no one can say which
    series now lacks it), and where nothing that was found can be used.
    """
    found: list[Series] = []
    subjects: dict[str, str] = {}
    for folders, split in ((studies, Split.TRAIN), (validate, Split.VALIDATION)):
        files: dict[str, list[Path]] = {}
        for folder in folders:
            for key, paths in _files_below(folder).items():
                files.setdefault(key, []).extend(path for path in paths if path not in files.get(key, ()))
        for paths in files.values():
            source = Source(label="", subject="", split=split, licence=UNSTATED_LICENCE, paths=tuple(paths))
            series = describe(source)
            subject = subjects.setdefault(series.person, f"subject-{len(subjects) + 1}")
            number = 1 + sum(other.source.subject == subject for other in found)
            found.append(replace(series, source=replace(source, label=f"{subject}/{number}", subject=subject)))
    if not any(series.role is not Role.UNUSABLE for series in found):
        raise InputError(
            f"Nothing in the studies can be used; {found[0].source.label}: {found[0].sentence}",
            hint="Thick or thin MR series of parallel slices are needed, or thin NIfTI volumes.",
        )
    return tuple(found)


def describe(source: Source) -> Series:
    """What the headers of a source tell, and what the node would do with it."""
    return _describe_nifti(source) if source.is_nifti else _describe_dicom(source)


def _describe_dicom(source: Source) -> Series:
    headers = read_headers(source.paths)
    verdict = judge(headers, Limits())
    role = _role(verdict)
    instances = [header for header in headers if isinstance(header, InstanceHeader)]
    if not instances:
        return Series(source=source, role=role, sentence=verdict.sentence, reason=verdict.reason, slices=len(headers))
    first = instances[0]
    series = Series(
        source=source,
        role=role,
        sentence=verdict.sentence,
        reason=verdict.reason,
        slices=len(headers),
        series_number=first.series_number,
        rows=first.rows or 0,
        columns=first.columns or 0,
        pixel_spacing_mm=first.pixel_spacing_mm or (0.0, 0.0),
        slice_spacing_mm=verdict.slice_spacing_mm,
        slice_thickness_mm=verdict.slice_thickness_mm,
        frame_of_reference_uid=first.frame_of_reference_uid,
        person=person_of(first),
        alike=alike_of(first),
        image_type=first.image_type,
        contrast={keyword: text for keyword in CONTRAST if (text := first.text(keyword))},
    )
    if verdict.slice_spacing_mm is None:  # the verdict did not find one stack
        return series
    line = line_of(instances)
    return replace(
        series,
        orientation=tuple(np.median([header.orientation or () for header in instances], axis=0).tolist()),
        positions_mm=np.array([instances[k].position_mm for k in line.order], dtype=np.float64),
    )


def _describe_nifti(source: Source) -> Series:
    """A NIfTI file knows no Frame of Reference and no person: it is a truth for simulated pairs, or nothing."""
    volume = load(source)
    spacings = (volume.slice_spacing_mm, volume.row_spacing_mm, volume.column_spacing_mm)
    is_thin = choose_ratio(max(spacings), min(spacings)) is None
    size = f"Voxels of {' × '.join(f'{spacing:.3g}' for spacing in spacings)} mm"
    return Series(
        source=source,
        role=Role.THIN if is_thin else Role.UNUSABLE,
        sentence=f"{size} are thin in every direction." if is_thin else f"{size} are not thin in every direction.",
        slices=len(volume.voxels),
        rows=volume.voxels.shape[1],
        columns=volume.voxels.shape[2],
        pixel_spacing_mm=(volume.row_spacing_mm, volume.column_spacing_mm),
        slice_spacing_mm=volume.slice_spacing_mm,
        person=hashlib.sha256(source.paths[0].read_bytes()).hexdigest(),
    )


def _role(verdict: Verdict) -> Role:
    return {Reason.PROCESS: Role.THICK, Reason.ALREADY_THIN: Role.THIN}.get(verdict.reason, Role.UNUSABLE)


def split_subjects(sources: Sequence[Source], *, share: float = VALIDATION_SHARE, seed: int = 0) -> tuple[Source, ...]:
    """The sources with ``share`` of the training subjects (at least one of two) moved to validation.

    Whole subjects move, and which ones depends on the seed and the number of subjects alone. Sources of the other
    splits stay; where some stand in validation already, nothing moves.
    """
    if any(source.split is Split.VALIDATION for source in sources):
        return tuple(sources)
    subjects = list(dict.fromkeys(source.subject for source in sources if source.split is Split.TRAIN))
    count = min(max(1, round(share * len(subjects))), len(subjects) - 1)
    if count < 1:
        return tuple(sources)
    drawn = np.random.default_rng(seed).choice(len(subjects), count, replace=False)
    moved = {subjects[k] for k in drawn}
    return tuple(replace(source, split=Split.VALIDATION) if source.subject in moved else source for source in sources)


def of_split(sources: Iterable[Source], split: Split) -> tuple[Source, ...]:
    """The sources of one split, in their order."""
    return tuple(source for source in sources if source.split is split)


def _files_below(folder: Path) -> dict[str, list[Path]]:
    """Paths by Series Instance UID, and each NIfTI file by itself, in order of the first path."""
    if not folder.is_dir():
        raise InputError(f"The studies folder {folder.name} is not there.", hint="Name folders with --studies.")
    found = _series_below([folder])
    for path in sorted(folder.rglob("*")):
        if path.name.lower().endswith(NIFTI_SUFFIXES) and path.is_file():
            found[str(path)] = [path]
    if not found:
        raise InputError(
            f"The studies folder {folder.name} is empty: it holds neither DICOM nor NIfTI files.",
            hint="Name folders of MR studies with --studies.",
        )
    return dict(sorted(found.items(), key=lambda item: item[1][0]))


def _series_below(folders: Iterable[Path]) -> dict[str, list[Path]]:
    """As ``pipeline.series_in``, but a DICOM file that cannot be read is an error: a series would end too early."""
    found: dict[str, list[Path]] = {}
    paths = sorted(path for folder in folders for path in folder.rglob("*") if path.is_file())
    for path in paths:
        if path.name == "DICOMDIR" or path.name.lower().endswith(NIFTI_SUFFIXES):
            continue
        header = read_header_or_reason(path)
        if isinstance(header, UnreadableHeader):
            fault = header.reason
        elif header.series_uid:
            found.setdefault(header.series_uid, []).append(path)
            continue
        else:
            fault = "it does not say to which series it belongs"  # as one that was cut off
        if _claims_to_be_dicom(path):
            raise InputError(
                f"The file {path.name} cannot be used: {fault}.",
                hint="Send the study again, or take the file away; its series would be incomplete without it.",
            )
    return found


def _claims_to_be_dicom(path: Path) -> bool:
    if path.suffix.lower() in DICOM_SUFFIXES:
        return True
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"
