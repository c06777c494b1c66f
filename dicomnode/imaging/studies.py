"""Every file below some folders, and what it is: an image of a series, a NIfTI file, or passed over with a reason.

Archives come over Macs, CDs and Windows shares, and hold more than images. What a file is, its content says; its name
decides only where there is no content to look at. Three things are kept apart:

* a file that is no image (a directory file, a report, a companion file of macOS) is passed over, with its name;
* the same image twice counts once, and two images under one SOP Instance UID make their series unusable;
* an image that is not whole makes its series unusable, which would be short of a slice. Where nobody can say of which
  series it is, those are unusable that it may be of: see ``_Lost``.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dicomnode.errors import StorageError
from dicomnode.imaging.comparison import compare
from dicomnode.imaging.dicom_file import UnreadableHeader
from dicomnode.imaging.headers import InstanceHeader, read_header_or_reason
from dicomnode.imaging.representation import MALFORMED
from dicomnode.imaging.stack import sha256_of
from dicomnode.imaging.wholeness import break_off, ends_with_series, no_image, series_without_meta
from dicomnode.imaging.words import attribute_name
from dicomnode.part10 import Kind, kind_of
from dicomnode.visible import visible

NIFTI_SUFFIXES = (".nii", ".nii.gz")
SYSTEM_FILES = frozenset({".ds_store", "thumbs.db", "ehthumbs.db", "desktop.ini", ".directory"})
NAMES_SHOWN = 3  # of files that are passed over for one reason
COPY = "the same as another file, which counts once"
# Attributes that a header that breaks off may still tell of its series, the last of them perhaps in part.
CLUES = (
    "Modality", "StudyDate", "StudyTime", "SeriesTime", "SeriesDescription", "PatientID", "StudyInstanceUID",
    "SeriesInstanceUID",
)  # fmt: skip
# Attributes that tell two images under one SOP Instance UID apart, beside patient, study, place and pixels.
COMPARED = tuple(map(attribute_name, ("InstanceNumber", "AcquisitionNumber", "EchoTime", "ImageType")))
HINT = "Send the study again, or take the file away if it does not belong there."


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundSeries:
    """The images of one series, each once."""

    series_uid: str = field(repr=False)
    paths: tuple[Path, ...]  # ascending
    fault: str = ""  # a sentence: why the series may not be used, whatever its images are


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """The series, NIfTI files and other files below some folders."""

    series: tuple[FoundSeries, ...]  # by their first paths
    nifti: tuple[Path, ...]  # ascending; not opened yet
    passed_over: Mapping[Path, str]  # file → what it is


def list_files(places: Iterable[Path], *, progress: Callable[[int], None] = lambda _count: None) -> Listing:
    """Look at every file, and every file below the folders, each once. Links to folders are not followed; that is said.

    ``progress`` is called with the number of files looked at. Never raises for what a file is, nor for one that cannot
    be opened. Keeps of each image its path and two UIDs.
    """
    seen = _Seen()
    for count, (path, hindrance) in enumerate(_walk(places), start=1):
        progress(count)
        if hindrance:
            seen.passed_over[path] = hindrance
        else:
            seen.take(path)
    return seen.listing()


def passed_over_lines(passed_over: Mapping[Path, str]) -> tuple[str, ...]:
    """One line for each reason, with the names of the first files: "Passed over: a.txt: neither DICOM nor NIfTI."."""
    reasons: dict[str, list[Path]] = {}
    for path, reason in passed_over.items():
        reasons.setdefault(reason, []).append(path)
    return tuple(f"Passed over: {_names(paths)}: {reason}." for reason, paths in sorted(reasons.items()))


def _names(paths: list[Path]) -> str:
    counts = Counter(map(shown_name, paths))
    shown = [name if count == 1 else f"{name} ({count} files)" for name, count in list(counts.items())[:NAMES_SHOWN]]
    more = sum(list(counts.values())[NAMES_SHOWN:])
    return ", ".join(shown) + (f" and {more} more" if more else "")


def shown_name(path: Path) -> str:
    """The file's name on one line, fit for a terminal whatever bytes it is made of."""
    return visible(path.name)


