"""Read the patient, study and series texts for ``--identify`` from a file. They are never stored or logged."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from dicomnode.cli.options import load_settings
from dicomnode.errors import StorageError

if TYPE_CHECKING:
    from pydicom import Dataset

    from dicomnode.ledger.queries import Reader


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Texts of the first instance as its header has them; empty if the attribute is missing."""

    patient_name: str = ""
    patient_id: str = ""
    patient_birth_date: str = ""
    study_instance_uid: str = ""
    study_date: str = ""
    study_description: str = ""
    accession_number: str = ""
    series_number: str = ""
    series_description: str = ""
    protocol_name: str = ""


def find_identity(ledger: Reader, series_id: int, config: Path | None) -> Identity:
    """Read the texts of the first file of the series that is in the archive."""
    files = [file for file in ledger.series_show(series_id).files if file.removed_at is None]
    return read_identity(load_settings(config).node.data / "archive" / files[0].file) if files else Identity()


def read_identity(file: Path) -> Identity:
    """Read the texts of one archived file; all empty if it cannot be read, because the rest of the answer is useful."""
    from dicomnode.imaging.dicom_file import read_dataset
    from dicomnode.imaging.representation import MALFORMED

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's quote values, and would stand between the lines of the answer
        try:
            header = read_dataset(file, pixels=False)
        except (*MALFORMED, StorageError):
            return Identity()
        return Identity(**{field.name: _text(header, _keyword(field.name)) for field in fields(Identity)})


def _text(header: Dataset, keyword: str) -> str:
    """Return the text of an attribute; empty if it is missing or cannot be read as its VR says."""
    from dicomnode.imaging.representation import MALFORMED

    try:
        return str(header.get(keyword) or "")
    except MALFORMED:
        return ""


def _keyword(name: str) -> str:
    """Convert ``patient_id`` to ``PatientID``."""
    return "".join({"id": "ID", "uid": "UID"}.get(word, word.capitalize()) for word in name.split("_"))
