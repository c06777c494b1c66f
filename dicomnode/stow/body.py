"""The body of a STOW-RS request (PS3.18 section 10.5.1): files as parts of one message, read while they are sent.

In: files of DICOM instances. Out: the headers and the bytes of the body, whose length is known before the first byte. A
file is neither kept in memory nor changed. The answer to the request is read elsewhere (``answer``).
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from dicomnode.errors import StorageError

# The type in quotes: "application/dicom" holds a slash, and servers refuse it without them (RFC 2045 section 5.1).
_CONTENT_TYPE = 'multipart/related; type="application/dicom"; boundary="{boundary}"'
_PART_HEAD = "--{boundary}\r\nContent-Type: application/dicom\r\n\r\n"
_PART_END = b"\r\n"
_END = "--{boundary}--\r\n"


class File(Protocol):
    """A file that is a part."""

    @property
    def size_bytes(self) -> int:
        """The size of the file. Raises StorageError."""

    def blocks(self) -> Iterator[bytes]:
        """Yield the bytes of the file, piece by piece. Raises StorageError."""


@dataclass(frozen=True, slots=True)
class Body:
    """The body of one request; it can be sent again, as the same bytes."""

    files: Sequence[File]
    boundary: str = field(default_factory=lambda: uuid.uuid4().hex)  # as good as never among the bytes of a file

    @property
    def headers(self) -> dict[str, str]:
        """The headers of the request that describe its body: Content-Type and Content-Length."""
        sizes = sum(file.size_bytes for file in self.files)
        around = len(self._head) + len(_PART_END)
        length = sizes + len(self.files) * around + len(self._end)
        return {"Content-Type": _CONTENT_TYPE.format(boundary=self.boundary), "Content-Length": str(length)}

    def blocks(self) -> Iterator[bytes]:
        """Yield the body, piece by piece. Raises StorageError where a file cannot be read, or has changed its size."""
        for file in self.files:
            left = file.size_bytes
            yield self._head
            for block in file.blocks():
                left -= len(block)
                yield block
            if left:
                raise StorageError(
                    "A file changed its size while it was sent.",
                    hint="Nothing may write into the archive but the node.",
                )
            yield _PART_END
        yield self._end

    @property
    def _head(self) -> bytes:
        return _PART_HEAD.format(boundary=self.boundary).encode()

    @property
    def _end(self) -> bytes:
        return _END.format(boundary=self.boundary).encode()
