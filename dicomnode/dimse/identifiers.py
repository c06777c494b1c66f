"""Identifiers of C-FIND and C-MOVE (PS3.4 Annex C): the keys of a request, and the values of a match.

In: values by keyword, or the bytes that a peer sent, with their transfer syntax. Out: bytes, or values in text. Nothing
here raises for what a peer sent: what cannot be read is None.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Final

from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset

from dicomnode.wire import IMPLICIT

STUDY: Final = "STUDY"
SERIES: Final = "SERIES"
IMAGE: Final = "IMAGE"
MOST_BYTES = 1 << 22  # of a data set that describes instances; some 30,000 of them in a report

Values = Mapping[str, str | Sequence[str]]


def encode_identifier(level: str, values: Values, transfer_syntax: str) -> bytes:
    """Encode the identifier of a request at a level (PS3.4 sections C.4.1.1.3, C.4.2.1.4); it asks for empty values."""
    content = Dataset()
    content.QueryRetrieveLevel = level
    for keyword, value in values.items():
        setattr(content, keyword, value if isinstance(value, str) else list(value))
    return encoded(content, transfer_syntax)


def read_match(dataset: bytes, transfer_syntax: str, keywords: Sequence[str]) -> dict[str, str] | None:
    """Read the values of a match; one that it does not have is empty, several stand with a backslash between."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the library's quote values
            content = decoded(dataset, transfer_syntax)
            if content is None:
                return None
            return {keyword: _text(content.get(keyword, "")) for keyword in keywords}
    except Exception:  # noqa: BLE001 (border: the library decodes a value when it is asked for, and raises whatever)
        return None


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, str) or not isinstance(value, Sequence):
        return str(value)
    return "\\".join(map(str, value))


def encoded(content: Dataset, transfer_syntax: str) -> bytes:
    """Encode a data set."""
    written = DicomBytesIO()
    written.is_little_endian, written.is_implicit_VR = True, transfer_syntax == IMPLICIT
    write_dataset(written, content)
    return written.getvalue()


def decoded(dataset: bytes | bytearray, transfer_syntax: str) -> Dataset | None:
    """Decode a data set that a peer sent; None: it is too long, or cannot be read."""
    if len(dataset) > MOST_BYTES:
        return None
    try:
        return read_dataset(BytesIO(dataset), is_implicit_VR=transfer_syntax == IMPLICIT, is_little_endian=True)
    except Exception:  # noqa: BLE001 (border: the library raises whatever a peer's bytes made it raise)
        return None
