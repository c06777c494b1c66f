"""Explicit VR little endian, byte by byte (PS3.5 section 7.1.2): elements that many instances share are encoded once.

pydicom encodes what may be anything; the few elements that an instance has of its own are known, and written here.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from io import BytesIO

from pydicom import dcmwrite
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataset import Dataset

from dicomnode.part10 import element, element_head, padded

_ITEM_TAG = b"\xfe\xff\x00\xe0"  # (FFFE,E000), PS3.5 section 7.5.1
_ASCII_PADDING = {"DS": b" ", "IS": b" ", "UI": b"\0"}  # PS3.5 section 6.2
_UNDEFINED_LENGTH = 0xFFFFFFFF


@cache
def tag_of(keyword: str) -> int:
    """The tag of a keyword, as one number.

    >>> hex(tag_of("PixelData"))
    '0x7fe00010'
    """
    tag = tag_for_keyword(keyword)
    assert tag is not None, keyword
    return int(tag)


def text_element(keyword: str, value: object) -> bytes:
    """An element of numbers in digits (DS, IS) or of a UID, padded to even length; a list is a multiple value.

    >>> text_element("InstanceNumber", 7)
    b' \\x00\\x13\\x00IS\\x02\\x007 '
    """
    vr = dictionary_VR(keyword)
    content = "\\".join(map(str, value if isinstance(value, list) else [value])).encode("ascii")
    return element(tag_of(keyword), vr, padded(content, _ASCII_PADDING[vr]))


def item(dataset: Dataset) -> bytes:
    """An item of a sequence, with its length."""
    content = written(dataset)
    return _ITEM_TAG + len(content).to_bytes(4, "little") + content


def written(dataset: Dataset) -> bytes:
    """A dataset as pydicom writes it, without file meta."""
    buffer = BytesIO()
    with without_warnings():
        dcmwrite(buffer, dataset, implicit_vr=False, little_endian=True)
    return buffer.getvalue()


def elements(encoded: bytes) -> dict[int, bytes]:
    """Each top-level element of an encoded dataset, by its tag."""
    found: dict[int, bytes] = {}
    at = 0
    while at < len(encoded):
        tag, head_bytes, length = element_head(encoded, at)
        assert length != _UNDEFINED_LENGTH, "sequences are built anew, and those pydicom writes with their length"
        found[tag] = encoded[at : at + head_bytes + length]
        at += head_bytes + length
    assert at == len(encoded), "the last element ends with the dataset"
    return found


@contextmanager
def without_warnings() -> Iterator[None]:
    """Hold back pydicom's warnings, which quote values; some are malformed in the source and stay so."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
