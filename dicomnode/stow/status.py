"""The meaning of an HTTP status for a DICOMweb service as a whole, and its words."""

from __future__ import annotations

from http import HTTPStatus

from dicomnode.dimse.outcome import RequestOutcome, RequestReason

_SHUT_OUT = frozenset({401, 403, 407})
_OCCUPIED = frozenset({408, 425, 429, 502, 503, 504, 507})
"""The server, or the way to it, cannot take the request now (RFC 9110 section 15, RFC 6585, RFC 8470, RFC 4918)."""
_ABSENT = frozenset({404, 405, 406, 410, 501})
"""There is nothing at this path, or nothing that takes such a request."""


def closed_by(status: int) -> RequestOutcome | None:
    """Return the outcome if an HTTP status is about the service as a whole; None: it is about this one request."""
    detail = in_words(status)
    if status in _SHUT_OUT:
        return RequestOutcome(reason=RequestReason.UNAUTHORISED, detail=detail)
    if status in _OCCUPIED:
        return RequestOutcome(reason=RequestReason.OCCUPIED, detail=detail)
    if status < 200 or 300 <= status < 400 or status in _ABSENT:
        return RequestOutcome(reason=RequestReason.NO_SERVICE, detail=detail)
    return None


def in_words(status: int) -> str:
    """Return a status with the phrase of the standard, never the server's own, which may quote anything.

    >>> in_words(404), in_words(599)
    ('HTTP 404 Not Found', 'HTTP 599')
    """
    try:
        return f"HTTP {status} {HTTPStatus(status).phrase}"
    except ValueError:
        return f"HTTP {status}"
