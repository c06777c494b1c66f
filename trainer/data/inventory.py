"""The sources that an inventory lists.

An inventory (TOML) says of each series or NIfTI file whose it is, its licence and its split; nothing outside it is
loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from pydantic import Field

from dicomnode.errors import InputError
from dicomnode.imaging.studies import list_files, passed_over_lines
from dicomnode.strict_toml import MistakesError, NotTomlError, StrictModel, check, parse
from trainer.data.sources import Source, Split

OPEN_DATA = Path(__file__).with_name("open_data.toml")


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
    """Return the sources of an inventory, in its order; every row must be found in one of the folders.

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
