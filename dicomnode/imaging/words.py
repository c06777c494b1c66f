"""Numbers, codes and the names of attributes, fit for the sentences that go to the log and the ledger."""

from __future__ import annotations

import re

from pydicom.datadict import dictionary_description, tag_for_keyword
from pydicom.tag import BaseTag

from dicomnode.imaging.representation import LATER_SEQUENCES

CODE = re.compile(r"[A-Za-z0-9_ .+/*-]{1,64}")  # the only text of a sender that a sentence quotes


def short(number: float) -> str:
    """Write a number with four digits, which tell any distance in a scanner apart.

    >>> short(4.49999), short(3.0), short(1.1)
    ('4.5', '3', '1.1')
    """
    return f"{number:.4g}"


def plain(text: str) -> str:
    """Return a sender's code where it is fit for a sentence: a damaged value may hold anything, a name among it."""
    return text if CODE.fullmatch(text) else "unreadable"


def attribute_name(keyword: str) -> str:
    """Return the standard's name, for sentences: "Pixel Spacing"."""
    tag = tag_for_keyword(keyword)
    return keyword if tag is None else dictionary_description(tag)


def name_of(tag: BaseTag) -> str:
    """Return the name that ``attribute_name`` gives; the tag itself where the dictionary does not know it."""
    try:
        return LATER_SEQUENCES.get(tag) or dictionary_description(tag)
    except KeyError:
        return f"Attribute {tag}"
