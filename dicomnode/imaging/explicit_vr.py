"""Explicit VR little endian, byte by byte (PS3.5 section 7.1.2): elements that many instances share are encoded once.

pydicom encodes what may be anything; the few elements that an instance has of its own are known, and written here.
"""

from __future__ import annotations

import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from io import BytesIO

from pydicom import dcmwrite
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataset import Dataset

_SHORT = struct.Struct("<HH2sH")  # tag, value representation, length
_LONG = struct.Struct("<HH2sxxL")
_ITEM = struct.Struct("<HHL")
_ITEM_TAG = (0xFFFE, 0xE000)  # PS3.5 section 7.5.1
_LONG_VRS = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"})
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


def element(tag: int, vr: str, *value: bytes) -> bytes:
    """One element; its value may come in parts, together of even length."""
    content = value[0] if len(value) == 1 else b"".join(value)
    assert len(content) % 2 == 0
    group, number = divmod(tag, 0x10000)
    head = _LONG if vr in _LONG_VRS else _SHORT
    return head.pack(group, number, vr.encode("ascii"), len(content)) + content


def text_element(keyword: str, value: object) -> bytes:
    """An element of numbers in digits (DS, IS) or of a UID, padded to even length; a list is a multiple value.

    >>> text_element("InstanceNumber", 7)
    b' \\x00\\x13\\x00IS\\x02\\x007 '
    """
    vr = dictionary_VR(keyword)
    content = "\\".join(map(str, value if isinstance(value, list) else [value])).encode("ascii")
    return element(tag_of(keyword), vr, content + _ASCII_PADDING[vr] * (len(content) % 2))


def item(dataset: Dataset) -> bytes:
    """An item of a sequence, with its length."""
    content = written(dataset)
    return _ITEM.pack(*_ITEM_TAG, len(content)) + content


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
        group, number, vr, length = _SHORT.unpack_from(encoded, at)
        head = _SHORT
        if vr.decode("ascii") in _LONG_VRS:
            head, length = _LONG, _LONG.unpack_from(encoded, at)[3]
        assert length != _UNDEFINED_LENGTH, "sequences are built anew, and those pydicom writes with their length"
        found[group << 16 | number] = encoded[at : at + head.size + length]
        at += head.size + length
    assert at == len(encoded), "the last element ends with the dataset"
    return found


@contextmanager
def without_warnings() -> Iterator[None]:
    """Of values that were malformed in the source and stay so; pydicom's warnings quote them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
