"""Our own ids, content digests, and the UIDs of what we derive."""

from __future__ import annotations

import hashlib
import re
import secrets
import uuid
from typing import NewType

from dicomnode import __version__

AeTitle = NewType("AeTitle", str)
SeriesId = NewType("SeriesId", int)  # small integer, handed out by the ledger
InstanceId = NewType("InstanceId", int)  # random: a re-sent orphan never collides with its first file
JobId = NewType("JobId", int)
DeliveryId = NewType("DeliveryId", int)
ItemId = NewType("ItemId", int)
QuarantineId = NewType("QuarantineId", int)

# Who wrote a file or asked for an association: in every file meta and every A-ASSOCIATE of ours (PS3.7 D.3.3.2).
IMPLEMENTATION_CLASS_UID = "2.25.15120275358494966565776489282972198481"
IMPLEMENTATION_VERSION_NAME = f"DICOMNODE_{__version__}"[:16]

_UID = re.compile(r"(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*))+")
_UID_LENGTH = 64  # PS3.5 section 9.1


def new_instance_id() -> InstanceId:
    """A random id of 63 bits: SQLite's integers are signed, and a file name must not depend on a UID."""
    return InstanceId(secrets.randbits(63))


def file_stem(instance_id: int) -> str:
    """The id as it stands in a file name: 16 hexadecimal digits.

    >>> file_stem(255)
    '00000000000000ff'
    """
    return f"{instance_id:016x}"


def is_uid(text: str) -> bool:
    """Does the text obey PS3.5 section 9.1: digits and dots, no leading zero, at most 64 characters?

    >>> is_uid("1.2.840.10008.5.1.4.1.1.4"), is_uid("../../etc/x"), is_uid("1.02")
    (True, False, False)
    """
    return len(text) <= _UID_LENGTH and _UID.fullmatch(text) is not None


def digest(content: bytes | bytearray | memoryview) -> str:
    """SHA-256 as 64 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def derived_uid(namespace: uuid.UUID, name: str) -> str:
    """The UID ``2.25.<UUIDv5>`` of PS3.5 B.2: the same name in the same node gives the same UID.

    pydicom's ``generate_uid(prefix="2.25.", entropy_srcs=…)`` is no substitute: its number exceeds 128 bits.
    """
    return f"2.25.{uuid.uuid5(namespace, name).int}"
