"""What a delivery needs of the protocol by which it reaches a peer, whichever that is.

A ``Carrier`` opens a ``Session`` with one peer; the session sends instances, one after the other, and says of each
what the peer answered. The delivery knows these two protocols and nothing below them: another way to a peer is
another implementation. Nothing here raises for what a peer does or fails to do: every failure is a
``RequestOutcome``.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from dicomnode import wire
from dicomnode.dimse.outcome import RequestOutcome
from dicomnode.settings.models import PeerSettings

# For one session. Each may need a second presentation context, for the same class in implicit VR little endian.
MOST_FORMATS = wire.MAXIMUM_CONTEXTS // 2


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class InstanceFormat:
    """What a peer must accept to get an instance: its SOP class in its transfer syntax."""

    sop_class_uid: str
    transfer_syntax_uid: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OutgoingInstance:
    """An instance as its file holds it. The bytes of the data set go out as they are wherever the peer allows it."""

    format: InstanceFormat
    sop_instance_uid: str
    dataset: memoryview  # without preamble and file meta


class Session(Protocol):
    """An open way to one peer. One thread uses it; only ``abort`` may come from another."""

    def refusal(self, formats: Collection[InstanceFormat]) -> RequestOutcome | None:
        """Say which of these formats the peer does not accept in this session; None: it accepts all of them."""

    def store(self, instance: OutgoingInstance) -> RequestOutcome:
        """Send one instance and wait for the answer.

        The status is that of a C-STORE (PS3.4 Annex B.2.3). A session that has ended answers at once how it ended.
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
        """End the question at once."""