def _walk(places: Iterable[Path]) -> Iterator[tuple[Path, str]]:
    """Each file once, by its real place, with what keeps it from being opened, or ""."""
    seen: dict[Path, Path] = {}  # real place → as it was found
    for place in places:
        hindered: list[tuple[Path, str]] = []

        def note(error: OSError, hindered: list[tuple[Path, str]] = hindered) -> None:
            hindered.append((Path(str(error.filename)), f"a folder that cannot be opened ({_why(error)})"))

        paths: list[Path] = [place] if place.is_file() else []
        for top, below, names in () if paths else os.walk(place, onerror=note):
            paths += [Path(top, name) for name in names]
            links = [Path(top, name) for name in below if Path(top, name).is_symlink()]
            hindered += [(link, "a link to a folder, which is not followed") for link in links]
        yield from hindered
        for path in sorted(paths):
            real = Path(os.path.realpath(path))  # unlike Path.resolve, says nothing of links that run in a circle
            if real not in seen:
                seen[real] = path
                yield path, "" if path.is_file() else "a link to nothing" if path.is_symlink() else "no regular file"
            elif seen[real] != path:  # equal where one of the folders lies in another
                yield path, COPY


def _why(error: OSError) -> str:
    return error.strerror or type(error).__name__


@dataclass(frozen=True, slots=True, kw_only=True)
class _Image:
    path: Path
    series_uid: str
    sop_instance_uid: str
    fault: str  # why it is not whole, completing "The file …"; or ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Lost:
    """A file that may be an image of a series in its folder, though nobody can say of which.

    One that is DICOM by its content may be of any that agrees with as much as can be read of it, of which the last
    value may be cut short. Of one without content there is only the name: where that counts on with the images', it
    may be of its neighbours' series.
    """

    path: Path
    fault: str
    clues: tuple[str, ...] | None = None  # values of CLUES; None: there is only the name


