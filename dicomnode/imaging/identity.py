"""Read the patient's attributes of an instance, equal for all spellings: to be compared, never to be shown."""

from __future__ import annotations

import hashlib

from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag

from dicomnode.imaging.representation import MALFORMED, items_of, vr_of
from dicomnode.imaging.texts import canonical_texts
from dicomnode.imaging.words import name_of

IDENTITY_GROUPS = (0x0010, 0x0012)  # patient, and clinical trial subject: copied whole, compared whole


def identity(dataset: Dataset) -> list[tuple[str, str]]:
    """List name and content of each attribute of the groups that has any."""
    tags = (tag for tag in sorted(dataset.keys()) if tag.group in IDENTITY_GROUPS and tag.element != 0)
    found = [(name_of(tag), _content(dataset, tag)) for tag in tags]
    return [(name, content) for name, content in found if content]


def _content(dataset: Dataset, tag: BaseTag) -> str:
    """Return what an element says, nested elements too, alike for all spellings; its digest where it is no value."""
    raw = dataset.get_item(tag)
    if vr_of(raw, tag) == "SQ":
        try:
            items = [
                {int(place): _content(item, place) for place in sorted(item.keys()) if not place.is_private}
                for item in items_of(raw)
            ]
            return repr(items) if items else ""
        except MALFORMED:
            return _digest(raw)
    return "\\".join(canonical_texts(dataset, tag)) or _digest(raw)


def _digest(raw: RawDataElement | DataElement) -> str:
    """Return the digest of the bytes of an element; empty where it has none."""
    content = raw.value if isinstance(raw.value, bytes) else repr(raw.value or "").encode()
    return hashlib.sha256(content).hexdigest() if content.strip(b" \0'") else ""
