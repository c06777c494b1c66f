"""Find what may be trained on and judged on: folders of studies, or an inventory of them → sources → volumes.

An inventory (TOML) says of each series or NIfTI file whose it is, its licence and its split; nothing outside it is
loaded. Without one, folders are scanned: series are told apart by Series Instance UID, people by name, number and
birth date, and both get words of ours ("subject-1", "subject-1/2"): reports, plans and errors say nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from dicomnode.errors import InputError
from dicomnode.imaging.frame import Frame, read_frames
from dicomnode.imaging.geometry import line_of
from dicomnode.imaging.judge import judge
from dicomnode.imaging.profile import choose_ratio
from dicomnode.imaging.stack import load_volume
from dicomnode.imaging.studies import COPY, HINT, NIFTI_SUFFIXES, Listing, list_files, passed_over_lines, shown_name
from dicomnode.imaging.verdict import Limits, Verdict, VerdictReason
from dicomnode.imaging.volume import Volume
from dicomnode.strict_toml import MistakesError, NotTomlError, StrictModel, check, parse
from trainer.data import nifti
from trainer.data.people import alike_of, person_of

OPEN_DATA = Path(__file__).with_name("open_data.toml")
UNSTATED_LICENCE = "not stated"  # of what was scanned; such data never reach weights that ship
VALIDATION_SHARE = 0.2  # of the subjects
NO_PERSON = (
    "{count} NIfTI file(s) name no person (no sub- in their names), so each counts as a person of its own: where one "
    "person has several of them, say so with --inventory."
)

# Attributes by which two series of one place look alike or not; ``contrast`` compares them.
CONTRAST = (
    "EchoTime", "RepetitionTime", "InversionTime", "FlipAngle", "ScanningSequence", "SequenceVariant", "ScanOptions",
    "MRAcquisitionType", "ContrastBolusAgent", "SeriesDescription", "SequenceName",
)  # fmt: skip


class Split(StrEnum):
    """The splits: what a volume may be used for."""

    TRAIN = "train"
    VALIDATION = "validation"  # models are chosen on these
    UNSEEN = "unseen"  # judged on and never trained on


class Form(StrEnum):
    """The forms that the files of a series can have."""

    CLASSIC = "classic"  # a file for each slice
    ENHANCED = "enhanced"  # multi-frame (Enhanced MR) objects
    NIFTI = "NIfTI"


class Role(StrEnum):
    """The roles that a series can have in a pair."""

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
    fault: str = ""  # why it cannot be used, as far as it was seen when its files were listed

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
    reason: VerdictReason | None = None  # of that verdict; None for NIfTI, on which the node has none
    slices: int
    form: Form
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


class _Row(StrictModel):
    path: Annotated[str, Field(min_length=1)]
    label: Annotated[str, Field(min_length=1, max_length=64)]
    subject: Annotated[str, Field(min_length=1, max_length=64)]
    split: Split
    licence: Annotated[str, Field(min_length=1)]


class _Inventory(StrictModel):
    source: Annotated[tuple[_Row, ...], Field(min_length=1)]


def read_inventory(
    file: Path, studies: Sequence[Path], *, note: Callable[[str], None] = lambda _: None
) -> tuple[Source, ...]:
    """The sources of an inventory, in its order; every row must be found in one of the folders.

    ``note`` is called with a line on what was passed over in the folders of its rows.
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
    passed_over: dict[Path, str] = {}
    listed = tuple(_source_of(row, studies, passed_over) for row in rows)
    for line in passed_over_lines(passed_over):
        note(line)
    return listed


def _rows(file: Path) -> tuple[_Row, ...]:
    try:
        return check(_Inventory, parse(file.read_bytes())).source
    except OSError as error:
        raise InputError(
            f"The inventory {file.name} cannot be read: {error.strerror or type(error).__name__}."
        ) from error
    except NotTomlError as error:
        raise InputError(f"The inventory {file.name} is not TOML: {error}.") from error
    except MistakesError as error:
        raise InputError(
            f"The inventory {file.name} is wrong: {error}.",
            hint="Each [[source]] has path, label, subject, split, licence; trainer/data/open_data.toml is an example.",
        ) from error


def _source_of(row: _Row, studies: Sequence[Path], passed_over: dict[Path, str]) -> Source:
    place = next((folder / row.path for folder in studies if (folder / row.path).exists()), None)
    if place is None:
        raise InputError(
            f"{row.label} of the inventory is in none of the studies folders.",
            hint=f"{row.path} is looked for below each folder of --studies.",
        )
    source = Source(label=row.label, subject=row.subject, split=row.split, licence=row.licence, paths=(place,))
    if place.is_file():
        return source
    listed = list_files([place])
    passed_over.update(listed.passed_over)
    if len(listed.series) != 1:
        found = "no DICOM series" if not listed.series else f"{len(listed.series)} DICOM series"
        lines = passed_over_lines(listed.passed_over) if not listed.series else ()
        raise InputError(
            f"{row.label} of the inventory holds {found}.",
            hint="\n  ".join(("A row names a folder of one series, or a NIfTI file.", *lines)),
        )
    (series,) = listed.series
    return replace(source, paths=series.paths, fault=series.fault)


