"""The diffusion weighting of an instance, from the standard's attributes or else from the vendors' private ones."""

from __future__ import annotations

import math

from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag, Tag

from dicomnode.imaging.texts import texts, texts_at

# (group, private creator, element) of the b-value before the standard had one, and of its direction.
_B_VALUES = (
    (0x0019, "SIEMENS MR HEADER", 0x0C),
    (0x0043, "GEMS_PARM_01", 0x39),  # first of four values
    (0x2001, "Philips Imaging DD 001", 0x03),
    (0x0065, "Image Private Header", 0x09),  # UIH
)
_GE_B_VALUE_MODULUS = 100_000  # GE adds 1e9 to some b-values (dcm2niix, issue 149)
_GRADIENTS = (
    (0x0019, "SIEMENS MR HEADER", 0x0E),
    (0x0019, "GEMS_ACQU_01", 0xBB),
    (0x0019, "GEMS_ACQU_01", 0xBC),
    (0x0019, "GEMS_ACQU_01", 0xBD),
    (0x2005, "Philips MR Imaging DD 001", 0xB0),
    (0x2005, "Philips MR Imaging DD 001", 0xB1),
    (0x2005, "Philips MR Imaging DD 001", 0xB2),
)


def diffusion(dataset: Dataset) -> tuple[float | None, tuple[str, ...]]:
    """Return the b-value in s/mm², None where there is none, and the direction as it is written."""
    creators = {
        (tag.group, text): tag.element
        for tag in tuple(dataset.keys())
        if tag.is_private_creator
        for text in texts_at(dataset, tag)
    }

    def private(place: tuple[int, str, int]) -> tuple[str, ...]:
        group, creator, element = place
        block = creators.get((group, creator))
        return () if block is None else _private_values(dataset, Tag(group, block << 8 | element))

    b_value = _first_number(texts(dataset, "DiffusionBValue"))
    for place in _B_VALUES:
        if b_value is None:
            b_value = _first_number(private(place))
            if b_value is not None and place[1].startswith("GEMS"):
                b_value %= _GE_B_VALUE_MODULUS
    if not b_value:
        return b_value, ()  # GE's elements hold other things in unweighted series
    standard = texts(dataset, "DiffusionGradientOrientation")
    return b_value, standard or tuple(value for place in _GRADIENTS for value in private(place))


def _private_values(dataset: Dataset, tag: BaseTag) -> tuple[str, ...]:
    """Return the values of a private element, also where an implicit or UN encoding hid its VR."""
    if tag not in dataset:
        return ()
    raw = dataset.get_item(tag)
    if isinstance(raw, RawDataElement) and raw.VR in (None, "UN"):
        text = (raw.value or b"").decode("latin-1").strip(" \0")
        return tuple(text.split("\\")) if text.isascii() and text.isprintable() else ()
    return texts_at(dataset, tag)


def _first_number(values: tuple[str, ...]) -> float | None:
    try:
        number = float(values[0]) if values else math.nan
    except ValueError:
        return None
    return number if math.isfinite(number) else None
