"""Attributes that a derived series takes over from its source, and those left out since they break the standard."""

from __future__ import annotations

from collections.abc import Sequence

from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag, Tag

from dicomnode.derive.explicit_vr import tag_of
from dicomnode.imaging.headers import InstanceHeader
from dicomnode.imaging.identity import IDENTITY_GROUPS
from dicomnode.imaging.representation import Element, Misfit, copy_of, standard_vr, vr_of
from dicomnode.imaging.words import name_of


class Copies:
    """Elements of a thick series, fit to be written in any transfer syntax; remembers what was not."""

    def __init__(self, headers: Sequence[InstanceHeader]) -> None:
        self._headers = headers
        self._misfits: dict[BaseTag, Misfit] = {}
        self._renamed: dict[BaseTag, str] = {}  # → the VR that the standard gives it

    def common(self, keyword: str) -> Element | None:
        """The element that all source slices share, or None."""
        tag = Tag(tag_of(keyword))
        first, *others = [self._taken(header, tag) for header in self._headers]
        if tag in self._misfits:
            return None
        return first if all(_is_same(first, other) for other in others) or self._is_one_name(keyword) else None

    def first(self, keyword: str) -> Element | None:
        """The element of the first slice."""
        return self._taken(self._headers[0], Tag(tag_of(keyword)))

    def identity(self) -> list[Element]:
        """Groups 0010 and 0012 of the first slice: all slices agree on them, spellings apart."""
        tags = [tag for tag in sorted(self._headers[0].dataset.keys()) if tag.group in IDENTITY_GROUPS]
        found = [self._taken(self._headers[0], tag) for tag in tags if tag.element != 0]
        return [element for element in found if element is not None]

    def notes(self, written: Dataset) -> list[str]:
        """Sentences on what ``written`` lacks of what was asked for, or says under another VR than its source."""
        lacking = [tag for tag in sorted(self._misfits) if tag not in written or not written.get_item(tag).value]
        return [
            *(f"{name_of(tag)} was left out of the derived series: {self._misfits[tag]}." for tag in lacking),
            *(
                f"{name_of(tag)} has the value representation {vr} in the derived series, as the standard says; "
                "the source gives another one to the same text."
                for tag, vr in sorted(self._renamed.items())
                if tag in written and tag not in self._misfits
            ),
        ]

    def _taken(self, header: InstanceHeader, tag: BaseTag) -> Element | None:
        element = copy_of(header.dataset, tag)
        if element is None:
            return None
        if isinstance(element, Misfit):
            self._misfits[tag] = element
            return None
        if vr_of(header.dataset.get_item(tag), tag) not in (element.VR, standard_vr(tag)):
            self._renamed[tag] = str(element.VR)
        return element

    def _is_one_name(self, keyword: str) -> bool:
        """Is it a person's name, spelled in more than one way?"""
        return standard_vr(Tag(keyword)) == "PN" and len({header.canonical(keyword) for header in self._headers}) == 1


def _is_same(one: Element | None, other: Element | None) -> bool:
    """Byte for byte, padding apart: nothing is decoded, in items neither, or it would be encoded anew."""
    if isinstance(one, RawDataElement) and isinstance(other, RawDataElement):
        return (one.value or b"").rstrip(b" \0") == (other.value or b"").rstrip(b" \0")
    if isinstance(one, DataElement) and isinstance(other, DataElement) and one.VR == other.VR == "SQ":
        return len(one.value) == len(other.value) and all(map(_is_same_item, one.value, other.value))
    return one == other


def _is_same_item(one: Dataset, other: Dataset) -> bool:
    return one.keys() == other.keys() and all(_is_same(one.get_item(tag), other.get_item(tag)) for tag in one.keys())  # noqa: SIM118 (iterating a Dataset itself gives elements, decoded)
