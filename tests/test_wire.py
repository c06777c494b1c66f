"""The tables of the wire against the standard's own lists, as pynetdicom and docs/protocol.md hold them."""

from __future__ import annotations

import itertools

import pytest
from pydicom.uid import UID
from pynetdicom.status import STORAGE_SERVICE_CLASS_STATUS

from dicomnode.wire import (
    ENHANCED_MR_IMAGE,
    MR_IMAGE,
    OTHER_SOP_CLASSES,
    REJECTIONS,
    SOP_CLASSES,
    STATUSES,
    TRANSFER_SYNTAXES,
    Action,
    rejection,
    status_of,
)


def test_the_ranges_are_sorted_and_do_not_overlap() -> None:
    for before, after in itertools.pairwise(STATUSES):
        assert before.first <= before.last < after.first <= after.last


def test_every_status_of_the_standard_has_a_row() -> None:
    elsewhere = {0x0123, 0xFE00, 0xFF00, 0xFF01}  # no such action, cancelled, pending: of other services
    for status in STORAGE_SERVICE_CLASS_STATUS.keys() - elsewhere:
        assert any(row.first <= status <= row.last for row in STATUSES), f"{status:04X}"


@pytest.mark.parametrize(
    ("statuses", "action"),
    [
        ([0x0000], Action.ACCEPT),
        ([0xB000, 0xB006, 0xB007, 0x0107, 0x0116, 0x0001], Action.WARN),
        ([0xA700, 0xA7FF, 0x0213], Action.BACK_OFF),
        ([0x0110, 0xFE00, 0xFF00, 0x1234, 0xA801, 0xFFFF], Action.RETRY),
        ([0x0111], Action.DUPLICATE),
        ([0x0122, 0x0118], Action.HOLD),
        ([0x0124], Action.HOLD_PENDING),
        ([0xA900, 0xA9FF, 0xC000, 0xCFFF, 0x0105, 0x0106, 0x0112, 0x0115, 0x0117, 0x0119, 0x0121], Action.REFUSE),
        ([0x0210, 0x0211, 0x0212], Action.REASSOCIATE),
    ],
)
def test_each_status_asks_for_what_the_table_of_node_2_4_says(statuses: list[int], action: Action) -> None:
    assert {status_of(status).action for status in statuses} == {action}


def test_every_refusal_says_what_an_operator_can_do() -> None:
    for row in STATUSES:
        assert row.meaning
        assert row.remedy or row.action in (Action.ACCEPT, Action.WARN)


def test_nothing_lossy_deflated_or_big_endian_is_accepted() -> None:
    for uid in map(UID, TRANSFER_SYNTAXES):
        assert uid.is_transfer_syntax
        assert uid.is_little_endian
        assert not uid.is_deflated
        assert "Lossless" in uid.name or not uid.is_compressed
    assert TRANSFER_SYNTAXES[:2] == ("1.2.840.10008.1.2.1", "1.2.840.10008.1.2")


def test_mr_is_always_accepted_and_never_listed_twice() -> None:
    assert SOP_CLASSES == (MR_IMAGE, ENHANCED_MR_IMAGE)
    assert not set(SOP_CLASSES) & set(OTHER_SOP_CLASSES)
    assert "1.2.840.10008.5.1.4.1.1.2" in OTHER_SOP_CLASSES  # CT
    assert len(OTHER_SOP_CLASSES) == len(set(OTHER_SOP_CLASSES)) > 100


def test_a_rejection_keeps_its_numbers_and_has_a_sentence() -> None:
    assert rejection(1, 1, 7).sentence == REJECTIONS[1, 1, 7].sentence
    unknown = rejection(2, 1, 9)
    assert unknown.code == "2/1/9"
    assert unknown.sentence
