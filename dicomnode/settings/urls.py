"""Check the URLs of the settings. Text in, the same text out, or a sentence on what was expected."""

from __future__ import annotations

import re
from ipaddress import ip_address
from urllib.parse import SplitResult, urlsplit

from dicomnode.strict_toml import fail

_URL = re.compile(r"[\x21-\x7e]{1,2048}")


def webhook(text: str) -> str:
    """Accept an empty text, or a URL under TLS without user and password."""
    if text and whole(text, ("https",)) is None:
        fail("expected a URL that begins with https:// and has neither user nor password")
    return text


def dicomweb(text: str) -> str:
    """Accept an empty text, or the URL that the paths of a DICOMweb service begin with; drop its last slash.

    A URL without TLS is only for this machine itself, because patient data and a token are sent to it.

    >>> dicomweb("https://pacs.example.org/dicom-web/")
    'https://pacs.example.org/dicom-web'
    """
    if not text:
        return text
    parts = whole(text, ("https", "http"))
    if parts is None or parts.query or parts.fragment:
        fail('expected a URL such as "https://pacs/dicom-web", without user, password, "?" and "#"')
    if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        fail("expected a URL that begins with https://; http:// is for this machine itself (127.0.0.1, localhost)")
    return text.rstrip("/")


def whole(text: str, schemes: tuple[str, ...]) -> SplitResult | None:
    """Split a URL with scheme and host, without user and password; None: the text is no such URL."""
    try:
        parts = urlsplit(text)
        is_whole = parts.scheme in schemes and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return None
    return parts if is_whole and "@" not in parts.netloc and _URL.fullmatch(text) else None


def is_loopback(host: str) -> bool:
    """Tell whether a host, by address or by the name localhost, is this machine itself."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
