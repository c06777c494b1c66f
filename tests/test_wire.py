"""The tables of the wire against the standard's own lists, and against what docs/conformance.md says of them."""

from __future__ import annotations

import importlib.util
import itertools
from pathlib import Path
from types import ModuleType

import pytest
from pydicom.uid import UID, JPEGBaseline8Bit
from pynetdicom.status import STORAGE_SERVICE_CLASS_STATUS

from dicomnode import wire
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

PAGE_MAKER = Path(__file__).parents[1] / "docs" / "make_conformance.py"


@pytest.fixture(scope="module")
def maker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_conformance", PAGE_MAKER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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


def test_the_tables_of_the_statement_are_those_of_the_code(maker: ModuleType) -> None:
    page = maker.PAGE.read_text(encoding="utf-8")
    assert page == maker.render(page), "run `python docs/make_conformance.py`"


def test_a_transfer_syntax_that_is_not_in_the_statement_is_found(
    maker: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = maker.PAGE.read_text(encoding="utf-8")
    monkeypatch.setattr(wire, "TRANSFER_SYNTAXES", (*TRANSFER_SYNTAXES, str(JPEGBaseline8Bit)))
    assert page != maker.render(page)


def test_every_accepted_class_and_syntax_stands_in_the_statement_by_its_uid(maker: ModuleType) -> None:
    page = maker.PAGE.read_text(encoding="utf-8")
    for uid in (
        *SOP_CLASSES,
        *wire.TRANSFER_SYNTAXES,
        wire.COMMITMENT,
        wire.STUDY_ROOT_FIND,
        wire.STUDY_ROOT_MOVE,
    ):
        assert f"| {uid} |" in page
