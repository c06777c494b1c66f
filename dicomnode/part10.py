"""Read DICOM files (PS3.10): the kind of a file, its file meta, and the place where its data set begins.

In: a path or an open file. Out: its kind, its file meta, the SHA-256 of its data set; and the file meta of a new file
as bytes. No function here looks at an element of the data set, and none raises for wrong bytes. An OSError of the disk
is passed on: the caller puts it into words. No DICOM library is needed.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO

from dicomnode.ids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, UID_BOUND

PREFIX = b"DICM"
PREAMBLE_BYTES = 128
META_START = PREAMBLE_BYTES + len(PREFIX)

SHORT_VRS = frozenset(
    b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split()
)  # VRs with a 16-bit length (PS3.5 Table 7.1-2); every other, also a future one, has 32 bits (Table 7.1-1)
SHORT_HEAD_BYTES, LONG_HEAD_BYTES = 8, 12
_SHORT = struct.Struct("<HH2sH")  # tag, value representation, length
_LONG = struct.Struct("<HH2sxxL")

_GROUP = 0x0002
_GROUP_LENGTH = 0x00020000
_SOP_CLASS, _SOP_INSTANCE, _TRANSFER_SYNTAX = 0x00020002, 0x00020003, 0x00020010
_PRIVATE_CREATOR, _PRIVATE = 0x00020100, 0x00020102
_KEPT = frozenset({_GROUP_LENGTH, _SOP_CLASS, _SOP_INSTANCE, _TRANSFER_SYNTAX, _PRIVATE_CREATOR, _PRIVATE})
_VALUE_LIMIT_BYTES = 65536  # a longer value is passed over: ours take about 500 together

_CHUNK = 1 << 16
_APPLE_MAGICS = (bytes.fromhex("00051607"), bytes.fromhex("00051600"))  # AppleDouble and AppleSingle (RFC 1740)
# The lowest groups that a data set begins with, and the VRs that their first elements have.
_FIRST_GROUPS = (b"\x02\x00", b"\x08\x00")
_FIRST_VRS = frozenset({b"UL", b"OB", b"UI", b"CS", b"DA", b"TM", b"SH", b"DT", b"LO"})
_FIRST_LENGTH = 1024  # bytes of an element without VR; a longer one is no UID, date or character set


class Kind(StrEnum):
    """The kinds of file, by their first bytes."""

    PART10 = "part10"  # preamble and DICM
    NO_META = "no_meta"  # a DICOM data set without the file header of PS3.10
    APPLE = "apple"  # a companion file of macOS
    EMPTY = "empty"  # no bytes, or nothing but zeros, as an interrupted copy leaves a file
    OTHER = "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class FileMeta:
    """The file meta in front of a data set. The UIDs are text without padding: perhaps no valid UIDs, or ""."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    private_creator_uid: str
    private: bytes  # Private Information, padding included
    start: int  # offset of the data set, in bytes from the beginning of the file
    is_length_right: bool  # true: the group length, which the standard demands, leads there


def kind_of(path: Path) -> Kind:
    """Find the kind of a file by the bytes at its beginning. Raises OSError where it cannot be opened."""
    with path.open("rb") as file:
        head = file.read(_CHUNK)
        if head[PREAMBLE_BYTES:META_START] == PREFIX:
            return Kind.PART10
        if head[:4] in _APPLE_MAGICS or path.name.startswith("._"):
            return Kind.APPLE
        if _is_dataset(head):
            return Kind.NO_META
        if not head[:PREAMBLE_BYTES].strip(b"\0") and PREFIX.startswith(head[PREAMBLE_BYTES:]):
            return Kind.EMPTY  # cut within the preamble, or in the word after it
        while head:
            if head.strip(b"\0"):
                return Kind.OTHER
            head = file.read(_CHUNK)
    return Kind.EMPTY


def _is_dataset(head: bytes) -> bool:
    """Tell whether the bytes begin with a first element, with or without a VR (PS3.5 section 7.1)."""
    if len(head) < SHORT_HEAD_BYTES or head[:2] not in _FIRST_GROUPS:
        return False
    return head[4:6] in _FIRST_VRS or 0 < int.from_bytes(head[4:8], "little") <= _FIRST_LENGTH


