"""Is an element what the standard's dictionary says it is, so that it may be written again?

An element whose value representation (VR) is not the dictionary's reads one way where the VR is written down
(Explicit VR) and another way where it is looked up (Implicit VR): text under a sequence's tag is no object that a PACS
of the second kind can take in. So whatever is copied or re-encoded passes here. Values are looked at as bytes: nothing
is repaired, and nothing is made up of bytes that are no items.
"""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Mapping
from enum import StrEnum

from pydicom.config import RAISE
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.tag import BaseTag
from pydicom.valuerep import validate_value
from pydicom.values import convert_SQ

SINGLE_TEXT = frozenset({"LT", "ST", "UR", "UT"})  # VRs in which a backslash is text, not a separator (PS3.5 §6.2)
TEXT = SINGLE_TEXT | frozenset(
    {"AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "PN", "SH", "TM", "UC", "UI"}
)  # VRs whose bytes are the same in every transfer syntax
ENCODED_TEXT = frozenset({"LO", "LT", "PN", "SH", "ST", "UC", "UT"})  # VRs under Specific Character Set

# Exceptions that pydicom raises on malformed bytes, gathered from shared/data/odd and the fuzz tests. Its OSError means
# bytes in memory that end too early; an unreadable disk is told from it where files are opened (``dicom_file``).
MALFORMED = (
    InvalidDicomError, BytesLengthException, AttributeError, EOFError, LookupError, NotImplementedError, OSError,
    OverflowError, RecursionError, TypeError, ValueError, struct.error, zlib.error,
)  # fmt: skip

# Sequences of the patient's group that came into the standard (2023) after the library's dictionary was made.
LATER_SEQUENCES: Mapping[int, str] = {
    0x00100011: "Person Names to Use Sequence",
    0x00100014: "Third Person Pronouns Sequence",
    0x00100015: "Pronoun Code Sequence",
    0x00100041: "Gender Identity Sequence",
    0x00100043: "Sex Parameters for Clinical Use Category Sequence",
    0x00100044: "Gender Identity Code Sequence",
    0x00100046: "Sex Parameters for Clinical Use Category Code Sequence",
}

UNDEFINED_LENGTH = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD  # PS3.5 §7.5
_HEAD = 8  # bytes of tag and length of an item

Element = RawDataElement | DataElement


class Misfit(StrEnum):
    """Reasons why an element cannot be written again; each completes "X was left out of the derived series: …"."""

    REPRESENTATION = "its value representation in the source is not the standard's"
    VALUE = "its value in the source cannot be read"


def vr_of(raw: Element, tag: BaseTag) -> str:
    """The VR as written; of the dictionary where the writer gave none (Implicit VR) or UN (PS3.5 §6.2.2)."""
    return (standard_vr(tag) or "UN") if raw.VR is None or raw.VR == "UN" else str(raw.VR)


def standard_vr(tag: BaseTag) -> str:
    """The dictionary's VR, "US or SS" where it leaves a choice; "" where it does not know the tag."""
    if tag in LATER_SEQUENCES:
        return "SQ"
    try:
        return dictionary_VR(tag)
    except KeyError:
        return ""


def copy_of(dataset: Dataset, tag: BaseTag) -> Element | Misfit | None:
    """An element fit for Explicit VR Little Endian and for every other syntax; None where there is none.

    Text comes byte for byte as the source wrote it: decoding and encoding again would repair, replace or refuse
    malformed text; a study's own faults stay its own. Text under another VR of text gets the dictionary's, where its
    bytes mean the same under both. Items of sequences come without private elements, and all or none.
    """
    if tag not in dataset:
        return None
    raw = dataset.get_item(tag)
    written = vr_of(raw, tag)
    allowed = (standard_vr(tag) or written).split(" or ")  # of a later edition than ours: the writer's word stands
    try:
        return _fit(dataset, tag, raw, written, allowed)
    except MALFORMED:
        return Misfit.VALUE


def misfit_in(dataset: Dataset) -> BaseTag | None:
    """The first public element, if there is one, that another transfer syntax would make something else of."""
    for tag in sorted(dataset.keys()):
        if not tag.is_private and tag.element != 0 and isinstance(copy_of(dataset, tag), Misfit):
            return tag
    return None


def items_of(raw: Element) -> list[Dataset]:
    """The items of a sequence; raises one of MALFORMED where its bytes are no items from first to last."""
    if isinstance(raw, DataElement):
        if raw.VR != "SQ":
            raise ValueError("not a sequence")
        return list(raw.value or ())
    value = raw.value or b""
    if not value:
        return []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        items = list(convert_SQ(value, raw.is_implicit_VR, raw.is_little_endian))
    # The library takes any eight bytes for the beginning of an item.
    places: list[int] = [item.seq_item_tell for item in items]
    if not places or places[0] != 0:
        raise ValueError("a sequence does not begin with an item")
    for place, end in zip(places, [*places[1:], len(value)], strict=True):
        _refuse_broken_item(value[place:end], is_little_endian=raw.is_little_endian)
    return items


def _refuse_broken_item(item: bytes, *, is_little_endian: bool) -> None:
    tag, length = _tag_and_length(item[:_HEAD], is_little_endian=is_little_endian)
    end = len(item) - _HEAD if length == UNDEFINED_LENGTH else _HEAD + length
    if end > len(item):
        raise ValueError("an item ends too early")
    rest = item[end:]
    closing = _ITEM_END if length == UNDEFINED_LENGTH else _SEQUENCE_END
    if tag != _ITEM or (rest and _tag_and_length(rest[:_HEAD], is_little_endian=is_little_endian) != (closing, 0)):
        raise ValueError("a sequence is not made of items")


def _tag_and_length(head: bytes, *, is_little_endian: bool) -> tuple[int, int]:
    group, element, length = struct.unpack("<HHL" if is_little_endian else ">HHL", head)
    return group << 16 | element, length


def _fit(dataset: Dataset, tag: BaseTag, raw: Element, written: str, allowed: list[str]) -> Element | Misfit:
    if isinstance(raw, RawDataElement) and raw.length not in (UNDEFINED_LENGTH, len(raw.value or b"")):
        return Misfit.VALUE  # it was cut off
    if written == " or ".join(allowed) and len(allowed) > 1:  # not written down; the image around it may tell
        element = dataset[tag]
        return element if element.VR in allowed else Misfit.VALUE
    if written not in allowed:
        return _renamed(raw, written, allowed[0])
    if written == "SQ":
        return _sequence(tag, items_of(raw))
    if isinstance(raw, DataElement):
        return raw
    if written in TEXT or written == "UN":
        return _raw(tag, written, raw.value or b"")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return dataset[tag]


def _sequence(tag: BaseTag, items: list[Dataset]) -> DataElement | Misfit:
    copies = []
    for item in items:
        copy = Dataset()
        copy.set_original_encoding(False, True)  # raw elements are then written as they are
        for place in item.keys():  # noqa: SIM118 (iterating a Dataset itself gives elements, decoded)
            if place.is_private or place.element == 0:
                continue
            element = copy_of(item, place)
            if isinstance(element, Misfit):
                return element
            assert element is not None
            copy[place] = element
        copies.append(copy)
    return DataElement(tag, "SQ", copies)


def _renamed(raw: Element, written: str, vr: str) -> Element | Misfit:
    """Text under another text VR: the same characters to every reader, whichever of the two VRs he goes by."""
    if written not in TEXT or vr not in TEXT:
        return Misfit.REPRESENTATION
    if isinstance(raw, DataElement):
        return DataElement(raw.tag, vr, raw.value)
    value = (raw.value or b"").rstrip(b" \0")
    is_plain = value.isascii() and b"\x1b" not in value
    if (written in ENCODED_TEXT) != (vr in ENCODED_TEXT) and not is_plain:
        return Misfit.REPRESENTATION
    if (written in SINGLE_TEXT) != (vr in SINGLE_TEXT) and b"\\" in value:
        return Misfit.REPRESENTATION
    if vr not in ENCODED_TEXT:
        for part in value.decode("latin-1").split("\\"):
            validate_value(vr, part.strip(" "), RAISE)
    return _raw(raw.tag, vr, value)


def _raw(tag: BaseTag, vr: str, value: bytes) -> RawDataElement:
    value += b"" if len(value) % 2 == 0 else b"\0" if vr in ("UI", "UN") else b" "
    return RawDataElement(tag, vr, len(value), value, 0, False, True)
