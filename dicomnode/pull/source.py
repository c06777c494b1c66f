"""The interface between a pull and the protocol by which a peer is asked.

A ``Source`` searches at a level (PS3.4 Annex C) and has instances brought to the node's door. What it says of its own
success is not read: the instances that came are counted there. Nothing here raises for what a peer does or fails to do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from dicomnode.dimse.outcome import RequestOutcome

MOST_MATCHES = 1 << 16  # of one search

Match = dict[str, str]  # keyword → value, empty where the peer has none


class Source(Protocol):
    """A peer that is asked. One thread uses it."""

    def find(self, level: str, values: Mapping[str, str]) -> list[Match] | RequestOutcome:
        """Search; an empty value asks for the value. A status that is no success is an outcome, too."""

    def fetch_series(self, study_uid: str, series_uid: str, sop_instance_uids: Sequence[str]) -> RequestOutcome:
        """Have the instances of a series brought."""

    def fetch_one(self, study_uid: str, series_uid: str, sop_instance_uid: str) -> RequestOutcome:
        """Have one instance brought."""

    def close(self) -> None:
        """End what is open."""
