"""A data set in explicit VR little endian, encoded anew in implicit VR little endian, for a peer that takes no other.

Bytes in, bytes out. Value representations and lengths change, the bytes of the pixel data never do. An implicit data
set does not say its value representations: each reader takes them from its own dictionary. Text in an element that
the dictionary calls a sequence would make a reader stop there, or take the text for items. So a data set in which an
element has another representation than the dictionary's is not encoded anew but refused.
"""

from __future__ import annotations

from io import BytesIO

from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pynetdicom.dsutils import encode

from dicomnode.dimse.outcome import RequestOutcome, RequestReason
from dicomnode.imaging.representation import MALFORMED, misfit_in
from dicomnode.imaging.words import name_of


def implicit_dataset(dataset: memoryview) -> bytes | RequestOutcome:
    """Encode a data set in implicit VR little endian, or say why it cannot be."""
    try:
        read = Dataset(read_dataset(BytesIO(dataset), is_implicit_VR=False, is_little_endian=True))
        tag = misfit_in(read)
        content = None if tag is not None else encode(read, is_implicit_vr=True, is_little_endian=True)
    except MALFORMED:
        return _not_encodable("its elements cannot be read")
    if tag is not None:
        return _not_encodable(f"its {name_of(tag)} is not encoded as the standard says")
    return content if content is not None else _not_encodable("its elements cannot be encoded anew")


def _not_encodable(why: str) -> RequestOutcome:
    return RequestOutcome(reason=RequestReason.NOT_ENCODABLE, detail=why)
