"""The parts of a multipart answer (RFC 2046 section 5.1), in which a server returns instances.

In: the content type and the bytes of an answer. Out: the bytes of each part, without its headers; None where they
cannot be told apart. Nothing here raises for what the bytes are.
"""

from __future__ import annotations

from email.message import Message

_LINE_END, _BLANK = b"\r\n", b"\r\n\r\n"


def read_parts(content_type: str, body: bytes) -> list[bytes] | None:
    """Split the body into its parts by the boundary that the content type names."""
    head = Message()
    head["Content-Type"] = content_type
    boundary = head.get_boundary()
    if head.get_content_maintype() != "multipart" or not boundary:
        return None
    mark = b"--" + boundary.encode("ascii", "replace")
    pieces = (_LINE_END + body).split(_LINE_END + mark)
    if len(pieces) < 3 or not pieces[-1].startswith(b"--"):  # the last one ends the body: without it, it was cut
        return None
    parts = []
    for piece in pieces[1:-1]:
        lines = piece.lstrip(b" \t")
        head_end = lines.find(_BLANK)
        if not lines.startswith(_LINE_END) or head_end < 0:
            return None
        parts.append(lines[head_end + len(_BLANK) :])
    return parts
