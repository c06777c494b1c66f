"""Our own ids, content digests, and the UIDs of what we derive."""

from __future__ import annotations

import hashlib
import re
import secrets
import uuid
from typing import Final, NewType

from dicomnode import __version__

AeTitle = NewType("AeTitle", str)
SeriesId = NewType("SeriesId", int)  # small integer, handed out by the ledger
InstanceId = NewType("InstanceId", int)  # random: a re-sent orphan never collides with its first file
JobId = NewType("JobId", int)
DeliveryId = NewType("DeliveryId", int)
ItemId = NewType("ItemId", int)
QuarantineId = NewType("QuarantineId", int)

# Names this program in every file meta that it writes and every A-ASSOCIATE that it sends (PS3.7 D.3.3.2).
IMPLEMENTATION_CLASS_UID = "2.25.15120275358494966565776489282972198481"
IMPLEMENTATION_VERSION_NAME = f"DICOMNODE_{__version__}"[:16]

UID_LENGTH = 64  # PS3.5 section 9.1
# The longest UID that is archived although it breaks the rule. Scanners were seen to write 65 characters; twice the
# rule leaves room for more, and is short enough for a file meta, a row, and a header read while the sender waits.
UID_BOUND = 128

_UID = re.compile(r"(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*))+")
_NUMBERS = re.compile(r"[0-9]+(\.[0-9]+)*")


def new_instance_id() -> InstanceId:
    """Draw a random id of 63 bits: SQLite's integers are signed, and a file name must not depend on a UID."""
    return InstanceId(secrets.randbits(63))


def file_stem(instance_id: int) -> str:
    """Return the id in the form of a file name: 16 hexadecimal digits.

    >>> file_stem(255)
    '00000000000000ff'
    """
    return f"{instance_id:016x}"


def is_uid(text: str) -> bool:
    """Tell whether the text obeys PS3.5 section 9.1: digits and dots, no leading zero, at most 64 characters.

    >>> is_uid("1.2.840.10008.5.1.4.1.1.4"), is_uid("../../etc/x"), is_uid("1.02")
    (True, False, False)
    """
    return len(text) <= UID_LENGTH and _UID.fullmatch(text) is not None


def is_harmless_uid(text: str) -> bool:
    """Tell whether the text can safely be taken for a UID: numbers between dots, at most ``UID_BOUND`` characters.

    Scanners in the field write leading zeros and 65 characters, and PACSs archive them. Anything else is refused:
    letters, control characters, parts of a path ("..", an empty component), and text without a bound.

    >>> is_harmless_uid("1.02"), is_harmless_uid("1..2"), is_harmless_uid("1." + 64 * "7"), is_harmless_uid("")
    (True, False, True, False)
    """
    return len(text) <= UID_BOUND and _NUMBERS.fullmatch(text) is not None


def uid_fault(text: str) -> str | None:
    """Say how a text breaks PS3.5 section 9.1, without its value; None if it does not.

    >>> uid_fault("1.02"), uid_fault("1." + 63 * "7"), uid_fault("1.2")
    ('has a leading zero in a component', 'has 65 characters, more than 64', None)
    """
    if is_uid(text):
        return None
    if not is_harmless_uid(text):
        return "is no UID"
    if len(text) > UID_LENGTH:
        return f"has {len(text)} characters, more than {UID_LENGTH}"
    return "has a leading zero in a component" if "." in text else "has a single component"


def digest(content: bytes | bytearray | memoryview) -> str:
    """Return the SHA-256 as 64 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


_DEVICES: Final = uuid.UUID("7098cb3a-0a77-438e-bb51-a9956779af2d")  # drawn once; for Device UIDs of models


def device_uid(model_digest: str) -> str:
    """Return the Device UID (0018,1002) of a model: the same on every node, and different for each model."""
    return derived_uid(_DEVICES, model_digest)


def derived_uid(namespace: uuid.UUID, name: str) -> str:
    """Return the UID ``2.25.<UUIDv5>`` of PS3.5 B.2: the same name in the same node gives the same UID.

    pydicom's ``generate_uid(prefix="2.25.", entropy_srcs=…)`` is no substitute: its number exceeds 128 bits.
    """
    return f"2.25.{uuid.uuid5(namespace, name).int}"
