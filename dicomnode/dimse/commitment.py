"""The values of storage commitment, the same for each protocol: the instances asked for, and the report of the peer."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reference:
    """An instance by its SOP class and its own UID."""

    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The report of a peer on one request: instances that it commits to, and those that it does not, with reasons."""

    transaction_uid: str
    committed: frozenset[str]  # SOP Instance UIDs
    failed: dict[str, int]  # SOP Instance UID → Failure Reason (PS3.3 section C.14.1.1)
