"""The marks of objects that were derived here: derive writes them, the readers look for them.

In and out: values of attributes as text. The marks survive a PACS that changes UIDs, and a ledger that was lost.
"""

from __future__ import annotations

from collections.abc import Sequence

PRODUCT = "dicomnode"  # Manufacturer of our derived objects
RESAMPLED = "RESAMPLED"  # value 4 of Image Type: "spatially re-sampled" (PS3.3 C.8.16.1.4)
STD_DEVIATION = "STD_DEVIATION"  # value 4 in the series of the spread: "standard deviation" (C.8.16.1.4)
IMAGE_TYPE = ("DERIVED", "SECONDARY", "OTHER", RESAMPLED)  # value 3 as in PS3.3 C.8.3.1.1.1
SPREAD_IMAGE_TYPE = ("DERIVED", "SECONDARY", "OTHER", STD_DEVIATION)
RESAMPLING_CODE = "113085"  # DCM, "Spatial resampling"
_READ_WITH = "Read with series "  # + number; ends Image Comments


def is_made_here(makers: Sequence[str]) -> bool:
    """Tell whether one of the manufacturers, of the object or of its contributing equipment, is this product."""
    return PRODUCT in makers


def is_own_output(makers: Sequence[str], image_type: Sequence[str], derivation_codes: Sequence[str]) -> bool:
    """Tell whether the object was derived as this node derives.

    A PACS may write another manufacturer over ours; Image Type and derivation code then still mark the object. Another
    program that writes both has resampled the slices, too.
    """
    is_of_ours = tuple(image_type[3:4]) in ((RESAMPLED,), (STD_DEVIATION,))
    return is_made_here(makers) or (is_of_ours and RESAMPLING_CODE in derivation_codes)


def read_with(series_number: str) -> str:
    """Return the last sentence of Image Comments, which names the series to read beside the derived one."""
    return f"{_READ_WITH}{series_number}."


def source_number(comments: str) -> str | None:
    """Return the number of the series that Image Comments name as the source; None where they name none.

    >>> source_number(f"Computed thin slices. {read_with('7')}"), source_number("Head first")
    ('7', None)
    """
    _, found, number = comments.rpartition(_READ_WITH)
    number = number.strip(" .")
    return number if found and number.isdecimal() else None
