"""Seen in the field: an anonymiser writes text where the standard has a sequence, and other elements of a wrong VR.

Never a crash, never an item that nobody wrote, never an object that a PACS of implicit VR cannot read.
"""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.tag import Tag

from dicomnode.dimse.outcome import RequestReason
from dicomnode.ids import AeTitle
from dicomnode.imaging.dicom_file import UnreadableHeader
from dicomnode.imaging.frame import read_frames
from dicomnode.imaging.headers import read_header, read_header_or_reason
from dicomnode.imaging.judge import judge
from dicomnode.imaging.verdict import Limits, Verdict, VerdictReason
from dicomnode.push.dimse_carrier import DimseCarrier
from dicomnode.push.send_files import send_files
from dicomnode.settings.models import PushSettings
from dicomnode.settings.peers import PeerSettings
from dicomnode.wire import IMPLICIT, MR_IMAGE
from tests.support.dcmtk import needs_dcmtk, program, storescp
from tests.support.derived import SMALL, Made, made_from
from tests.support.due_delivery import Node
from tests.support.misbehaving_pacs import MisbehavingPacs
from tests.support.raw_elements import UNDEFINED, explicit, implicit, item, write_with

CARRIER = DimseCarrier(ae_title=AeTitle("NODE"), push=PushSettings())
TEXT = b"House Header Anonymizer "
CODE = explicit(0x00080100, b"SH", b"T1") + explicit(0x00080102, b"SH", b"99X ") + explicit(0x00080104, b"LO", b"head")
SEQUENCE_END = struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
ITEM_END = struct.pack("<HHL", 0xFFFE, 0xE00D, 0)

# keyword → the element as it stands in every slice
LEFT_OUT: dict[str, tuple[str, bytes]] = {
    "text under a sequence's tag": ("DeidentificationMethodCodeSequence", explicit(0x00120064, b"LO", TEXT)),
    "six bytes of text as a sequence": ("RequestAttributesSequence", explicit(0x00400275, b"SQ", b"ABCDEF")),
    "text as a sequence": ("ProcedureCodeSequence", explicit(0x00081032, b"SQ", TEXT)),
    "text of unknown VR under a sequence's tag": ("ReferencedStudySequence", explicit(0x00081110, b"UN", TEXT)),
    "bytes after the last item": ("AnatomicRegionSequence", explicit(0x00082218, b"SQ", item(CODE) + b"ABCDEF")),
    "an item under another tag": (
        "AdmittingDiagnosesCodeSequence",
        explicit(0x00081084, b"SQ", struct.pack("<HHL", 0x0008, 0x1084, len(CODE)) + CODE),
    ),
    "an item that is cut off": (
        "PrimaryAnatomicStructureSequence",
        explicit(0x00082228, b"SQ", item(CODE, length=len(CODE) + 20)),
    ),
    "text under a sequence's tag in an item": (
        "ReasonForVisitCodeSequence",
        explicit(0x00321067, b"SQ", item(CODE + explicit(0x00080121, b"LO", TEXT))),
    ),
    "a number where an item has text": (
        "RequestingServiceCodeSequence",
        explicit(0x00321034, b"SQ", item(explicit(0x00080100, b"US", b"\1\0"))),
    ),
    "a whole number where digits should be": ("RepetitionTime", explicit(0x00180080, b"US", b"\xa0\x0f")),
    "a floating number where digits should be": ("FlipAngle", explicit(0x00181314, b"FD", struct.pack("<d", 150.0))),
    "digits where whole numbers should be": ("AcquisitionMatrix", explicit(0x00181310, b"DS", b"0\\256\\256\\0 ")),
    "words where a code should be": ("PatientPosition", explicit(0x00185100, b"OW", b"HFS ")),
    "text that is no number": ("EchoNumbers", explicit(0x00180086, b"LO", b"first ")),
    "signed where unsigned": ("PatientSizeCodeSequence", explicit(0x00101021, b"SS", b"\1\0")),
}
KEPT: dict[str, tuple[str, bytes]] = {
    "a name of bytes": ("Patient's Name", explicit(0x00100010, b"OB", b"PHANTOM^")),
    "a name that is a sequence": ("Patient's Name", explicit(0x00100010, b"SQ", b"ABCDEF")),
    "a patient's number that is a number": ("Patient ID", explicit(0x00100020, b"US", b"\1\0")),
    "a birth date that is no date": ("Patient's Birth Date", explicit(0x00100030, b"LO", b"in the spring ")),
    "a sex that is a sequence": ("Patient's Sex", explicit(0x00100040, b"SQ", item(CODE))),
    "a study that is bytes": ("Study Instance UID", explicit(0x0020000D, b"OB", b"1.2.3\0")),
    "rows in digits": ("Rows", explicit(0x00280010, b"DS", b"20")),
    "rows signed": ("Rows", explicit(0x00280010, b"SS", b"\x14\0")),
    "columns of three bytes": ("Columns", explicit(0x00280011, b"US", b"\x18\0\0")),
    "a sign in words": ("Pixel Representation", explicit(0x00280103, b"CS", b"1 ")),
    "a position that is a sequence": ("Image Position (Patient)", explicit(0x00200032, b"SQ", b"ABCDEF")),
    "an image type of words": ("Image Type", explicit(0x00080008, b"OW", b"DERIVED\\")),
    "a scanning sequence that is a sequence": ("Scanning Sequence", explicit(0x00180020, b"SQ", b"")),
    "an echo time of bytes": ("Echo Time", explicit(0x00180081, b"OB", b"90")),
}
SOUND: dict[str, tuple[str, bytes]] = {
    "a sequence of undefined length": (
        "ProcedureCodeSequence",
        explicit(0x00081032, b"SQ", item(CODE + ITEM_END, length=UNDEFINED) + SEQUENCE_END, length=UNDEFINED),
    ),
    "an item of undefined length": (
        "ProcedureCodeSequence",
        explicit(0x00081032, b"SQ", item(CODE + ITEM_END, length=UNDEFINED)),
    ),
    "a sequence of unknown VR": (
        "ProcedureCodeSequence",
        explicit(0x00081032, b"UN", item(implicit(0x00080100, b"T1")) + SEQUENCE_END, length=UNDEFINED),
    ),
    "a number of unknown VR": ("AcquisitionMatrix", explicit(0x00181310, b"UN", struct.pack("<4H", 0, 256, 256, 0))),
    "a sequence without items": ("ProcedureCodeSequence", explicit(0x00081032, b"SQ", b"")),
}


