"""The body of an answer, in the DICOM JSON model (PS3.18 Annex F) or the Native DICOM Model in XML (PS3.19 Annex A).

In: bytes that a server sent. Out: what it says of each instance, by SOP Instance UID, or the values of each match of a
search; None where the bytes cannot be read. Nothing here raises for what the bytes are.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from xml.parsers.expat import ExpatError, ParserCreate

from pydicom.datadict import tag_for_keyword

from dicomnode import wire

PROCESSING_FAILURE = 0x0110

_REFERENCED_UID = "00081155"
_WARNING_REASON, _FAILURE_REASON = "00081196", "00081197"
_FAILED, _REFERENCED = "00081198", "00081199"  # Failed and Referenced SOP Sequence (PS3.18 Table 10.5.3-2)

Attributes = dict[str, list[object]]  # tag in hexadecimal digits → values; an item of a sequence is such a dict


def read_statuses(body: bytes) -> dict[str, int] | None:
    """Read the answer to a STOW-RS request: the status of each instance that it names, as of a C-STORE."""
    found = _read(body)
    if found is None:
        return None
    statuses: dict[str, int] = {}
    for attributes in found:
        for item in _items(attributes, _REFERENCED):
            statuses[_text(item, _REFERENCED_UID)] = _warning(_number(item, _WARNING_REASON))
    for attributes in found:  # afterwards: an instance that is named as failed is not stored, whatever else is said
        for item in _items(attributes, _FAILED):
            statuses[_text(item, _REFERENCED_UID)] = _failure(_number(item, _FAILURE_REASON))
    statuses.pop("", None)
    return statuses


def read_matches(body: bytes, keywords: Collection[str]) -> list[dict[str, str]] | None:
    """Read the answer to a search (QIDO-RS): these values of each match, empty where it has none."""
    found = _read(body)
    if found is None:
        return None
    tags = {keyword: f"{tag:08X}" for keyword in keywords if (tag := tag_for_keyword(keyword)) is not None}
    return [{keyword: _text(one, tag) for keyword, tag in tags.items()} for one in found]


def _warning(reason: int | None) -> int:
    """Return the C-STORE status of an instance that was stored: 0, or its warning."""
    return reason if reason is not None and wire.status_of(reason).action is wire.Action.WARN else 0


def _failure(reason: int | None) -> int:
    """Return the C-STORE status of an instance that was not stored; never a success or a warning."""
    if reason is None or wire.status_of(reason).action in (wire.Action.ACCEPT, wire.Action.WARN):
        return PROCESSING_FAILURE
    return reason


def _read(body: bytes) -> list[Attributes] | None:
    """Read the data sets of a body. Its first character decides the format, since Content-Type is often wrong."""
    begin = body.lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
    try:
        if begin in (b"{", b"["):
            read = json.loads(body.decode("utf-8-sig"))
            return [_attributes(one) for one in (read if isinstance(read, list) else [read])]
        return [_Xml().read(body)] if begin == b"<" else None
    except (ValueError, ExpatError, RecursionError):
        return None


def _attributes(model: object) -> Attributes:
    """Read a data set of the JSON model."""
    if not isinstance(model, dict):
        raise ValueError("no data set")
    found: Attributes = {}
    for tag, element in model.items():
        values = element.get("Value") if isinstance(element, dict) else None
        if isinstance(values, list):
            read = _name if element.get("vr") == "PN" else _attributes
            found[tag.upper()] = [read(one) if isinstance(one, dict) else one for one in values]
    return found


def _name(model: dict[str, object]) -> str:
    """Return a person's name as a data set holds it, from the object of component groups of the JSON model (F.2.2)."""
    groups = (model.get(group, "") for group in ("Alphabetic", "Ideographic", "Phonetic"))
    return "=".join(one if isinstance(one, str) else "" for one in groups).rstrip("=")


class _Xml:
    """Reads a data set of the XML model. A document type is refused, because it could define entities."""

    def __init__(self) -> None:
        self._datasets: list[Attributes] = [{}]  # the one that is being read, and those around it
        self._tags: list[str] = []
        self._text: list[str] | None = None

    def read(self, body: bytes) -> Attributes:
        """Read a whole document. Raises ExpatError, ValueError."""
        parser = ParserCreate()
        parser.StartDoctypeDeclHandler = self._refuse
        parser.StartElementHandler = self._begin
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._say
        parser.Parse(body, True)
        return self._datasets[0]

    def _refuse(self, *_: object) -> None:
        raise ValueError("a document type")

    def _begin(self, name: str, attributes: dict[str, str]) -> None:
        match name.rpartition(":")[2]:
            case "DicomAttribute":
                self._tags.append(attributes.get("tag", "").upper())
            case "Item":
                self._datasets.append({})
            case "Value":
                self._text = []

    def _end(self, name: str) -> None:
        match name.rpartition(":")[2]:
            case "DicomAttribute":
                self._tags.pop()
            case "Item":
                self._add(self._datasets.pop())
            case "Value":
                self._add("".join(self._text or []))
                self._text = None

    def _say(self, text: str) -> None:
        if self._text is not None:
            self._text.append(text)

    def _add(self, value: object) -> None:
        if not self._tags or not self._datasets:
            raise ValueError("a value outside an attribute")
        self._datasets[-1].setdefault(self._tags[-1], []).append(value)


def _items(attributes: Attributes, tag: str) -> Iterator[Attributes]:
    return (item for item in attributes.get(tag, []) if isinstance(item, dict))


def _text(attributes: Attributes, tag: str) -> str:
    values = attributes.get(tag, [])
    return values[0].strip(" \0") if values and isinstance(values[0], str) else ""


def _number(attributes: Attributes, tag: str) -> int | None:
    """Read a 16-bit number, also one in text: that is not in the model, but servers write it."""
    values = attributes.get(tag, [])
    value = values[0] if values else None
    if isinstance(value, str) and value.strip().isdecimal():
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 0xFFFF else None
