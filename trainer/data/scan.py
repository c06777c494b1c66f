"""The series that are found below folders of studies, where no inventory says what they are.

Series are told apart by Series Instance UID, people by name, number and birth date, and both get words of ours
("subject-1", "subject-1/2").
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from dicomnode.errors import InputError
from dicomnode.imaging.studies import COPY, Listing, list_files, passed_over_lines
from trainer.data import nifti
from trainer.data.series import Role, Series, describe
from trainer.data.sources import UNSTATED_LICENCE, Source, Split

NO_PERSON = (
    "{count} NIfTI file(s) name no person (no sub- in their names), so each counts as a person of its own: where one "
    "person has several of them, say so with --inventory."
)


def scan(
    studies: Sequence[Path], *, validate: Sequence[Path] = (), note: Callable[[str], None] = lambda _: None
) -> tuple[Series, ...]:
    """Find every DICOM series and NIfTI file below the folders, in the order of their first paths.

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
    """Return the number of the first folder below which the path was found."""
    return next(k for k, folder in enumerate(folders) if path.is_relative_to(folder))


def _nifti_copies(series: Sequence[Series]) -> set[Path]:
    """Return the files whose volume an earlier file holds, packed or not, under whatever name."""
    first: dict[str, Path] = {}
    volumes = [one for one in series if one.source.is_nifti and one.person]
    return {
        one.source.paths[0]
        for one in volumes
        if first.setdefault(one.person, one.source.paths[0]) != one.source.paths[0]
    }


def _with_words(described: Sequence[Series], note: Callable[[str], None]) -> tuple[Series, ...]:
    """Give series and people words of ours; NIfTI files are of one person where BIDS names say so."""
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
