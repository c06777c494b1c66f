"""AE titles that senders end or fill with NUL: equal to the configured ones, and shown as they came where they are not.

Seen in the field with eFilm and older modalities; the log named no title at all.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.receive.receiving_node import ReceivingNode, receiving_node, said
from tests.support.pdu import ASSOCIATE_AC, ASSOCIATE_RJ, associate_rq, raw_client


@pytest.fixture
def node(tmp_path: Path) -> Iterator[ReceivingNode]:
    with receiving_node(tmp_path / "data") as running:
        yield running


@pytest.mark.parametrize(
    ("called", "calling", "pad"),
    [
        (b"DICOMNODE", b"TEST", b"\0"),
        (b"DICOMNODE\0      ", b"TEST\0", b" "),
        (b"DICOMNODE", b"TEST\0ER ROOM 3", b" "),
        (b"DICOMNODE \0\xff\xfe", b"TEST\0\1\2", b" "),
        (b" DICOMNODE\0", b"  TEST \0", b"\0"),
    ],
)
def test_a_title_ends_at_its_first_nul(node: ReceivingNode, called: bytes, calling: bytes, pad: bytes) -> None:
    with raw_client(node.port) as client:
        answer = client.associate(associate_rq(called=called, calling=calling, pad=pad))
        assert answer is not None
        assert answer.kind == ASSOCIATE_AC
        assert client.echo() == 0x0000
        client.release()


@pytest.mark.parametrize(
    ("called", "calling", "code", "shown"),
    [
        (b"DICOMNODE", b"ABC\0\1", (1, 1, 3), r"ABC\x00\x01"),
        (b"DICOMNODE", b"\0TEST", (1, 1, 3), r"\x00TEST"),
        (b"DICOMNODE", b"", (1, 1, 3), ""),
        (b"DICOM\1NODE\0", b"TEST", (1, 1, 7), r"DICOM\x01NODE\x00"),
        (b"M\xdcNCHEN\\\0", b"TEST", (1, 1, 7), r"M\xdcNCHEN\x5c\x00"),
        (bytes(16), b"TEST", (1, 1, 7), r"\x00" * 16),
    ],
)
def test_a_rejected_title_stands_in_the_log_as_it_came(
    node: ReceivingNode,
    called: bytes,
    calling: bytes,
    code: tuple[int, ...],
    shown: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, logger="dicomnode")
    with raw_client(node.port) as client:
        answer = client.associate(associate_rq(called=called, calling=calling))
        assert answer is not None
        assert (answer.kind, answer.code) == (ASSOCIATE_RJ, code)
    (line,) = said(caplog, "association_rejected")
    assert line["calling" if code[2] == 3 else "called"] == shown
    assert not said(caplog, "association_ended"), "one line is enough"
