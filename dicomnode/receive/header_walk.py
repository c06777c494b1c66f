"""Read the four UIDs of a dataset from its first bytes while the sender waits.

A dataset's elements come in ascending order (PS3.5 section 7.1), so all that the receiver needs stands up to
(0020,000E), and the walk ends there: only the four values are decoded, and no element behind them is read, pixel
data least of all. In: bytes as they came over the wire, little endian, implicit or explicit VR. Out: the UIDs, or
the flaw that made the header unreadable. Whatever the bytes are, the walk ends after ``MAX_ELEMENTS`` elements and
raises nothing.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import StrEnum

from dicomnode.ids import UID_BOUND
from dicomnode.part10 import SHORT_VRS

MAX_ELEMENTS = 20_000  # with nested ones; a real header has some hundred before (0020,000E)
MAX_DEPTH = 16  # levels of nested sequences; the deepest real ones seen have five
MAX_UID_BYTES = UID_BOUND + 2  # a longer one is cut, and not unpadded, so that it stays beyond the bound

_SOP_CLASS, _SOP_INSTANCE, _STUDY, _SERIES = 0x00080016, 0x00080018, 0x0020000D, 0x0020000E
_WANTED = frozenset({_SOP_CLASS, _SOP_INSTANCE, _STUDY, _SERIES})
# Any element may be sent as UN (PS3.5 section 6.2.2). Programs read other VRs as other types: US as a list of numbers.
_UID_VRS = frozenset({b"UI", b"UN"})
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD  # PS3.5 section 7.5
_UNDEFINED = 0xFFFFFFFF
_TAG = struct.Struct("<HH")
_LENGTH_16 = struct.Struct("<H")
_LENGTH_32 = struct.Struct("<L")


class Flaw(StrEnum):
    """Reasons for which a header cannot be read: the text goes into the quarantine's record."""

    EMPTY = "the data set is empty"
    ODD = "the data set has an odd length"
    TRUNCATED = "an element reaches beyond the end of the data set"
    VR = "a value representation is not two capital letters: not explicit VR as negotiated"
    UID_VR = "a UID has the value representation of another kind of value"
    UNDEFINED = "an element that is no sequence has undefined length"
    DELIMITER = "a sequence is not made of items and delimiters"
    DEEP = "sequences are nested too deeply"
    LONG = "there are too many elements before the series UID"
    REPEATED = "one of the UIDs stands there twice"
    MISSING = "SOP class, SOP instance, study or series UID is missing"


@dataclass(frozen=True, slots=True, kw_only=True)
class HeaderUids:
    """The four UIDs as text, without padding: perhaps not valid UIDs, which the caller judges."""

    sop_class_uid: str
    sop_instance_uid: str
    study_uid: str
    series_uid: str


def read_uids(dataset: bytes | bytearray | memoryview, *, implicit: bool) -> HeaderUids | Flaw:
    """Walk the top level up to (0020,000E).

    >>> read_uids(b"", implicit=True).name
    'EMPTY'
    """
    if not dataset:
        return Flaw.EMPTY
    if len(dataset) % 2:
        return Flaw.ODD
    try:
        found = _Walk(memoryview(dataset).cast("B")).wanted(implicit=implicit)
    except _FlawFoundError as exc:
        return exc.flaw
    except struct.error:  # fewer bytes are left than the fixed part of an element has
        return Flaw.TRUNCATED
    if found.keys() != _WANTED:
        return Flaw.MISSING
    return HeaderUids(
        sop_class_uid=found[_SOP_CLASS],
        sop_instance_uid=found[_SOP_INSTANCE],
        study_uid=found[_STUDY],
        series_uid=found[_SERIES],
    )


class _FlawFoundError(Exception):
    def __init__(self, flaw: Flaw) -> None:
        super().__init__(flaw)
        self.flaw = flaw


