"""The SHA-256 of the data set in a file: equal for the same bytes, whatever the file meta before them says.

The data set begins where the group length of the file meta says, in our files and in those of any proper writer.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

from dicomnode.archive.disk import unreadable
from dicomnode.errors import StorageError
from dicomnode.part10 import read_meta


class NotAFileOfOursError(StorageError):
    """The file does not begin as a Part 10 file with a group length does."""


def dataset_digest(path: Path) -> str:
    """Return the digest of the data set of a file, read in pieces. Raises StorageError, NotAFileOfOursError."""
    try:
        with path.open("rb") as stream:
            meta = read_meta(stream)
            if meta is None or not meta.is_length_right:
                raise NotAFileOfOursError(
                    f"The archived file {path} does not begin as a DICOM file of this node; it was not used.",
                    hint="It was altered after it was stored: restore it from a backup, or have the series sent again.",
                )
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as exc:
        raise unreadable(path, exc) from exc


def digest_of_anything(path: Path) -> str:
    """Return the digest of the data set of a file, or of the whole file if it no longer begins as one of ours."""
    try:
        return dataset_digest(path)
    except NotAFileOfOursError:
        try:
            with path.open("rb") as stream:
                return hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as exc:
            raise unreadable(path, exc) from exc


def digest_in(content: bytes) -> str | None:
    """Return the digest of the data set in the content of a file; None where it does not begin as one of ours."""
    meta = read_meta(io.BytesIO(content))
    if meta is None or not meta.is_length_right:
        return None
    return hashlib.sha256(memoryview(content)[meta.start :]).hexdigest()
