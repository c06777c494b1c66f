"""The headers of the instances of a series, read from the archive within limits of number and time."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from dicomnode.archive.store import Archive
from dicomnode.imaging.dicom_file import UnreadableHeader
from dicomnode.imaging.frame import Slice, frames_of
from dicomnode.imaging.headers import InstanceHeader, read_header_or_reason
from dicomnode.ledger.values import ArchivedInstance
from dicomnode.seams import Clock

INSTANCES_LIMIT = 5_000  # a stack has hundreds; some 50 kB of memory for each header
SLICES_LIMIT = 10_000  # over all multi-frame objects of a series
READ_LIMIT_S = 600.0  # for all headers of one series, from a slow disk


class TooMuchError(Exception):
    """The series is too large to be judged. It is kept, with the text of this exception as the sentence."""


class Stopped(Exception):
    """The service stops. The series stays settled and gets its verdict after the next start."""


class HeaderReader:
    """Reads headers until the service stops. Used by one thread."""

    def __init__(self, archive: Archive, clock: Clock, stopping: threading.Event) -> None:
        self._archive = archive
        self._clock = clock
        self._stopping = stopping

    def slices(self, instances: Sequence[ArchivedInstance]) -> list[Slice]:
        """Return the frames of the whole revision; a missing file counts as an unreadable slice.

        Raises TooMuchError beyond the limits, Stopped when the service stops.
        """
        if len(instances) > INSTANCES_LIMIT:
            raise TooMuchError(f"{len(instances)} instances are more than the {INSTANCES_LIMIT} that are judged.")
        until = self._clock.monotonic() + READ_LIMIT_S
        slices: list[Slice] = []
        for instance in instances:
            if self._stopping.is_set():
                raise Stopped
            path = self._archive.path(instance.file)
            if self._archive.has(instance.file):
                slices.extend(frames_of(path))
            else:
                slices.append(UnreadableHeader(path=path, reason="its file is missing from the archive"))
            if len(slices) > SLICES_LIMIT:
                raise TooMuchError(f"More than {SLICES_LIMIT} slices are too many to be judged.")
            if self._clock.monotonic() > until:
                raise TooMuchError(f"Reading the headers took longer than {READ_LIMIT_S:g} s.")
        return slices

    def name_of(self, file: str) -> tuple[str, str] | None:
        """Return study UID and description of the series of an archived file; None if the file cannot be read."""
        header = read_header_or_reason(self._archive.path(file)) if self._archive.has(file) else None
        if not isinstance(header, InstanceHeader):
            return None
        return header.study_uid, header.text("SeriesDescription")
