"""The walk reads the four UIDs that pydicom reads, and ends quietly on everything else."""

from __future__ import annotations

import re
import struct
import warnings
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence

from dicomnode.ids import is_harmless_uid
from dicomnode.receive.header_walk import MAX_DEPTH, MAX_ELEMENTS, Flaw, HeaderUids, read_uids
from tests.support.dicom import encoded, mr_dataset
from tests.support.shared import DATA, SAMPLES, needs_shared
from tests.support.thorough import times

FOUR = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")


def by_pydicom(content: bytes, *, implicit: bool) -> tuple[str, ...] | None:
    """The four values as the field's own library reads them; nothing where it cannot or one is missing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            dataset = read_dataset(BytesIO(content), implicit, True, stop_when=lambda tag, _vr, _len: tag > 0x0020000E)
            return tuple(_joined(dataset[keyword].value) for keyword in FOUR)
        except Exception:  # noqa: BLE001 - whatever it raises, it does not read this
            return None


def _joined(value: object) -> str:
    """As it stood: a backslash within makes the library see several values."""
    return "\\".join(map(str, value)) if isinstance(value, MultiValue) else str(value)


def as_tuple(uids: HeaderUids) -> tuple[str, ...]:
    return (uids.sop_class_uid, uids.sop_instance_uid, uids.study_uid, uids.series_uid)


@pytest.mark.parametrize("implicit", [True, False])
@pytest.mark.parametrize("undefined_length", [True, False])
def test_sequences_before_the_uids_are_skipped_in_every_encoding(implicit: bool, undefined_length: bool) -> None:
    dataset = mr_dataset()
    inner = Dataset()
    inner.ReferencedSOPInstanceUID = "1.2.3"
    inner.SOPInstanceUID = "9.9.9"  # not the one of the top level
    outer = Dataset()
    outer.ReferencedImageSequence = Sequence([inner, inner])
    outer.ReferencedImageSequence.is_undefined_length = undefined_length
    dataset.ReferencedStudySequence = Sequence([outer, Dataset(), outer])
    dataset.ReferencedStudySequence.is_undefined_length = undefined_length
    content = encoded(dataset, implicit=implicit)
    found = read_uids(content, implicit=implicit)
    assert isinstance(found, HeaderUids)
    assert as_tuple(found) == by_pydicom(content, implicit=implicit) == tuple(str(dataset[one].value) for one in FOUR)


def test_a_sequence_of_unknown_vr_is_read_as_implicit() -> None:
    item = struct.pack("<HHL", 0x0008, 0x1150, 4) + b"1.2\0"
    sequence = struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF) + item + struct.pack("<HHL", 0xFFFE, 0xE00D, 0)
    unknown = struct.pack("<HH2sHL", 0x0009, 0x1001, b"UN", 0, 0xFFFFFFFF) + sequence
    unknown += struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
    content = encoded(mr_dataset())
    at = content.index(struct.pack("<HH", 0x0010, 0x0010))
    content = content[:at] + unknown + content[at:]
    assert isinstance(read_uids(content, implicit=False), HeaderUids)
    assert by_pydicom(content, implicit=False) is not None


def test_the_walk_ends_before_pixels_that_are_not_there() -> None:
    content = encoded(mr_dataset())
    at = content.index(struct.pack("<HH", 0x0020, 0x000E))
    end = at + 8 + struct.unpack_from("<H", content, at + 6)[0]
    assert isinstance(read_uids(content[:end], implicit=False), HeaderUids)
    assert read_uids(content[: end - 2], implicit=False) is Flaw.TRUNCATED


@pytest.mark.parametrize(
    ("content", "flaw"),
    [
        (b"", Flaw.EMPTY),
        (b"\0", Flaw.ODD),
        (b"\x08\0", Flaw.TRUNCATED),
        (struct.pack("<HHL", 0x0008, 0x0016, 4) + b"1.", Flaw.TRUNCATED),
        (struct.pack("<HHL", 0x0008, 0x0016, 4) + b"1.2\0", Flaw.MISSING),
        (struct.pack("<HHL", 0x7FE0, 0x0010, 0), Flaw.MISSING),
        ((struct.pack("<HHL", 0x0008, 0x0016, 4) + b"1.2\0") * 2, Flaw.REPEATED),
        (struct.pack("<HHL", 0x0008, 0x1140, 0xFFFFFFFF) + struct.pack("<HHL", 8, 8, 0), Flaw.DELIMITER),
        (struct.pack("<HHL", 0x0008, 0x1140, 0xFFFFFFFF), Flaw.TRUNCATED),
        (struct.pack("<HHL", 0x0008, 0x0000, 0) * (MAX_ELEMENTS + 1), Flaw.LONG),
        (
            (struct.pack("<HHL", 8, 0x1140, 0xFFFFFFFF) + struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF))
            * (MAX_DEPTH + 1),
            Flaw.DEEP,
        ),
    ],
)
def test_each_flaw_of_an_implicit_header_is_named(content: bytes, flaw: Flaw) -> None:
    assert read_uids(content, implicit=True) is flaw


def test_flaws_of_an_explicit_header_are_named() -> None:
    assert read_uids(encoded(mr_dataset(), implicit=True), implicit=False) is Flaw.VR
    undefined = struct.pack("<HH2sHL", 0x0009, 0x1001, b"OB", 0, 0xFFFFFFFF)
    assert read_uids(undefined, implicit=False) is Flaw.UNDEFINED


def test_an_explicit_header_read_as_implicit_gives_no_uids() -> None:
    assert isinstance(read_uids(encoded(mr_dataset()), implicit=True), Flaw)


def test_a_value_too_long_for_a_uid_is_cut_and_stays_no_uid() -> None:
    content = b"".join(
        struct.pack("<HHL", tag >> 16, tag & 0xFFFF, 4000) + b"1." * 2000
        for tag in (0x00080016, 0x00080018, 0x0020000D, 0x0020000E)
    )
    found = read_uids(content, implicit=True)
    assert isinstance(found, HeaderUids)
    assert not any(is_harmless_uid(uid) for uid in as_tuple(found))


def test_blanks_at_the_cut_do_not_make_a_uid_of_a_value_too_long_for_one() -> None:
    content = b"".join(
        struct.pack("<HHL", tag >> 16, tag & 0xFFFF, 400) + b"1" * 128 + b" " * 4 + b"2" * 268
        for tag in (0x00080016, 0x00080018, 0x0020000D, 0x0020000E)
    )
    found = read_uids(content, implicit=True)
    assert isinstance(found, HeaderUids)
    assert not any(is_harmless_uid(uid) for uid in as_tuple(found))


@pytest.mark.faults
@settings(max_examples=times(300, 30_000), deadline=None)
@given(content=st.binary(max_size=400), implicit=st.booleans())
@example(content=b"\xff" * 64, implicit=True)
def test_random_bytes_give_a_flaw_and_no_exception(content: bytes, implicit: bool) -> None:
    found = read_uids(content, implicit=implicit)
    assert isinstance(found, Flaw | HeaderUids)


@pytest.mark.parametrize(("vr", "flaw"), [(b"US", Flaw.UID_VR), (b"LO", Flaw.UID_VR), (b"UI", None)])
def test_a_uid_of_another_value_representation_is_a_flaw(vr: bytes, flaw: Flaw | None) -> None:
    content = encoded(mr_dataset(), implicit=False)
    damaged = content.replace(b"\x20\x00\x0e\x00UI", b"\x20\x00\x0e\x00" + vr, 1)
    found = read_uids(damaged, implicit=False)
    assert found is flaw if flaw else isinstance(found, HeaderUids)


def bare(uid: str) -> str:
    """Without padding at the ends, of each value: elsewhere than behind it, ``is_uid`` refuses what the walk read."""
    return "\\".join(re.sub(r"^[\0\s]+|[\0\s]+$", "", one) for one in uid.split("\\"))


@pytest.mark.faults
@settings(max_examples=times(400, 10_000), deadline=None)
@example(implicit=False, edits=[(52, 0)], cut=0)  # a NUL in front of the first UID
@example(implicit=False, edits=[(52, 92)], cut=0)  # a backslash in it
@example(implicit=False, edits=[(83, 83)], cut=0)  # its value representation is that of numbers
@given(
    implicit=st.booleans(),
    edits=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=4),
    cut=st.integers(0, 10**6),
)
def test_where_the_walk_reads_uids_in_a_damaged_header_pydicom_reads_the_same(
    implicit: bool, edits: list[tuple[int, int]], cut: int
) -> None:
    """Not the other way round: pydicom guesses another encoding, and takes what we refuse."""
    dataset = mr_dataset()
    dataset.ReferencedStudySequence = Sequence([mr_dataset()])
    dataset.ReferencedStudySequence.is_undefined_length = True
    del dataset.ReferencedStudySequence[0].PixelData
    content = bytearray(encoded(dataset, implicit=implicit)[:900])
    for place, value in edits:
        content[place % len(content)] = value
    damaged = bytes(content[: 2 * (cut % (len(content) // 2)) or None])
    found = read_uids(damaged, implicit=implicit)
    theirs = by_pydicom(damaged, implicit=implicit)
    if isinstance(found, HeaderUids) and theirs is not None:
        assert tuple(map(bare, as_tuple(found))) == tuple(map(bare, theirs))


@pytest.mark.parametrize("data", [SAMPLES, pytest.param(DATA, marks=needs_shared)], ids=["samples", "shared"])
def test_every_real_file_gives_the_uids_that_pydicom_reads(data: Path) -> None:
    """Philips, Siemens, GE, Hitachi, compressed, enhanced: all that is readable Part 10 in a known encoding."""
    count = 0
    for path in sorted(data.rglob("*.dcm")):
        content = path.read_bytes()
        if content[128:132] != b"DICM" or content[132:140] != b"\x02\0\0\0UL\x04\0":
            continue
        meta_end = 144 + int.from_bytes(content[140:144], "little")
        if b"1.2.840.10008.1.2.2\0" in content[:meta_end] or b"1.2.840.10008.1.2.1.99" in content[:meta_end]:
            continue
        implicit = b"\x02\x00\x10\x00UI\x12\x001.2.840.10008.1.2\0" in content[:meta_end]
        dataset = content[meta_end:]
        theirs = by_pydicom(dataset, implicit=implicit)
        found = read_uids(dataset + b"\0" * (len(dataset) % 2), implicit=implicit)
        if theirs is not None:
            assert isinstance(found, HeaderUids), (path.name, found)
            assert as_tuple(found) == theirs, path.name
            count += 1
    assert count > 50