def written(folder: Path, elements: Mapping[int, bytes], *, is_implicit: bool = False) -> list[Path]:
    """A small series with these elements in each slice."""
    return [
        write_with(folder / f"{number:04}.dcm", dataset, elements, is_implicit=is_implicit)
        for number, dataset in enumerate(SMALL.datasets())
    ]


def of_tag(element: bytes) -> dict[int, bytes]:
    group, number = struct.unpack("<HH", element[:4])
    return {group << 16 | number: element}


def judged(paths: list[Path]) -> Verdict:
    return judge(read_frames(paths), Limits())


def noted(made: Made, name: str) -> str:
    (note,) = [note for note in made.notes if note.startswith(f"{name} ")]
    return note


@pytest.mark.parametrize("what", LEFT_OUT)
def test_what_is_not_as_the_standard_says_is_left_out_and_said(tmp_path: Path, what: str) -> None:
    keyword, element = LEFT_OUT[what]
    paths = written(tmp_path, of_tag(element))
    assert judged(paths).process
    made = made_from(paths, 3)
    for dataset in made.datasets:
        assert keyword not in dataset or dataset[keyword].is_empty
    assert len(made.notes) == 1
    assert " was left out of the derived series: its value" in made.notes[0]


@pytest.mark.parametrize(
    ("tag", "name"),
    [(0x00120064, "De-identification Method Code Sequence"), (0x00100011, "Person Names to Use Sequence")],
)
def test_implicit_text_under_a_sequences_tag_becomes_no_item(tmp_path: Path, tag: int, name: str) -> None:
    paths = written(tmp_path, {tag: implicit(tag, TEXT)}, is_implicit=True)
    assert judged(paths).process
    made = made_from(paths, 3)
    assert all(Tag(tag) not in dataset for dataset in made.datasets)
    assert noted(made, name).endswith("its value in the source cannot be read.")


@pytest.mark.parametrize("what", KEPT)
def test_a_series_is_kept_where_that_says_who_it_is_or_how_its_pixels_are_read(tmp_path: Path, what: str) -> None:
    name, element = KEPT[what]
    verdict = judged(written(tmp_path, of_tag(element)))
    assert verdict.reason is VerdictReason.UNUSABLE
    assert verdict.sentence == f"Slice 1 cannot be used: its {name} cannot be read."


@pytest.mark.parametrize("what", SOUND)
def test_what_is_only_encoded_in_an_unusual_way_is_copied(tmp_path: Path, what: str) -> None:
    keyword, element = SOUND[what]
    paths = written(tmp_path, of_tag(element))
    assert judged(paths).process
    made = made_from(paths, 3)
    assert made.notes == ()
    assert made.datasets[0][keyword].value == dcmread(paths[0])[keyword].value


