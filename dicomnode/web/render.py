"""Render pages from templates. Markup and control characters in values are escaped, so that they show as text."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime
from functools import cache
from importlib.resources import files
from typing import Any, Final

import jinja2
from markupsafe import Markup

from dicomnode.ledger.sentences import moment
from dicomnode.passport import Passport
from dicomnode.visible import visible

_UNITS: Final = ((86_400.0, "d"), (3600.0, "h"), (60.0, "min"))


def page(name: str, **values: Any) -> bytes:
    """Render a template."""
    return _environment().get_template(name).render(**values).encode()


def prepare() -> None:
    """Compile every template, so that no person waits for it."""
    environment = _environment()
    for name in environment.list_templates():
        environment.get_template(name)


def passport_page(found: Passport, *, nonce: str = "") -> bytes:
    """Render a passport as one file that needs no other; ``nonce``: of its style, where a server sends it."""
    style = Markup(files("dicomnode.web").joinpath("assets", "page.css").read_text("utf-8"))  # noqa: S704 (our own)
    return page("passport.html", passport=found, style=style, nonce=nonce)


def age(at: datetime | None, now: datetime) -> str:
    """Say how long ago a moment was, in its largest unit.

    >>> from datetime import UTC
    >>> age(datetime(2026, 5, 4, 13, 2, tzinfo=UTC), datetime(2026, 5, 4, 16, tzinfo=UTC))
    '2 h ago'
    """
    if at is None:
        return "never"
    seconds = (now - at).total_seconds()
    unit = next(((length, word) for length, word in _UNITS if seconds >= length), None)
    return "just now" if unit is None else f"{int(seconds // unit[0])} {unit[1]} ago"


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("dicomnode.web", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "age": age, "moment": moment, "size": _size, "count": _count, "number": _number, "pretty": _pretty,
        "listed": _listed, "length_mm": _length_mm,
    }  # fmt: skip
    return environment


def _shown(value: Any) -> Any:
    """Prepare a value for a template: unsafe characters as escapes, our own markup as it is, nothing for None."""
    if value is None:
        return ""
    return visible(value, keep="\n") if isinstance(value, str) and not isinstance(value, Markup) else value


def _count(number: int, one: str, several: str = "") -> str:
    """Write a number with its noun: ``1 image``, ``2 images``."""
    return f"{number:,} {one if number == 1 else several or one + 's'}".replace(",", "\u202f")


def _size(size_bytes: float) -> str:
    """Write bytes in their largest unit."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size_bytes < 1024 or unit == "GiB":
            break
        size_bytes /= 1024
    return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"


def _number(value: float | None) -> str:
    """Write a figure with three digits."""
    return "no number" if value is None else f"{value:.3g}"


def _length_mm(length_mm: float | None) -> str:
    """Write a length; nothing where it was not measured."""
    return "" if length_mm is None else f"{round(length_mm, 2) + 0.0:g} mm"


def _pretty(text: str) -> str:
    """Write a JSON text with a line for each key."""
    try:
        return json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    except ValueError:
        return text


def _listed(words: Iterable[str]) -> str:
    return ", ".join(words)
