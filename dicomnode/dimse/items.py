"""An A-ASSOCIATE PDU reduced to what the node reads of it: PS3.8 sections 9.3.2 and 9.3.3.

Bytes in, bytes out, and a list of what was left out. An item of an unknown type is skipped (PS3.8 section 9.3.1), and
an error in a value that nobody reads does no harm. So nothing here is repaired item by item: the PDU is written anew
from the few things that decide an association, and the decoder of the result never sees the rest. Version names,
identities and the other negotiations of PS3.7 Annex D.3.3 go unanswered, as that annex allows; the roles that a
requestor proposes (D.3.3.4) are read, and answered where the node has a use for them.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

_FIXED_BYTES = 68  # PS3.8 Tables 9-11 and 9-17, after type and length: version, titles, reserved bytes
CALLED, CALLING = slice(4, 20), slice(20, 36)
_ITEM = struct.Struct(">BxH")  # type, reserved, length of what follows

_APPLICATION_CONTEXT, _PROPOSED_CONTEXT, _ANSWERED_CONTEXT, _USER_INFORMATION = 0x10, 0x20, 0x21, 0x50
_ABSTRACT_SYNTAX, _TRANSFER_SYNTAX = 0x30, 0x40
_MAXIMUM_LENGTH = 0x51
_ROLES = 0x54
_NEGOTIATIONS = range(0x52, 0x5A)  # PS3.7 Annex D.3.3: known, and not used by the node

_UID = re.compile(rb"[0-9.]{1,64}")
_NO_SYNTAX = b"1.2.840.10008.3.1.1.1"  # a UID that is neither a SOP class nor a transfer syntax, so it is refused
_ACCEPTED, _NO_REASON, _ABSTRACT_SYNTAX_UNSUPPORTED, _NO_TRANSFER_SYNTAX = 0, 2, 3, 4  # results (PS3.8 Table 9-18)
_SMALLEST_PDU = 8  # a fragment of two bytes (PS3.8 Annex D.1); of a peer that names less
_NAMED = 8  # of what was left out: a request may hold thousands of items


@dataclass(frozen=True, slots=True)
class Roles:
    """The roles of the requestor of an association for a SOP class (PS3.7 section D.3.3.4)."""

    is_user: bool
    is_provider: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Tidied:
    """A PDU that holds what the node reads and nothing else."""

    fixed: bytes  # version, titles, reserved bytes
    application: bytes  # the UID of the application context; empty where there is none
    context_kind: int
    contexts: Mapping[int, bytes]  # contents of the presentation context items, by id
    maximum_length: int
    roles: Mapping[str, Roles] = field(default_factory=dict)  # that the requestor proposes to play, by SOP class
    left_out: tuple[str, ...] = ()  # items that are not of the standard, and values that cannot be meant

    @property
    def body(self) -> bytes:
        """The PDU without its type and length."""
        return b"".join((
            self.fixed,
            _item(_APPLICATION_CONTEXT, self.application) if self.application else b"",
            *(_item(self.context_kind, context) for context in self.contexts.values()),
            _item(_USER_INFORMATION, _item(_MAXIMUM_LENGTH, struct.pack(">L", self.maximum_length))),
        ))  # fmt: skip

    @property
    def summary(self) -> str:
        """The items that were left out, in one line for the log."""
        more = len(self.left_out) - _NAMED
        return ", ".join(self.left_out[:_NAMED]) + (f" and {more} more" if more > 0 else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreadable:
    """The reason for which a PDU cannot be read at all; the association has to be aborted."""

    why: str


class _OverrunError(Exception):
    """The length of an item goes beyond the end of what holds it."""


def title(field: bytes) -> str | None:
    r"""Read the AE title of a field; None where there is none (PS3.5 section 6.2, VR AE).

    Some senders end it with a NUL or fill the field with them, and leave the rest of an earlier string behind it.

    >>> title(b" MR1\0LDTITLE    "), title(b"M\xdcNCHEN"), title(b"  ")
    ('MR1', None, None)
    """
    meant = field.split(b"\0")[0].strip(b" ")
    if not meant or any(not 0x20 <= byte <= 0x7E or byte == 0x5C for byte in meant):
        return None
    return meant.decode("ascii")


def as_sent(field: bytes) -> str:
    r"""Return a field as it came, for people: bytes that are not printable, and the backslash, as \xNN.

    >>> print(as_sent(b"ABC\0\1            "))
    ABC\x00\x01
    """
    return "".join(
        chr(byte) if 0x20 <= byte <= 0x7E and byte != 0x5C else f"\\x{byte:02x}" for byte in field.rstrip(b" ")
    )


def tidy_request(body: bytes) -> Tidied | Unreadable:
    """Reduce an A-ASSOCIATE-RQ (PS3.8 Table 9-11). ``body``: without type and length. Invalid titles become ``?``."""
    tidied = _tidied(body, _PROPOSED_CONTEXT, _proposed)
    if isinstance(tidied, Tidied) and not tidied.contexts:
        return Unreadable(why="it proposes no presentation context that could be answered")
    return tidied


def tidy_acceptance(body: bytes) -> Tidied | Unreadable:
    """Reduce an A-ASSOCIATE-AC (PS3.8 Table 9-17), whose titles are not tested; ``body``: without type and length."""
    return _tidied(body, _ANSWERED_CONTEXT, _answered)


def abstract_syntax(context: bytes) -> str:
    """Return the abstract syntax of a proposed context that was tidied."""
    return next(value for kind, value in _items(context[4:]) if kind == _ABSTRACT_SYNTAX).decode("ascii")


def refusal(context: bytes) -> bytes:
    """Answer a proposed context whose abstract syntax is not supported; its transfer syntax means nothing then."""
    syntax = next(value for kind, value in _items(context[4:]) if kind == _TRANSFER_SYNTAX)
    return bytes([context[0], 0, _ABSTRACT_SYNTAX_UNSUPPORTED, 0]) + _item(_TRANSFER_SYNTAX, syntax)


def completed(acceptance: bytes, refusals: Mapping[int, bytes], roles: Mapping[str, Roles]) -> bytes:
    """Add answers to an A-ASSOCIATE-AC, without type and length: contexts in the order of their ids, then roles."""
    chosen = b"".join(
        _item(_ROLES, struct.pack(">H", len(uid)) + uid.encode("ascii") + bytes([role.is_user, role.is_provider]))
        for uid, role in roles.items()
    )
    items = list(_items(acceptance[_FIXED_BYTES:]))
    answers = {content[0]: content for kind, content in items if kind == _ANSWERED_CONTEXT} | dict(refusals)
    return b"".join((
        acceptance[:_FIXED_BYTES],
        *(_item(kind, content) for kind, content in items if kind == _APPLICATION_CONTEXT),
        *(_item(_ANSWERED_CONTEXT, answers[number]) for number in sorted(answers)),
        *(_item(kind, content + chosen) for kind, content in items if kind == _USER_INFORMATION),
    ))  # fmt: skip


_Context = Callable[[bytes, list[str]], bytes]


def _tidied(body: bytes, context_kind: int, tidy_context: _Context) -> Tidied | Unreadable:
    if len(body) < _FIXED_BYTES:
        return Unreadable(why="it is shorter than its fixed part")
    application, contexts, maximum_length = b"", {}, None
    roles: dict[str, Roles] = {}
    left_out: list[str] = []
    try:
        for kind, content in _items(body[_FIXED_BYTES:]):
            if kind == _APPLICATION_CONTEXT:
                application = application or _uid(content) or b""
            elif kind == context_kind:
                number = content[0] if len(content) >= 4 else 0
                if number % 2 == 0 or number in contexts:
                    left_out.append(f"context {number}")  # odd ids, each once (PS3.8 section 9.3.2.2)
                else:
                    contexts[number] = tidy_context(content, left_out)
            elif kind == _USER_INFORMATION:
                found = _user_information(content, roles, left_out)
                maximum_length = found if maximum_length is None else maximum_length
            else:
                left_out.append(f"item {kind:02X}H")
    except _OverrunError:
        return Unreadable(why="an item in it is longer than what holds it")
    titles = b"".join((title(field) or "?").encode("ascii").ljust(16) for field in (body[CALLED], body[CALLING]))
    return Tidied(
        fixed=b"\0\1\0\0" + titles + bytes(32),
        application=application,
        context_kind=context_kind,
        contexts=contexts,
        maximum_length=maximum_length or 0,
        roles=roles,
        left_out=tuple(left_out),
    )


def _proposed(content: bytes, left_out: list[str]) -> bytes:
    """Reduce a context of a request. One without a syntax gets one that we refuse, since each has to be answered."""
    abstract: bytes | None = None
    syntaxes: dict[bytes, None] = {}
    for kind, value in _items(content[4:]):
        if kind not in (_ABSTRACT_SYNTAX, _TRANSFER_SYNTAX) or (uid := _uid(value)) is None:
            left_out.append(f"item {kind:02X}H of context {content[0]}")
        elif kind == _TRANSFER_SYNTAX:
            syntaxes[uid] = None
        else:
            abstract = abstract or uid
    return b"".join((
        bytes([content[0], 0, 0, 0]),
        _item(_ABSTRACT_SYNTAX, abstract or _NO_SYNTAX),
        *(_item(_TRANSFER_SYNTAX, uid) for uid in syntaxes or [_NO_SYNTAX]),
    ))  # fmt: skip


def _answered(content: bytes, left_out: list[str]) -> bytes:
    """Reduce a context of an acceptance. The transfer syntax counts in an accepted one only (PS3.8 section 9.3.3.2)."""
    number, result = content[0], content[2]
    syntaxes = []
    for kind, value in _items(content[4:]):
        if kind == _TRANSFER_SYNTAX and (uid := _uid(value)) is not None:
            syntaxes.append(uid)
        elif kind != _TRANSFER_SYNTAX or result == _ACCEPTED:
            left_out.append(f"item {kind:02X}H of context {number}")
    if result == _ACCEPTED and not syntaxes:
        left_out.append(f"context {number}, accepted without a transfer syntax")
        result = _NO_TRANSFER_SYNTAX
    elif result > _NO_TRANSFER_SYNTAX:
        left_out.append(f"result {result} of context {number}")
        result = _NO_REASON
    syntax = _item(_TRANSFER_SYNTAX, syntaxes[0]) if result == _ACCEPTED else b""
    return bytes([number, 0, result, 0]) + syntax


def _user_information(content: bytes, roles: dict[str, Roles], left_out: list[str]) -> int | None:
    """Return the longest PDU that the peer takes, 0 for one without limit (PS3.8 Annex D.1); None: it does not say.

    ``roles`` gets the roles that the peer proposes.
    """
    found: int | None = None
    for kind, value in _items(content):
        if kind == _MAXIMUM_LENGTH and len(value) == 4:
            told = int.from_bytes(value, "big")
            found = found if found is not None else (told and max(told, _SMALLEST_PDU))
        elif kind == _ROLES:
            length = int.from_bytes(value[:2], "big")
            uid = _uid(value[2 : 2 + length])
            if uid is None or len(value) != length + 4:
                left_out.append(f"user item {kind:02X}H")
            else:
                roles.setdefault(uid.decode("ascii"), Roles(value[-2] == 1, value[-1] == 1))
        elif kind not in _NEGOTIATIONS:
            left_out.append(f"user item {kind:02X}H")
    return found


def _items(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield type and value of each item of a field. Raises _OverrunError where one does not fit."""
    at = 0
    while at < len(content):
        if at + _ITEM.size > len(content):
            raise _OverrunError
        kind, length = _ITEM.unpack_from(content, at)
        at += _ITEM.size
        if at + length > len(content):
            raise _OverrunError
        yield kind, content[at : at + length]
        at += length


def _item(kind: int, content: bytes) -> bytes:
    return _ITEM.pack(kind, len(content)) + content


def _uid(value: bytes) -> bytes | None:
    """Return a UID without its padding; None where it has letters, is empty or is too long (PS3.8 Annex F)."""
    meant = value.split(b"\0")[0].strip(b" ")
    return meant if _UID.fullmatch(meant) else None