class _Seen:
    """Files looked at so far."""

    def __init__(self) -> None:
        self.images: list[_Image] = []
        self.nifti: list[Path] = []
        self.passed_over: dict[Path, str] = {}
        self.lost: list[_Lost] = []
        self.clues: dict[tuple[Path, str], tuple[str, ...]] = {}  # (folder, series) → of its first image there

    def take(self, path: Path) -> None:
        """Find out what one file is."""
        try:
            kind = kind_of(path)
        except OSError as error:
            self._lose(path, f"a file that cannot be opened ({_why(error)})", "cannot be opened")
            return
        if kind is Kind.PART10:
            try:
                self._take_dicom(path)
            except StorageError:
                self._lose(path, "a DICOM file that cannot be read to its end", "cannot be read to its end", clues=())
            return
        if kind is Kind.APPLE or path.name.lower() in SYSTEM_FILES:
            self.passed_over[path] = "a file of macOS or Windows, no image"
        elif path.name.lower().endswith(NIFTI_SUFFIXES):
            self.nifti.append(path)
        elif kind is Kind.NO_META:
            self._take_without_meta(path)
        elif kind is Kind.EMPTY:
            self._lose(path, "empty, or nothing but zeros", "is empty or nothing but zeros")
        else:
            self.passed_over[path] = "neither DICOM nor NIfTI"

    def _take_dicom(self, path: Path) -> None:
        header = read_header_or_reason(path)
        if what := no_image(path, header):
            self.passed_over[path] = what
        elif isinstance(header, UnreadableHeader):
            self._lose(path, f"a DICOM file, but {header.reason}", "has a header that cannot be read", clues=())
        elif ends_with_series(header):
            fault = "breaks off before it has named its series"
            self._lose(path, f"a DICOM file that {fault}", fault, clues=_clues(header))
        elif header.series_uid:
            self.clues.setdefault((path.parent, header.series_uid), _clues(header))
            try:
                fault = break_off(path, header) or ""
            except MALFORMED:
                fault = ""  # of this the verdict speaks, which knows the slice
            self.images.append(
                _Image(
                    path=path, series_uid=header.series_uid, sop_instance_uid=header.sop_instance_uid, fault=fault
                )
            )  # fmt: skip
        else:
            self.passed_over[path] = "a DICOM object that names no series"

    def _take_without_meta(self, path: Path) -> None:
        """Take a dataset whose encoding is not stated: it could be guessed, but no image is made on a guess."""
        what, fault = "a DICOM object without the file header of PS3.10", "has no DICOM file header (PS3.10)"
        series_uid = series_without_meta(path)
        if not series_uid:
            self._lose(path, what, fault, clues=())
            return
        self.passed_over[path] = what
        self.images.append(_Image(path=path, series_uid=series_uid, sop_instance_uid="", fault=fault))

    def _lose(self, path: Path, what: str, fault: str, *, clues: tuple[str, ...] | None = None) -> None:
        self.passed_over[path] = what
        self.lost.append(_Lost(path=path, fault=fault, clues=clues))

    def listing(self) -> Listing:
        """Each image once, and which series may not be used."""
        faults = self._count_once()
        for image in self.images:
            if image.fault:
                faults.setdefault(image.series_uid, f"The file {shown_name(image.path)} {image.fault}.")
        for lost in self.lost:
            for series_uid in self._candidates(lost):
                sentence = f"The file {shown_name(lost.path)} {lost.fault}, and may be an image of this series."
                faults.setdefault(series_uid, sentence)
        found: dict[str, list[Path]] = {}
        for image in self.images:
            if image.path not in self.passed_over:
                found.setdefault(image.series_uid, []).append(image.path)
        series = [
            FoundSeries(series_uid=uid, paths=tuple(sorted(paths)), fault=faults.get(uid, ""))
            for uid, paths in found.items()
        ]
        return Listing(
            series=tuple(sorted(series, key=lambda one: one.paths[0])),
            nifti=tuple(self.nifti),
            passed_over=self.passed_over,
        )

    def _count_once(self) -> dict[str, str]:
        """Drop copies. Returns a sentence for each series with two images under one SOP Instance UID."""
        faults: dict[str, str] = {}
        beside: dict[tuple[Path, str], int] = {}
        groups: dict[str, list[_Image]] = {}
        for image in self.images:
            place = (image.path.parent, image.series_uid)
            beside[place] = beside.get(place, 0) + 1
            if image.sop_instance_uid:
                groups.setdefault(image.sop_instance_uid, []).append(image)
        dropped: set[Path] = set()

        def rank(image: _Image) -> tuple[bool, int, int, Path]:
            """Sort copies: whole ones first, then those beside most of their series, then the shortest names."""
            return bool(image.fault), -beside[image.path.parent, image.series_uid], len(image.path.name), image.path

        for images in groups.values():
            kept, *others = sorted(images, key=rank)
            for other in others:
                is_part = bool(other.fault) and not kept.fault and other.series_uid == kept.series_uid
                unlike = None if is_part else _unlike(kept.path, other.path)
                if unlike is None:
                    self.passed_over[other.path] = "a part of an image that is here whole" if is_part else COPY
                    dropped.add(other.path)
                    continue
                for series_uid in (kept.series_uid, other.series_uid):
                    faults.setdefault(series_uid, _conflict(kept.path, other.path, unlike))
        self.images = [image for image in self.images if image.path not in dropped]
        return faults

    def _candidates(self, lost: _Lost) -> set[str]:
        beside = [image for image in self.images if image.path.parent == lost.path.parent]
        if lost.clues is not None:
            return {
                image.series_uid
                for image in beside
                if (known := self.clues.get((image.path.parent, image.series_uid))) is None
                or all(other.startswith(one) for one, other in zip(lost.clues, known, strict=False))
            }
        alike = [image for image in beside if _shape(image.path) == _shape(lost.path)]
        alike.sort(key=lambda image: _counted(image.path))
        before = [image for image in alike if _counted(image.path) < _counted(lost.path)][-1:]
        after = [image for image in alike if _counted(image.path) > _counted(lost.path)][:1]
        return {image.series_uid for image in (*before, *after)}


def _clues(header: InstanceHeader) -> tuple[str, ...]:
    return tuple(header.text(keyword) for keyword in CLUES)


def _unlike(one: Path, other: Path) -> str | None:
    """Name the first difference of two files with one SOP Instance UID; None if they hold the same image."""
    try:
        if sha256_of(one) == sha256_of(other):
            return None
        found = compare(one, other, allow_rounding=True)
    except StorageError:
        return "what can be read of them"
    if found is None:
        return "what can be read of their headers"
    told_apart = (name for name in found.others if name in COMPARED)
    if name := next(iter((*found.identity, *found.place, *told_apart)), None):
        return name
    return {True: None, False: "their pixels", None: "what can be decoded of their pixels"}[found.has_same_pixels]


def _conflict(one: Path, other: Path, unlike: str) -> str:
    names = sorted({shown_name(one), shown_name(other)})
    files = " and ".join(names) if len(names) > 1 else f"two files named {names[0]}"
    return f"Two different images carry one SOP Instance UID; {files} differ in {unlike}."


def _shape(path: Path) -> str:
    """The name with its numbers taken out: what the files of one export share."""
    return re.sub(r"\d+", "#", path.name)


def _counted(path: Path) -> tuple[int, ...]:
    """The numbers of the name alone."""
    return tuple(map(int, re.findall(r"\d+", path.name)))