@pytest.mark.parametrize(
    ("tag", "vr", "value", "right"),
    [(0x00100010, b"LO", b"Phantom^Ball", "PN"), (0x0020000D, b"LO", b"1.2.3 ", "UI")],
)
def test_text_under_another_vr_of_text_is_the_same_text(
    tmp_path: Path, tag: int, vr: bytes, value: bytes, right: str
) -> None:
    paths = written(tmp_path, {tag: explicit(tag, vr, value)})
    assert judged(paths).process
    made = made_from(paths, 3)
    element = made.datasets[0][Tag(tag)]
    assert (element.VR, str(element.value)) == (right, value.decode().strip())
    (note,) = made.notes
    assert f" has the value representation {right} in the derived series" in note


def test_a_sequence_that_runs_through_the_rest_of_the_header_is_an_unreadable_header(tmp_path: Path) -> None:
    """Its length is undefined, and there is no item: not the disk's fault, so nothing waits for the disk."""
    for number, value in enumerate((TEXT, b"", struct.pack("<HHL", 0x0008, 0x0100, 0))):
        element = explicit(0x00081032, b"SQ", value, length=UNDEFINED)
        path = write_with(tmp_path / f"{number}.dcm", SMALL.datasets()[0], {0x00081032: element})
        found = read_header_or_reason(path)
        assert isinstance(found, UnreadableHeader)
        assert found.reason == "its header cannot be read"


def test_a_character_set_that_is_a_number_is_an_unreadable_header(tmp_path: Path) -> None:
    element = explicit(0x00080005, b"US", b"\1\0")
    verdict = judged(written(tmp_path, {0x00080005: element}))
    assert verdict.sentence == "Slice 1 cannot be used: its header cannot be read."


def test_slices_that_differ_in_such_bytes_are_not_taken_for_one_patient(tmp_path: Path) -> None:
    texts = (b"ABCDEF", b"ABCDEG")
    elements = [explicit(0x00120064, b"SQ", text) for text in texts]
    paths = [
        write_with(tmp_path / f"{number}.dcm", dataset, {0x00120064: elements[number % 2]})
        for number, dataset in enumerate(SMALL.datasets())
    ]
    verdict = judged(paths)
    assert (verdict.reason, verdict.alert) == (VerdictReason.DISAGREE, True)
    assert read_header(paths[0]).identity_digest == read_header(paths[2]).identity_digest


@needs_dcmtk
def test_a_pacs_of_implicit_vr_reads_the_derived_series_to_its_last_element(tmp_path: Path) -> None:
    """All faults at once, judged by DCMTK."""
    elements: dict[int, bytes] = {}
    for _, element in LEFT_OUT.values():
        elements |= of_tag(element)
    thin = made_from(written(tmp_path / "thick", elements), 3).write(tmp_path / "thin")
    with storescp(tmp_path / "pacs", "+xi") as port:
        peer = PeerSettings(name="pacs", ae_title=AeTitle("PACS"), address=f"127.0.0.1:{port}")
        sent = list(send_files(CARRIER, peer, thin))
    assert [one.outcome.status for one in sent] == [0] * len(thin)
    received = sorted((tmp_path / "pacs").iterdir())
    assert len(received) == len(thin)
    for path in received:
        dump = subprocess.run([program("dcmdump"), str(path)], capture_output=True, check=False, timeout=60)
        assert dump.returncode == 0, dump.stderr
        assert not dump.stderr
        assert dcmread(path).file_meta.TransferSyntaxUID == IMPLICIT
        assert b"(7fe0,0010)" in dump.stdout


def test_an_original_that_cannot_be_re_encoded_is_not_sent_and_named(tmp_path: Path) -> None:
    paths = written(tmp_path, {0x00120064: explicit(0x00120064, b"LO", TEXT)})
    with MisbehavingPacs(accepts=[(MR_IMAGE, [IMPLICIT])]) as pacs:
        peer = PeerSettings(name="pacs", ae_title=AeTitle("PACS"), address=f"127.0.0.1:{pacs.port}")
        sent = list(send_files(CARRIER, peer, paths[:2]))
    assert [one.outcome.reason for one in sent] == [RequestReason.NOT_ENCODABLE] * 2
    assert "its De-identification Method Code Sequence is not encoded as the standard says" in sent[0].outcome.sentence
    assert pacs.arrivals == []


def test_a_delivery_that_cannot_be_re_encoded_is_held_with_a_sentence(tmp_path: Path) -> None:
    """What was derived before the node left such elements out lies in archives still."""

    def spoil(path: Path) -> None:
        write_with(path, dcmread(path), {0x00120064: explicit(0x00120064, b"LO", TEXT)})

    node = Node(tmp_path)
    try:
        node.derive("pacs", change=spoil)
        with MisbehavingPacs(accepts=[(MR_IMAGE, [IMPLICIT])]) as pacs:
            node.push_to("pacs", pacs.port)
            held = node.wait_for("held")
        assert (held.reason, held.attempts) == ("not_encodable", 1)
        assert "De-identification Method Code Sequence" in held.sentence
        assert "explicit VR little endian" in held.sentence
    finally:
        node.close()
