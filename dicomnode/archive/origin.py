"""Where a file came from: kept in its private file meta, so that the file alone shows it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from dicomnode.ids import IMPLEMENTATION_CLASS_UID, InstanceId, file_stem
from dicomnode.part10 import file_meta, read_meta

FILE_SUFFIX: Final = ".dcm"


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """The id, sender and arrival of a file."""

    id: InstanceId
    peer: str
    received_at: datetime


def meta_with_origin(sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str, origin: Origin) -> bytes:
    """Return the file meta of an instance, with its origin as private information."""
    told = {"id": file_stem(origin.id), "peer": origin.peer, "received_at": origin.received_at.isoformat()}
    return file_meta(
        sop_class_uid=sop_class_uid,
        sop_instance_uid=sop_instance_uid,
        transfer_syntax_uid=transfer_syntax_uid,
        private=json.dumps(told).encode(),
    )


def read_origin(path: Path) -> Origin | None:
    """Return the origin of a file from its private file meta; None where this node did not write it."""
    with path.open("rb") as stream:
        meta = read_meta(stream)
    if meta is None or meta.private_creator_uid != IMPLEMENTATION_CLASS_UID:
        return None
    try:
        told = json.loads(meta.private.rstrip(b"\0"))
        return Origin(
            id=InstanceId(int(told["id"], 16)),
            peer=str(told["peer"]),
            received_at=datetime.fromisoformat(told["received_at"]),
        )
    except (ValueError, KeyError, TypeError):
        return None