def load(source: Source) -> Volume:
    """Decode a source: modality units, LPS, slices ascending along the normal.

    A NIfTI volume keeps its array axes as (D, H, W), its slices turned round where they fall along the normal. Raises
    InputError where the node would not take the series for a stack either: a missing slice, several orientations.
    """
    if source.fault:
        raise InputError(f"{_called(source)} cannot be used: {source.fault}", hint=HINT)
    if source.is_nifti:
        read = nifti.read_nifti(source.paths[0])
        if isinstance(read, str):
            raise InputError(f"{_called(source)} cannot be used: {read}.", hint="Leave it out.")
        return read.volume
    slices = read_frames(source.paths)
    verdict = judge(slices, Limits())
    if _role(verdict) is Role.UNUSABLE:
        raise InputError(
            f"{_called(source)} cannot be used: {verdict.sentence}", hint="Leave it out, or send it again."
        )
    try:
        return load_volume(slices).volume
    except InputError as error:
        raise InputError(f"{_called(source)} cannot be used: {error.sentence}", hint=error.hint) from error


def _called(source: Source) -> str:
    return source.label or shown_name(source.paths[0])


def scan(
    studies: Sequence[Path], *, validate: Sequence[Path] = (), note: Callable[[str], None] = lambda _: None
) -> tuple[Series, ...]:
    """Every DICOM series and NIfTI file below the folders, in the order of their first paths.

    What lies below ``validate`` is of the validation split, all else is to be trained on until ``split_subjects``.
    ``note`` is called with lines on what was passed over and why, and how far people could not be told apart. Raises
    InputError for a folder that is missing or empty, and where nothing that was found can be used.
    """
    described: list[Series] = []
    passed_over: dict[Path, str] = {}
    for folders, split in ((studies, Split.TRAIN), (validate, Split.VALIDATION)):
        listed = list_files([_there(folder) for folder in folders])
        series = [
            describe(Source(label="", subject="", split=split, licence=UNSTATED_LICENCE, paths=paths, fault=fault))
            for paths, fault in [(one.paths, one.fault) for one in listed.series]
            + [((path,), "") for path in listed.nifti]
        ]
        copies = _nifti_copies(series)
        passed_over |= {**listed.passed_over, **dict.fromkeys(copies, COPY)}
        for folder in folders:
            _refuse_empty(folder, listed)
        described += sorted(
            (one for one in series if one.source.paths[0] not in copies),
            key=lambda one: (_folder_of(one.source.paths[0], folders), one.source.paths[0]),
        )
    for line in passed_over_lines(passed_over):
        note(line)
    found = _with_words(described, note)
    if not any(series.role is not Role.UNUSABLE for series in found):
        first, told = found[0], " cannot be used" if found[0].source.fault else ""
        raise InputError(
            f"Nothing in the studies can be used; {first.source.label}{told}: {first.sentence}",
            hint="Thick or thin MR series of parallel slices are needed, or thin NIfTI volumes.",
        )
    return found


def _there(folder: Path) -> Path:
    if not folder.is_dir():
        raise InputError(f"The studies folder {folder.name} is not there.", hint="Name folders with --studies.")
    return folder


def _refuse_empty(folder: Path, listed: Listing) -> None:
    held = [*listed.nifti, *(path for series in listed.series for path in series.paths)]
    aside = {path: reason for path, reason in listed.passed_over.items() if path.is_relative_to(folder)}
    if any(path.is_relative_to(folder) for path in held) or COPY in aside.values():
        return
    raise InputError(
        f"The studies folder {folder.name} is empty: it holds neither DICOM nor NIfTI files.",
        hint="\n  ".join(("Name folders of MR studies with --studies.", *passed_over_lines(aside))),
    )


def _folder_of(path: Path, folders: Sequence[Path]) -> int:
    """The number of the folder below which the path was found, the first of them."""
    return next(k for k, folder in enumerate(folders) if path.is_relative_to(folder))


def _nifti_copies(series: Sequence[Series]) -> set[Path]:
    """The files whose volume another file holds, packed or not, under whatever name; the first is kept."""
    first: dict[str, Path] = {}
    volumes = [one for one in series if one.source.is_nifti and one.person]
    return {
        one.source.paths[0]
        for one in volumes
        if first.setdefault(one.person, one.source.paths[0]) != one.source.paths[0]
    }


