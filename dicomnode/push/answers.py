"""The possible answers when a peer is asked which instances and studies it has, or whether it keeps what it got."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dicomnode.dimse.commitment import Reference

MOST_STUDIES = 64  # under one Study Instance UID; a peer that ignores the UID would show all it has


@dataclass(frozen=True, slots=True)
class Request:
    """A request to commit to instances."""

    transaction_uid: str
    references: Sequence[Reference]


@dataclass(frozen=True, slots=True)
class NotOffered:
    """The peer does not offer the service, or not to us."""

    why: str


@dataclass(frozen=True, slots=True)
class Asked:
    """The peer has the request, or may have it; a report may come."""

    after_s: float | None = None  # the peer reports only when it is asked again, not before so long; None: by itself


@dataclass(frozen=True, slots=True)
class Told:
    """The peer answered with a report, which was taken."""


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """The request is not to go out any more."""


@dataclass(frozen=True, slots=True)
class Together:
    """The answers to requests on one association."""

    answers: Mapping[str, Asked | Withdrawn | NotOffered]  # by Transaction UID; a request that is absent did not go out
    is_told_here: bool  # a report came on the association
    is_cut: bool  # the association ended before the answer to a request came


@dataclass(frozen=True, slots=True)
class Found:
    """The SOP Instance UIDs of the series that the peer shows."""

    uids: frozenset[str]
