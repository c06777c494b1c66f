"""What a server says of instances is read from JSON and XML, and bytes that are neither do no harm."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from dicomnode.stow.answer import read_matches, read_statuses


def _answer(**sequences: list[Dataset]) -> bytes:
    """The body as pydicom writes the JSON model."""
    dataset = Dataset()
    for keyword, items in sequences.items():
        setattr(dataset, keyword, items)
    return dataset.to_json().encode()


def _item(uid: str, **attributes: int) -> Dataset:
    item = Dataset()
    item.ReferencedSOPInstanceUID = uid
    for keyword, value in attributes.items():
        setattr(item, keyword, value)
    return item


def test_stored_warned_and_failed_instances_are_told_apart() -> None:
    body = _answer(
        ReferencedSOPSequence=[_item("1.1"), _item("1.2", WarningReason=0xB006), _item("1.3", WarningReason=7)],
        FailedSOPSequence=[_item("1.4", FailureReason=0xA700), _item("1.5"), _item("1.6", FailureReason=0)],
    )
    expected = {"1.1": 0, "1.2": 0xB006, "1.3": 0, "1.4": 0xA700, "1.5": 0x0110, "1.6": 0x0110}
    assert read_statuses(body) == expected
    assert read_statuses(b"\xef\xbb\xbf[" + body + b"]") == expected, "some servers write a list of one"


def test_an_instance_that_is_named_as_stored_and_as_failed_is_not_stored() -> None:
    body = _answer(ReferencedSOPSequence=[_item("1.1")], FailedSOPSequence=[_item("1.1", FailureReason=0xC000)])
    assert read_statuses(body) == {"1.1": 0xC000}


def test_a_number_in_text_is_read() -> None:
    item = {"00081155": {"vr": "UI", "Value": ["1.1"]}, "00081197": {"vr": "US", "Value": ["49152"]}}
    assert read_statuses(json.dumps({"00081198": {"vr": "SQ", "Value": [item]}}).encode()) == {"1.1": 0xC000}


def test_xml_with_a_prefix_is_read_and_a_document_type_is_refused() -> None:
    xml = (
        '<d:NativeDicomModel xmlns:d="http://dicom.nema.org/PS3.19/models/NativeDICOM">'
        '<d:DicomAttribute tag="00081198" vr="SQ" keyword="FailedSOPSequence"><d:Item number="1">'
        '<d:DicomAttribute tag="00081155" vr="UI"><d:Value number="1">1.2.3</d:Value></d:DicomAttribute>'
        '<d:DicomAttribute tag="00081197" vr="US"><d:Value number="1">43264</d:Value></d:DicomAttribute>'
        "</d:Item></d:DicomAttribute></d:NativeDicomModel>"
    )
    assert read_statuses(xml.encode()) == {"1.2.3": 0xA900}
    assert read_statuses(b'<!DOCTYPE a [<!ENTITY b "c">]>' + xml.encode()) is None


def test_the_matches_of_a_search_are_read() -> None:
    body = json.dumps([{"00080018": {"vr": "UI", "Value": [uid]}} for uid in ("1.1", "1.2")] + [{}]).encode()
    found = [{"SOPInstanceUID": "1.1"}, {"SOPInstanceUID": "1.2"}, {"SOPInstanceUID": ""}]
    assert read_matches(body, ["SOPInstanceUID"]) == found
    assert read_matches(b"[]", ["SOPInstanceUID"]) == []
    assert read_matches(b"<html/>x", ["SOPInstanceUID"]) is None


@pytest.mark.parametrize("body", [b"", b"thanks", b"{", b"[1]", b"\xff\xfe", b"<a><b></a>", b"[" * 100_000, b"<Item/>"])
def test_what_cannot_be_read_is_nothing(body: bytes) -> None:
    assert not read_statuses(body)


@given(
    st.binary()
    | st.recursive(st.none() | st.text() | st.integers(), st.lists).map(lambda one: json.dumps(one).encode())
)
def test_no_bytes_raise(body: bytes) -> None:
    read_statuses(body)
    read_matches(body, ["SOPInstanceUID"])
