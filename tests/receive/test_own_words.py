"""Whatever comes in, the log of the receiver says it in our own words: no text and no UID of an object is in it."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Literal

import pytest

from dicomnode import log
from tests.receive.receiving_node import receiving_node
from tests.support.dicom import encoded, mr_dataset
from tests.support.pdu import MR_IMAGE, raw_client

MARK = "SENTINEL"
TEXTS = {
    "PatientName": f"{MARK}^NAME", "PatientID": f"{MARK}-ID", "StudyDescription": f"{MARK} STUDY",
    "SeriesDescription": f"{MARK} SERIES", "InstitutionName": f"{MARK} HOUSE", "AccessionNumber": f"{MARK}7",
}  # fmt: skip


@pytest.mark.parametrize("form", ["json", "text"])
def test_no_text_of_an_object_is_in_the_log_whether_it_is_stored_set_aside_or_refused(
    tmp_path: Path, form: Literal["json", "text"]
) -> None:
    said = StringIO()
    log.start_logging("debug", form, said)
    dataset = mr_dataset(1)
    for keyword, text in TEXTS.items():
        setattr(dataset, keyword, text)
    uid = str(dataset.SOPInstanceUID)
    first = encoded(dataset)
    assert MARK.encode() in first
    dataset.PatientName = f"{MARK}^OTHER"
    other = encoded(dataset)
    with receiving_node(tmp_path / "data") as node, raw_client(node.port) as client:
        client.associate()
        answers = [
            client.store(MR_IMAGE, uid, first),  # stored
            client.store(MR_IMAGE, uid, first),  # a copy
            client.store(MR_IMAGE, uid, other),  # set aside
            client.store(MR_IMAGE, "1.2.3", first),  # the command names another instance
            client.store(MR_IMAGE, uid, first[: len(first) // 3] + b"\xff" * 999),  # breaks off
            client.store(MR_IMAGE, f"../{MARK}", first),  # a path for a UID
            client.store(MR_IMAGE, uid, MARK.encode() * 99),  # no data set
        ]
    assert {0x0000, 0xA900, 0xC000} == set(answers)
    told = said.getvalue()
    assert "object_not_understood" in told
    for text in (MARK, uid, str(dataset.SeriesInstanceUID), str(dataset.StudyInstanceUID)):
        assert text not in told