class _Walk:
    """A position in the bytes, and the budget of elements."""

    def __init__(self, view: memoryview) -> None:
        self._view = view
        self._end = len(view)
        self._at = 0
        self._elements_left = MAX_ELEMENTS
        self._vr: bytes | None = None  # VR of the element that was read last; None: it has none

    def wanted(self, *, implicit: bool) -> dict[int, str]:
        """Return the values of the four tags, as far as they are there."""
        found: dict[int, str] = {}
        while self._at < self._end:
            tag, length, nested_implicit = self._element(implicit=implicit)
            if tag > _SERIES:
                break
            if length == _UNDEFINED:
                self._skip_items(implicit=nested_implicit, depth=1)
                continue
            start = self._skip(length)
            if tag in _WANTED:
                if not implicit and self._vr not in _UID_VRS:
                    raise _FlawFoundError(Flaw.UID_VR)
                if tag in found:
                    raise _FlawFoundError(Flaw.REPEATED)
                value = bytes(self._view[start : start + min(length, MAX_UID_BYTES)]).decode("latin-1")
                found[tag] = unpadded(value) if length <= MAX_UID_BYTES else value
        return found

    def _element(self, *, implicit: bool) -> tuple[int, int, bool]:
        """Read an element's head; return tag, length, and whether its items, if it is a sequence, have implicit VR."""
        self._elements_left -= 1
        if self._elements_left < 0:
            raise _FlawFoundError(Flaw.LONG)
        view, at = self._view, self._at
        group, element = _TAG.unpack_from(view, at)
        tag = group << 16 | element
        # Items and delimiters have no VR in either encoding (PS3.5 section 7.5).
        if implicit or group == 0xFFFE:
            (length,) = _LENGTH_32.unpack_from(view, at + 4)
            self._at, self._vr = at + 8, None
            return tag, length, implicit
        self._vr = vr = bytes(view[at + 4 : at + 6])
        if vr in SHORT_VRS:
            (length,) = _LENGTH_16.unpack_from(view, at + 6)
            self._at = at + 8
            return tag, length, False
        if not (vr.isalpha() and vr.isupper()):
            raise _FlawFoundError(Flaw.VR if len(vr) == 2 else Flaw.TRUNCATED)
        (length,) = _LENGTH_32.unpack_from(view, at + 8)
        self._at = at + 12
        if length == _UNDEFINED and vr not in (b"SQ", b"UN"):
            raise _FlawFoundError(Flaw.UNDEFINED)
        # A sequence of unknown VR is encoded as implicit VR whatever surrounds it (PS3.5 section 6.2.2, note 2).
        return tag, length, vr == b"UN"

    def _skip(self, length: int) -> int:
        start = self._at
        if length > self._end - start:
            raise _FlawFoundError(Flaw.TRUNCATED)
        self._at = start + length
        return start

    def _skip_items(self, *, implicit: bool, depth: int) -> None:
        """Skip the items of a sequence of undefined length, its delimiter included."""
        if depth > MAX_DEPTH:
            raise _FlawFoundError(Flaw.DEEP)
        while True:
            tag, length, _ = self._element(implicit=implicit)
            if tag == _SEQUENCE_END:
                return
            if tag != _ITEM:
                raise _FlawFoundError(Flaw.DELIMITER)
            if length != _UNDEFINED:
                self._skip(length)
                continue
            while True:
                tag, length, nested_implicit = self._element(implicit=implicit)
                if tag == _ITEM_END:
                    break
                if tag in (_ITEM, _SEQUENCE_END):
                    raise _FlawFoundError(Flaw.DELIMITER)
                if length == _UNDEFINED:
                    self._skip_items(implicit=nested_implicit, depth=depth + 1)
                else:
                    self._skip(length)


def unpadded(uid: str) -> str:
    """Remove the padding of a UID: one zero byte (PS3.5 section 9.1), or a space from some senders."""
    return uid.rstrip("\0 ")
