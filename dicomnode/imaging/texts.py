"""The values of an attribute as text, from the bytes as they stand: decoded, and nothing repaired.

A value that is no text of anything is one empty text; an attribute that is absent or empty has none.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from pydicom.charset import convert_encodings, decode_bytes
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag, Tag

from dicomnode.imaging.representation import (
    ENCODED_TEXT,
    MALFORMED,
    SINGLE_TEXT,
    TEXT,
    items_of,
    standard_vr,
    vr_of,
)
from dicomnode.imaging.spelling import canonical


def texts(dataset: Dataset, keyword: str) -> tuple[str, ...]:
    """Return the values of a public attribute, without padding; () when it is absent, empty or a sequence."""
    tag = tag_of(keyword)
    return () if tag is None else texts_at(dataset, tag)


def texts_at(dataset: Dataset, tag: BaseTag) -> tuple[str, ...]:
    """Return the same values for the element with that tag, which may be private."""
    if tag not in dataset:
        return ()
    raw = dataset.get_item(tag)
    vr = vr_of(raw, tag)
    if vr == "SQ":
        return ()
    if isinstance(raw, RawDataElement) and vr in TEXT:
        whole = _decoded(dataset, raw.value or b"", vr)
        values = (whole,) if vr in SINGLE_TEXT else tuple(whole.split("\\"))
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                value = dataset[tag].value
            except MALFORMED:
                return ("",)  # present, but no text of anything
        if value is None:
            return ()
        values = (value,) if isinstance(value, str | bytes) or not isinstance(value, Sequence) else tuple(value)
        values = tuple("" if isinstance(value, bytes) else str(value) for value in values)
    values = tuple(value.strip(" \0") for value in values)
    return values if any(values) else ()


def _decoded(dataset: Dataset, value: bytes, vr: str) -> str:
    """Decode bytes by the character set of the dataset; by the first 256 of Unicode where that is not possible."""
    if vr not in ENCODED_TEXT or (value.isascii() and b"\x1b" not in value):
        return value.decode("latin-1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # unknown character sets, which pydicom replaces by the default one
        try:
            written = dataset.get("SpecificCharacterSet") or "ISO_IR 6"
            delimiters = {0x0D, 0x0A, 0x09, 0x0C} if vr in SINGLE_TEXT else {0x5C, 0x5E, 0x3D}  # PS3.5 §6.1.2.5.3
            return decode_bytes(value, convert_encodings(written), delimiters)
        except MALFORMED:
            return value.decode("latin-1")


def canonical_texts(dataset: Dataset, tag: BaseTag) -> list[str]:
    """Return the values of an element, alike for all spellings of each."""
    return [canonical(standard_vr(tag), value) for value in texts_at(dataset, tag)]


def nested_texts(dataset: Dataset, sequence: str, keyword: str) -> tuple[str, ...]:
    """Return the values of an attribute in all items of a sequence; () where that is no sequence."""
    tag = tag_of(sequence)
    if tag is None or tag not in dataset:
        return ()
    try:
        return tuple(text for item in items_of(dataset.get_item(tag)) for text in texts(item, keyword))
    except MALFORMED:
        return ()


def is_unreadable(dataset: Dataset, keyword: str) -> bool:
    """Tell whether the attribute holds something that is no value of anything."""
    tag = tag_of(keyword)
    if tag is None or tag not in dataset or any(texts_at(dataset, tag)):
        return False
    raw = dataset.get_item(tag)
    value = raw.value
    return bool(value.strip(b" \0") if isinstance(value, bytes) and vr_of(raw, tag) in TEXT else value)


def whole_number(text: str) -> int | None:
    """Return the number that a text of IS or US says; "3.0", which some writers put into IS, is 3."""
    try:
        number = float(text)
        return int(number) if number == int(number) else None
    except (ValueError, OverflowError):
        return None


def tag_of(keyword: str) -> BaseTag | None:
    """Return the tag of a keyword; None where the dictionary does not know it."""
    tag = tag_for_keyword(keyword)
    return None if tag is None else Tag(tag)
