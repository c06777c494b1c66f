"""Parts of an answer are taken apart by the boundary, whatever bytes they hold; a body that was cut has none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicomnode.stow.body import Body
from dicomnode.stow.parts import read_parts
from tests.stow.test_body import Bytes


@given(st.lists(st.binary(), min_size=1))
def test_what_is_sent_is_read_back(files: list[bytes]) -> None:
    body = Body([Bytes(content) for content in files])
    assert read_parts(body.headers["Content-Type"], b"".join(body.blocks())) == files


TYPE = 'multipart/related; type="application/dicom"; boundary=b1'


@pytest.mark.parametrize(
    "body",
    [b"", b"--b1", b"--b1\r\nContent-Type: application/dicom\r\n\r\nhalf", b"--b1--\r\n", b"--b1\r\nx\r\n--b1--"],
)
def test_a_body_that_is_not_whole_has_no_parts(body: bytes) -> None:
    assert not read_parts(TYPE, body)


def test_a_preamble_is_passed_over_and_another_type_has_no_parts() -> None:
    body = b"hello\r\n--b1\r\nA: b\r\n\r\none\r\n--b1--"
    assert read_parts(TYPE, body) == [b"one"]
    assert read_parts("application/dicom", body) is None
