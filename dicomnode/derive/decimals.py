"""Numbers as decimal strings (DS) of a derived object."""

from __future__ import annotations

DS_LENGTH = 16  # characters, PS3.5 §6.2
NEGLIGIBLE_MM = 1e-9  # below it a coordinate is rounding error of a sum


def decimal_text(number: float) -> str:
    """Shortest decimal of at most 16 characters (DS, PS3.5 §6.2).

    Not pydicom 3.0's ``format_number_as_ds``: it makes 17 characters of -9.99999999999999995.

    >>> decimal_text(1.1), decimal_text(-1 / 3), decimal_text(-0.0), decimal_text(1.25e-10)
    ('1.1', '-0.3333333333333', '0', '1.25e-10')
    """
    candidates = (f"{number or 0.0:.{digits}g}" for digits in range(16, 0, -1))
    return next(text for text in candidates if len(text) <= DS_LENGTH)


def coordinate_text(millimetres: float) -> str:
    """The text of a coordinate: ``decimal_text``, with the rounding error of a sum written as 0.

    >>> coordinate_text(-1.5), coordinate_text(1.4e-17)
    ('-1.5', '0')
    """
    return decimal_text(millimetres if abs(millimetres) >= NEGLIGIBLE_MM else 0.0)
