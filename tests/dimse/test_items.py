"""What is left of an association PDU: everything that the node reads, and nothing that could end it."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ

from dicomnode.dimse.associate import AssociationRequest, read_request
from dicomnode.dimse.items import (
    Tidied,
    Unreadable,
    as_sent,
    tidy_acceptance,
    tidy_request,
    title,
)
from tests.support.pdu import EXPLICIT, IMPLICIT, MR_IMAGE, STANDARD_CONTEXTS, associate_rq, item, pdu

FIXED = struct.pack(">HH", 1, 0) + b"NODE".ljust(16) + b"MR1".ljust(16) + bytes(32)
SYNTAX = item(0x40, EXPLICIT.encode())
GOOD = FIXED + item(0x20, bytes([1, 0, 0, 0]) + item(0x30, MR_IMAGE.encode()) + SYNTAX)


def proposed(*contexts: bytes) -> bytes:
    return FIXED + b"".join(item(0x20, context) for context in contexts)


def answered(*contexts: bytes, user: bytes = b"") -> bytes:
    return FIXED + b"".join(item(0x21, context) for context in contexts) + item(0x50, user)


def as_the_library_reads_it(body: bytes) -> A_ASSOCIATE_RQ:
    tidied = tidy_request(body)
    assert isinstance(tidied, Tidied), tidied
    read = A_ASSOCIATE_RQ()
    read.decode(pdu(1, tidied.body))
    read.to_primitive()
    return read


def acceptance(body: bytes) -> A_ASSOCIATE_AC:
    tidied = tidy_acceptance(body)
    assert isinstance(tidied, Tidied), tidied
    read = A_ASSOCIATE_AC()
    read.decode(pdu(2, tidied.body))
    read.to_primitive()
    return read


def test_a_request_keeps_titles_contexts_and_the_length_of_a_pdu() -> None:
    read = as_the_library_reads_it(associate_rq(called=b" NODE", calling=b"MR1", maximum_length=4711)[6:])
    assert (read.called_ae_title, read.calling_ae_title) == ("NODE", "MR1")
    assert read.application_context_name == "1.2.840.10008.3.1.1.1"
    assert [(one.context_id, one.abstract_syntax, one.transfer_syntax) for one in read.presentation_context] == [
        (number, abstract, list(syntaxes)) for number, abstract, syntaxes in STANDARD_CONTEXTS
    ]
    assert read.user_information is not None
    assert read.user_information.maximum_length == 4711


@pytest.mark.parametrize(
    ("field", "meant"),
    [
        (b"MR1".ljust(16), "MR1"),
        (b"  MR 1".ljust(16), "MR 1"),
        (b"MR1".ljust(16, b"\0"), "MR1"),
        (b"MR1\0OLD TITLE   ", "MR1"),
        (b"MR1  \0".ljust(16), "MR1"),
        (b"MR1\0\xff\xfe".ljust(16), "MR1"),
        (b" " * 16, None),
        (bytes(16), None),
        (b"\0MR1".ljust(16), None),
        (b"MR\t1".ljust(16), None),
        (b"MR\\1".ljust(16), None),
        (b"M\xdcNCHEN".ljust(16), None),
        (b"MR1\x7f".ljust(16), None),
    ],
)
def test_a_title_ends_at_the_first_nul_and_has_no_blanks_around_it(field: bytes, meant: str | None) -> None:
    assert title(field) == meant


def test_a_title_for_the_log_is_printable_and_shows_every_byte() -> None:
    assert as_sent(b"ABC\0\1\\\xdc".ljust(16)) == r"ABC\x00\x01\x5c\xdc"
    request = read_request(associate_rq(called=b"NODE\0", calling=b"M\xdc")[6:])
    assert isinstance(request, AssociationRequest)
    assert (request.called, request.called_as_sent) == ("NODE", r"NODE\x00")
    assert (request.calling, request.calling_as_sent) == (None, r"M\xdc")


@pytest.mark.parametrize(
    ("context", "named"),
    [
        (bytes([2, 0, 0, 0]) + item(0x30, b"1.2.3") + SYNTAX, "context 2"),
        (bytes([0, 0, 0, 0]) + item(0x30, b"1.2.3") + SYNTAX, "context 0"),
        (bytes([1, 0, 0, 0]) + item(0x30, b"1.2.3") + SYNTAX, "context 1"),  # a second one of this id
        (b"\3", "context 0"),
    ],
)
def test_a_context_that_cannot_be_answered_is_left_out_and_the_others_stay(context: bytes, named: str) -> None:
    good = bytes([1, 0, 0, 0]) + item(0x30, MR_IMAGE.encode()) + SYNTAX
    read = as_the_library_reads_it(proposed(good, context))
    assert [(one.context_id, one.abstract_syntax) for one in read.presentation_context] == [(1, MR_IMAGE)]
    tidied = tidy_request(proposed(good, context))
    assert isinstance(tidied, Tidied)
    assert tidied.left_out == (named,)


@pytest.mark.parametrize(
    "inner",
    [
        item(0x30, MR_IMAGE.encode()),
        SYNTAX,
        b"",
        item(0x30, b"MR Image") + SYNTAX,
        item(0x30, MR_IMAGE.encode()) + item(0x40, b"\xff"),
        item(0x30, MR_IMAGE.encode()) + item(0x40, b"1" * 65),
    ],
)
def test_a_context_without_either_syntax_is_there_to_be_refused(inner: bytes) -> None:
    (context,) = as_the_library_reads_it(proposed(bytes([5, 0, 0, 0]) + inner)).presentation_context
    assert context.context_id == 5
    nothing = "1.2.840.10008.3.1.1.1"
    assert context.abstract_syntax == nothing or context.transfer_syntax == [nothing]


def test_padding_of_uids_goes_and_unknown_items_within_a_context_too() -> None:
    inner = item(0x35, b"?") + item(0x30, MR_IMAGE.encode() + b"\0") + item(0x40, IMPLICIT.encode() + b" \0")
    (context,) = as_the_library_reads_it(proposed(bytes([5, 9, 9, 9]) + inner)).presentation_context
    assert (context.abstract_syntax, context.transfer_syntax) == (MR_IMAGE, [IMPLICIT])


@pytest.mark.parametrize(("told", "kept"), [(0, 0), (1, 8), (100, 100), (16384, 16384), (2**32 - 1, 2**32 - 1)])
def test_a_peer_that_takes_next_to_nothing_gets_small_pdus(told: int, kept: int) -> None:
    read = as_the_library_reads_it(associate_rq(maximum_length=told)[6:])
    assert read.user_information is not None
    assert read.user_information.maximum_length == kept


def test_the_first_length_of_a_pdu_counts_and_one_of_another_size_does_not() -> None:
    user = item(0x51, b"\1\0") + item(0x51, struct.pack(">L", 1000)) + item(0x51, struct.pack(">L", 2000))
    read = as_the_library_reads_it(GOOD + item(0x50, user))
    assert read.user_information is not None
    assert read.user_information.maximum_length == 1000


@pytest.mark.parametrize(
    "body",
    [
        b"",
        FIXED[:-1],
        FIXED + b"\x20",
        FIXED + b"\x10\0\0\x09short",
        FIXED + item(0x50, b"\x5a\0\0\x09short"),
        FIXED + item(0x20, bytes([1, 0, 0, 0]) + b"\x30\0\0\x63" + b"1.2"),
        GOOD + item(0x50, b"\x5a\0\0\x09short"),
        GOOD + b"\x70\0\0\x01",
    ],
)
def test_an_item_that_runs_over_its_end_is_not_guessed_at(body: bytes) -> None:
    assert isinstance(tidy_request(body), Unreadable)
    assert isinstance(tidy_acceptance(body.replace(b"\x20\0", b"\x21\0")), Unreadable)


def test_a_request_in_which_nothing_could_be_answered_is_unreadable() -> None:
    even = item(0x20, bytes([2, 0, 0, 0]) + item(0x30, MR_IMAGE.encode()) + SYNTAX)
    for body in (FIXED, FIXED + even, FIXED + item(0x50, item(0x51, bytes(4)))):
        tidied = tidy_request(body)
        assert isinstance(tidied, Unreadable)
        assert "no presentation context" in tidied.why


@pytest.mark.parametrize(
    ("context", "result", "syntax"),
    [
        (bytes([1, 0, 0, 0]) + SYNTAX, 0, EXPLICIT),
        (bytes([1, 0, 0, 0]) + item(0x40, EXPLICIT.encode() + b"\0"), 0, EXPLICIT),
        (bytes([1, 0, 0, 0]), 4, None),
        (bytes([1, 0, 0, 0]) + item(0x40, b"\xff"), 4, None),
        (bytes([1, 0, 3, 0]) + item(0x40, b"\xff"), 3, None),
        (bytes([1, 0, 4, 0]), 4, None),
        (bytes([1, 0, 200, 0]) + SYNTAX, 2, None),
    ],
)
def test_the_answer_to_a_context_is_a_result_and_a_syntax_where_it_was_accepted(
    context: bytes, result: int, syntax: str | None
) -> None:
    (read,) = acceptance(answered(context)).presentation_context
    assert (read.context_id, read.result, read.transfer_syntax) == (1, result, syntax)


def test_an_acceptance_with_anything_in_it_is_read() -> None:
    user = b"".join(item(kind, b"\xff" * 20) for kind in range(0x51, 0x70))
    body = b"\xff" * 68 + item(0x77, b"") + item(0x20, b"") + item(0x50, user) + item(0x21, bytes(8))
    assert acceptance(body).presentation_context == []
    tidied = tidy_acceptance(body)
    assert isinstance(tidied, Tidied)
    assert "item 77H, item 20H, user item 51H" in tidied.summary
    assert tidied.summary.endswith("more")


@given(st.binary(max_size=200), st.sampled_from([b"", FIXED, GOOD]))
def test_the_library_reads_whatever_is_left_of_any_bytes(content: bytes, begin: bytes) -> None:
    tidied = tidy_request(begin + content)
    if isinstance(tidied, Tidied):
        as_the_library_reads_it(begin + content)
    if isinstance(tidy_acceptance(begin + content), Tidied):
        acceptance(begin + content)
