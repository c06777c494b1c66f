"""One value under two spellings is one value: what is compared where it matters that two texts mean the same.

"X^Y" and "X^Y^^^" name one person. What is written out is always one of the spellings that came in, never this form.
"""

from __future__ import annotations

import unicodedata
from decimal import Decimal


def canonical(vr: str, value: str) -> str:
    """One value (of possibly several) of a text attribute, alike for all its spellings.

    >>> canonical("PN", " DOE ^JANE^^ "), canonical("PN", "DOE^JANE="), canonical("PN", "DOE^^JANE")
    ('DOE^JANE', 'DOE^JANE', 'DOE^^JANE')
    >>> canonical("DA", "1970.01.02"), canonical("DS", "70.50"), canonical("LO", " 007 ")
    ('19700102', '70.5', '007')
    """
    value = value.strip(" \0")
    match vr:
        case "PN":
            return _name(value)
        case "DA":
            return value.replace(".", "")  # as ACR-NEMA wrote dates (PS3.5 §6.2, note on DA)
        case "DS" | "IS":
            return _number(value)
        case _:
            return value


def _name(value: str) -> str:
    """Drop what may be omitted (PS3.5 §6.2.1.1): empty components and groups at the end, and blanks around them."""
    composed = unicodedata.normalize("NFC", value)  # "é" is one letter or two in UTF-8
    groups = (
        "^".join(component.strip(" \0") for component in group.split("^")).rstrip("^") for group in composed.split("=")
    )
    return "=".join(groups).rstrip("=")


def _number(value: str) -> str:
    try:
        return str(Decimal(value).normalize())
    except ArithmeticError:
        return value
