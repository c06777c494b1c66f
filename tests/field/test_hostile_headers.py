"""Headers that hold markup, control characters, format strings and pieces of paths leave no trace but as text.

A series whose texts are all hostile is derived and delivered, another is kept, a third quarrels with the first. Then
every place that people or programs look at is searched: the log at its most talkative, lists, explanations, mails,
metrics, and the names of all files. What is asked for by `--identify` shows the texts, each on its own line.
"""

from __future__ import annotations

import urllib.request
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dicomnode.alert.conditions import conditions, facts
from dicomnode.alert.message import letter
from dicomnode.ledger.queries import open_reader
from dicomnode.settings.load import load
from tests.field.test_text_that_steers_a_terminal import assert_safe
from tests.support.dcmtk import free_port, needs_dcmtk
from tests.support.dicom import storescu
from tests.support.misbehaving_pacs import MisbehavingPacs
from tests.support.mr_series import mr_datasets, write_series
from tests.support.node import AE_TITLE, Node, running_node
from tests.support.wait import wait_until

EVIL = "EVIL"  # in each text, and nowhere else
SHORT = f"{EVIL}%s{{0}}\x1b[2J"  # 16 characters: SH
LONG = f"<b id=x>{EVIL}</b>&\x1b[2J\x9b1m%n%s{{0}}{{sentence}}/../../etc/x"
TEXTS = {
    **dict.fromkeys(
        (
            "PatientID", "StudyDescription", "SeriesDescription", "ProtocolName", "InstitutionName", "Manufacturer",
            "ManufacturerModelName", "DeviceSerialNumber", "SoftwareVersions", "RequestedProcedureDescription",
            "ImageComments", "PatientComments", "InstitutionAddress", "InstitutionalDepartmentName",
        ),
        LONG,
    ),
    **dict.fromkeys(("StationName", "AccessionNumber", "StudyID"), SHORT),
    **dict.fromkeys(("PatientName", "ReferringPhysicianName", "OperatorsName"), f"{LONG}^{SHORT}"),
    "SpecificCharacterSet": "ISO_IR 192",
}  # fmt: skip


def send(node: Node, folder: Path, datasets: list[object]) -> None:
    sent = storescu(node.port, write_series(folder, datasets), called=AE_TITLE)  # type: ignore[arg-type]
    assert sent.returncode == 0, sent.stderr


@needs_dcmtk
def test_no_text_of_a_header_is_anywhere_but_where_it_was_asked_for(tmp_path: Path) -> None:
    port = free_port()
    thick, few = mr_datasets(slices=8, attributes=TEXTS), mr_datasets(slices=3, attributes=TEXTS)
    quarrel = mr_datasets(slices=1, attributes={**TEXTS, "SOPInstanceUID": str(thick[0].SOPInstanceUID)})
    settings = {"metrics": {"listen": f"127.0.0.1:{port}"}}
    with MisbehavingPacs() as pacs, running_node(tmp_path / "node", pacs_port=pacs.port, settings=settings) as node:
        for name, datasets in (("thick", thick), ("few", few)):
            send(node, tmp_path / name, [*datasets])
        node.wait_for_deliveries("sent")
        node.wait_for_verdicts(2)
        send(node, tmp_path / "quarrel", [*quarrel])
        wait_until(lambda: node.events("object_set_aside"), 30, "an image is set aside")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            places = {"metrics": answer.read().decode()}
        number = str(node.series()[0].id)
        for words in (
            "status", f"series explain {number}", f"series explain {number} --json", "series list --derived",
            f"series show {number} --json", "deliveries list", "quarantine list",
        ):  # fmt: skip
            places[words] = node.run(*words.split()).stdout
        shown = node.run("series", "show", number, "--identify").stdout
        places["mails"] = mails(node)
        assert node.stop() == 0
    places["log"] = node.log_file.read_text("utf-8")
    places["file names"] = "\n".join(map(str, node.data.rglob("*")))
    for place, text in places.items():
        assert text, place
        assert EVIL not in text, place
        assert_safe(text)
    assert shown.count(EVIL) >= 5, "whoever asks for the texts gets them"
    assert_safe(shown)
    assert "{0}{sentence}/../../etc/x" in shown, "as they stand"


def mails(node: Node) -> str:
    """What the alerts and the letter of this moment say."""
    settings, now = load(node.config, {}), datetime.now(UTC)
    with closing(open_reader(settings.ledger_url, peers=settings.reachable_peers)) as reader:
        told = [one.sentence for one in conditions(settings, reader, now)]
        assert told, "what was set aside is an alert"
        week = reader.week(now - timedelta(days=7))
        written = letter("NODE", week, reader.waiting(), facts(settings, reader, now), next_at=now)
    return "\n".join([*told, written.subject, written.text, repr(written.json)])


@pytest.mark.parametrize("keyword", ["PatientName", "StationName"])
def test_the_texts_are_what_they_are_said_to_be(keyword: str) -> None:
    text = TEXTS[keyword]
    assert EVIL in text
    assert "\x1b" in text
    assert "{0}" in text
