"""The body of a request has the length that it states, and the files in it are those on disk."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from email.parser import BytesParser

import pytest

from dicomnode.errors import StorageError
from dicomnode.stow.body import Body


@dataclass(frozen=True)
class Bytes:
    """A file in memory, in blocks of three bytes; ``stated``: a size that it does not have."""

    content: bytes
    stated: int | None = None

    @property
    def size_bytes(self) -> int:
        return len(self.content) if self.stated is None else self.stated

    def blocks(self) -> Iterator[bytes]:
        return (self.content[at : at + 3] for at in range(0, len(self.content), 3))


def test_another_parser_finds_the_files_and_the_length_is_right() -> None:
    files = [b"DICM one", b"", b"two\r\n--not the boundary\n"]
    body = Body([Bytes(content) for content in files])
    content = b"".join(body.blocks())
    assert int(body.headers["Content-Length"]) == len(content)
    assert body.headers["Content-Type"].startswith('multipart/related; type="application/dicom"; boundary="')
    head = f"Content-Type: {body.headers['Content-Type']}\r\n\r\n".encode()
    parts = BytesParser().parsebytes(head + content).get_payload()
    assert isinstance(parts, list)
    assert [part.get_content_type() for part in parts] == ["application/dicom"] * 3  # type: ignore[union-attr]
    assert [part.get_payload(decode=True) for part in parts] == files  # type: ignore[union-attr]


def test_it_can_be_sent_again_as_the_same_bytes() -> None:
    body = Body([Bytes(b"1234"), Bytes(b"5678")])
    assert list(body.blocks()) == list(body.blocks())
    assert Body([]).boundary != Body([]).boundary


def test_a_file_that_changed_its_size_ends_the_request() -> None:
    with pytest.raises(StorageError, match="changed its size"):
        list(Body([Bytes(b"1234", stated=5)]).blocks())