def _with_words(described: Sequence[Series], note: Callable[[str], None]) -> tuple[Series, ...]:
    """Words of ours for series and people; NIfTI files are of one person where BIDS names say so."""
    whose = nifti.people([one.source.paths[0] for one in described if one.source.is_nifti])
    if nameless := sum(not person for person in whose.values()):
        note(NO_PERSON.format(count=nameless))
    found: list[Series] = []
    subjects: dict[str, str] = {}
    for series in described:
        person = whose.get(series.source.paths[0]) or series.person or str(series.source.paths[0])
        subject = subjects.setdefault(person, f"subject-{len(subjects) + 1}")
        number = 1 + sum(other.source.subject == subject for other in found)
        found.append(replace(series, source=replace(series.source, label=f"{subject}/{number}", subject=subject)))
    return tuple(found)


def describe(source: Source) -> Series:
    """Read the headers of a source, and what the node would do with it; never raises for what is in its files."""
    return _describe_nifti(source) if source.is_nifti else _describe_dicom(source)


def _describe_dicom(source: Source) -> Series:
    slices = read_frames(source.paths)
    verdict = judge(slices, Limits())
    role = _role(verdict)
    frames = [one for one in slices if isinstance(one, Frame)]
    if source.fault:
        verdict = replace(verdict, reason=VerdictReason.UNUSABLE, sentence=source.fault)
        role = Role.UNUSABLE
    is_enhanced = any(frame.number is not None for frame in frames)
    form = Form.ENHANCED if is_enhanced else Form.CLASSIC
    if not frames:
        return Series(
            source=source, role=role, sentence=verdict.sentence, reason=verdict.reason, slices=len(slices), form=form
        )
    first = frames[0].header
    series = Series(
        form=form,
        source=source,
        role=role,
        sentence=verdict.sentence,
        reason=verdict.reason,
        slices=len(slices),
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
    line = line_of(frames)
    return replace(
        series,
        orientation=tuple(np.median([frame.header.orientation or () for frame in frames], axis=0).tolist()),
        positions_mm=np.array([frames[k].header.position_mm for k in line.order], dtype=np.float64),
    )


def _describe_nifti(source: Source) -> Series:
    """Describe a NIfTI file. It has no Frame of Reference and no person: it is in no real pair.

    Thin, it is a truth for simulated pairs; thick, its rows and columns may be one. ``person`` is the digest of its
    content: equal where the picture is the same.
    """
    read = nifti.read_nifti(source.paths[0])
    if isinstance(read, str):
        sentence = f"{shown_name(source.paths[0])} cannot be used: {read}."
        return Series(source=source, role=Role.UNUSABLE, sentence=sentence, slices=0, form=Form.NIFTI)
    volume = read.volume
    in_plane = (volume.row_spacing_mm, volume.column_spacing_mm)
    spacings = (volume.slice_spacing_mm, *in_plane)
    if choose_ratio(max(spacings), min(spacings)) is None:
        role, words = Role.THIN, "are thin in every direction"
    elif choose_ratio(max(in_plane), min(in_plane)) is None:
        role, words = Role.THICK, "are thick in one direction: its rows and columns are of use (--in-plane)"
    else:
        role, words = Role.UNUSABLE, "are of use in no direction"
    size = f"Voxels of {' × '.join(f'{spacing:.3g}' for spacing in spacings)} mm"
    return Series(
        source=source,
        role=role,
        sentence=f"{size} {words}.",
        slices=len(volume.voxels),
        form=Form.NIFTI,
        rows=volume.voxels.shape[1],
        columns=volume.voxels.shape[2],
        pixel_spacing_mm=(volume.row_spacing_mm, volume.column_spacing_mm),
        slice_spacing_mm=volume.slice_spacing_mm,
        person=read.content,
    )


def _role(verdict: Verdict) -> Role:
    return {VerdictReason.PROCESS: Role.THICK, VerdictReason.ALREADY_THIN: Role.THIN}.get(verdict.reason, Role.UNUSABLE)


def split_subjects(
    sources: Sequence[Source],
    *,
    share: float = VALIDATION_SHARE,
    seed: int = 0,
    usable: Collection[str] | None = None,
) -> tuple[Source, ...]:
    """The sources with ``share`` of the training subjects (at least one of two) moved to validation.

    Whole subjects move, and which ones depends on the seed and the number of subjects alone. They are drawn among
    those with a source whose label is in ``usable``, all for None: who has nothing to be judged on judges nothing.
    Sources of the other splits stay; where some stand in validation already, nothing moves.
    """
    if any(source.split is Split.VALIDATION for source in sources):
        return tuple(sources)
    counting = [source for source in sources if usable is None or source.label in usable]
    subjects = list(dict.fromkeys(source.subject for source in counting if source.split is Split.TRAIN))
    count = min(max(1, round(share * len(subjects))), len(subjects) - 1)
    if count < 1:
        return tuple(sources)
    drawn = np.random.default_rng(seed).choice(len(subjects), count, replace=False)
    moved = {subjects[k] for k in drawn}
    return tuple(replace(source, split=Split.VALIDATION) if source.subject in moved else source for source in sources)


def of_split(sources: Iterable[Source], split: Split) -> tuple[Source, ...]:
    """The sources of one split, in their order."""
    return tuple(source for source in sources if source.split is split)