def read_meta(file: BinaryIO) -> FileMeta | None:
    """Read the file meta and go to the data set; None, and back to the beginning, where there is no file meta.

    The data set begins where the group length says: a sender may have put elements of group 0002 into the data set
    itself. If that is not the end of an element, the data set begins after the last element of group 0002.

    >>> from io import BytesIO
    >>> file = BytesIO(file_meta(sop_class_uid="1.2", sop_instance_uid="1.2.3", transfer_syntax_uid="1.2.4") + b"rest")
    >>> meta = read_meta(file)
    >>> meta.sop_instance_uid, meta.is_length_right, file.read()
    ('1.2.3', True, b'rest')
    """
    file.seek(0)
    if file.read(META_START)[PREAMBLE_BYTES:] != PREFIX:
        file.seek(0)
        return None
    values: dict[int, bytes] = {}
    start, stated_start = META_START, -1
    while start != stated_start and len(head := file.read(LONG_HEAD_BYTES)) >= SHORT_HEAD_BYTES:
        tag, head_bytes, length = element_head(head.ljust(LONG_HEAD_BYTES, b"\0"))
        if tag >> 16 != _GROUP:
            break
        if tag in _KEPT and length <= _VALUE_LIMIT_BYTES:
            file.seek(start + head_bytes)
            values.setdefault(tag, file.read(length))
        start += head_bytes + length
        file.seek(start)
        if tag == _GROUP_LENGTH and stated_start < 0 and (stated := int.from_bytes(values.get(tag, b""), "little")):
            stated_start = start + stated
    file.seek(start)
    return FileMeta(
        sop_class_uid=_text(values, _SOP_CLASS),
        sop_instance_uid=_text(values, _SOP_INSTANCE),
        transfer_syntax_uid=_text(values, _TRANSFER_SYNTAX),
        private_creator_uid=_text(values, _PRIVATE_CREATOR),
        private=values.get(_PRIVATE, b""),
        start=start,
        is_length_right=start == stated_start,
    )


def _text(values: dict[int, bytes], tag: int) -> str:
    return values.get(tag, b"").decode("latin-1").strip(" \0")


def dataset_sha256(file: BinaryIO) -> str:
    """Return the SHA-256 of the data set, whatever its file meta is; of all bytes where there is no file meta."""
    read_meta(file)
    found = hashlib.sha256()  # hashlib.file_digest takes the whole of a file in memory, wherever it is positioned
    while piece := file.read(_CHUNK):
        found.update(piece)
    return found.hexdigest()


def file_meta(
    *, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str, private: bytes | None = None
) -> bytes:
    """Return preamble and file meta of a new file, with private information of ours where it is given.

    The UIDs may be anything that a peer sent: a character that is not ASCII becomes "?", and too long text is cut.
    """
    elements = [
        element(0x00020001, "OB", b"\0\1"),
        _uid(_SOP_CLASS, sop_class_uid),
        _uid(_SOP_INSTANCE, sop_instance_uid),
        _uid(_TRANSFER_SYNTAX, transfer_syntax_uid),
        _uid(0x00020012, IMPLEMENTATION_CLASS_UID),
        element(0x00020013, "SH", padded(IMPLEMENTATION_VERSION_NAME.encode("ascii"), b" ")),
    ]
    if private is not None:
        elements += [_uid(_PRIVATE_CREATOR, IMPLEMENTATION_CLASS_UID), element(_PRIVATE, "OB", padded(private, b"\0"))]
    content = b"".join(elements)
    length = element(_GROUP_LENGTH, "UL", len(content).to_bytes(4, "little"))
    return bytes(PREAMBLE_BYTES) + PREFIX + length + content


def _uid(tag: int, uid: str) -> bytes:
    return element(tag, "UI", padded(uid.encode("ascii", "replace")[:UID_BOUND], b"\0"))


def element(tag: int, vr: str, *value: bytes) -> bytes:
    """Encode one element in Explicit VR Little Endian. Its value may come in parts, together of even length."""
    content = value[0] if len(value) == 1 else b"".join(value)
    assert len(content) % 2 == 0
    representation = vr.encode("ascii")
    head = _SHORT if representation in SHORT_VRS else _LONG
    return head.pack(tag >> 16, tag & 0xFFFF, representation, len(content)) + content


def element_head(encoded: bytes, at: int = 0) -> tuple[int, int, int]:
    """Return tag, bytes of the head, and length of the value of an element in Explicit VR Little Endian."""
    group, number, vr, length = _SHORT.unpack_from(encoded, at)
    if vr in SHORT_VRS:
        return group << 16 | number, SHORT_HEAD_BYTES, length
    return group << 16 | number, LONG_HEAD_BYTES, _LONG.unpack_from(encoded, at)[3]


def padded(value: bytes, pad: bytes) -> bytes:
    """Return the value, with a byte more where its length is odd (PS3.5 section 6.2)."""
    return value + pad if len(value) % 2 else value
