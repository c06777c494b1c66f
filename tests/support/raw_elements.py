"""Elements that no library would write: put byte for byte into a Part 10 file."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.tag import BaseTag
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from tests.support.dicom import dataset_bytes, encoded, write_part10

LONG_VRS = (b"OB", b"OW", b"SQ", b"UN", b"UT")
UNDEFINED = 0xFFFFFFFF


def explicit(tag: int, vr: bytes, value: bytes, *, length: int | None = None) -> bytes:
    """An element of Explicit VR Little Endian."""
    length = len(value) if length is None else length
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr)
    return head + (struct.pack("<HL", 0, length) if vr in LONG_VRS else struct.pack("<H", length)) + value


def implicit(tag: int, value: bytes, *, length: int | None = None) -> bytes:
    """An element of Implicit VR Little Endian."""
    return struct.pack("<HHL", tag >> 16, tag & 0xFFFF, len(value) if length is None else length) + value


def item(content: bytes, *, length: int | None = None) -> bytes:
    """An item of a sequence."""
    return struct.pack("<HHL", 0xFFFE, 0xE000, len(content) if length is None else length) + content


def write_with(path: Path, dataset: Dataset, elements: Mapping[int, bytes], *, is_implicit: bool = False) -> Path:
    """The file of ``dataset`` with the encoded elements in the places of their tags."""
    path.parent.mkdir(parents=True, exist_ok=True)
    syntax = ImplicitVRLittleEndian if is_implicit else ExplicitVRLittleEndian
    content = write_part10(path, dataset, syntax).read_bytes()
    parts = {int(tag): encoded(_alone(dataset, tag), implicit=is_implicit) for tag in dataset.keys()}  # noqa: SIM118 (tags)
    parts |= elements
    body = b"".join(parts[tag] for tag in sorted(parts))
    path.write_bytes(content[: len(content) - len(dataset_bytes(path))] + body)
    return path


def _alone(dataset: Dataset, tag: BaseTag) -> Dataset:
    one = Dataset()
    one[tag] = dataset[tag]
    return one
