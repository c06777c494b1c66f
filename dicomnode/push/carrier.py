"""The interface between a delivery and the protocol by which it reaches a peer.

A ``Carrier`` opens a ``Session`` with one peer; the session sends instances, as many at a time as one request of its
protocol takes, and says of each what the peer answered. The delivery uses these two protocols and nothing below them:
another way to a peer is another implementation. Nothing here raises for what a peer does or fails to do: every failure
is a ``RequestOutcome``. Only a file of ours that cannot be read raises, StorageError.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from dicomnode import wire
from dicomnode.archive.disk import unreadable
from dicomnode.dimse.outcome import RequestOutcome
from dicomnode.part10 import read_meta
from dicomnode.settings.peers import PeerSettings

# For one session. Each may need a second presentation context, for the same class in implicit VR little endian.
MOST_FORMATS = wire.MAXIMUM_CONTEXTS // 2

_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class InstanceFormat:
    """The format of an instance: its SOP class and its transfer syntax, which a peer must accept together to get it."""

    sop_class_uid: str
    transfer_syntax_uid: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OutgoingInstance:
    """An instance and the file that holds it. Its bytes go out as they are wherever the peer allows it."""

    format: InstanceFormat
    sop_instance_uid: str
    path: Path  # of a file with file meta (PS3.10)

    @property
    def size_bytes(self) -> int:
        """The size of the whole file."""
        try:
            return self.path.stat().st_size
        except OSError as exc:
            raise unreadable(self.path, exc) from exc

    def read_dataset(self) -> memoryview:
        """Read the data set alone, without preamble and file meta."""
        try:
            with self.path.open("rb") as file:
                read_meta(file)
                return memoryview(file.read())
        except OSError as exc:
            raise unreadable(self.path, exc) from exc

    def blocks(self) -> Iterator[bytes]:
        """Yield the whole file, piece by piece."""
        try:
            with self.path.open("rb") as file:
                while block := file.read(_BLOCK_BYTES):
                    yield block
        except OSError as exc:
            raise unreadable(self.path, exc) from exc


class Session(Protocol):
    """An open way to one peer. One thread uses it; only ``abort`` may come from another."""

    def refusal(self, formats: Collection[InstanceFormat]) -> RequestOutcome | None:
        """Say which of these formats the peer does not accept in this session; None: it accepts all of them."""

    def batch(self, instances: Sequence[OutgoingInstance]) -> int:
        """Say how many of these instances, from the first on, go out together; one at least."""

    def store(self, instances: Sequence[OutgoingInstance]) -> list[RequestOutcome]:
        """Send such a batch and wait; return the answer to each instance, in order.

        A status is that of a C-STORE (PS3.4 Annex B.2.3). A session that has ended answers at once how it ended.
        """

    def close(self) -> None:
        """End the session in order."""

    def abort(self) -> None:
        """End the session at once: a ``store`` that waits for its answer ends too."""


class Carrier(Protocol):
    """One protocol by which instances reach peers. Safe to use from many threads."""

    def open(self, peer: PeerSettings, formats: Collection[InstanceFormat]) -> Session | RequestOutcome:
        """Open a session that offers these formats, ``MOST_FORMATS`` at the most, or say why there is none."""


class IdentityCheck(Protocol):
    """Asks one peer whose study it has. One thread uses it; only ``abort`` may come from another."""

    def differences(self, path: Path) -> tuple[str, ...]:
        """Name the attributes by which the peer has the study of this file under another patient; none: it may go."""

    def abort(self) -> None:
        """End the query at once."""
