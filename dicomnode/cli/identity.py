"""Who a series belongs to, for ``--identify``: read from one of its files, never stored or logged."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from dicomnode.cli.options import load_settings

if TYPE_CHECKING:
    from dicomnode.ledger.queries import Reader


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Texts of the first instance as they stand there; empty where the attribute is missing."""

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
    """The texts of the series' first archived file."""
    files = ledger.series_show(series_id).files
    return read_identity(load_settings(config).node.data / "archive" / files[0].file) if files else Identity()


def read_identity(file: Path) -> Identity:
    """The texts of one archived file; all empty where it cannot be read: the rest of the answer is still worth it."""
    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError

    try:
        header = dcmread(file, stop_before_pixels=True)
    except (OSError, InvalidDicomError, ValueError):
        return Identity()
    return Identity(**{field.name: str(header.get(_keyword(field.name)) or "") for field in fields(Identity)})


def _keyword(name: str) -> str:
    """``patient_id`` → ``PatientID``."""
    return "".join({"id": "ID", "uid": "UID"}.get(word, word.capitalize()) for word in name.split("_"))
