"""Numbers and codes of a header, fit for the sentences that go to the log and the ledger."""

from __future__ import annotations

import re

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
