"""The passport of a series: complete, without a patient, and every digest in it computed again from the files alone."""

from __future__ import annotations

import hashlib
import json
import re
import struct
from pathlib import Path
from typing import Any

import pytest

import dicomnode
from dicomnode.cli.main import main
from dicomnode.passport import as_json, passport
from tests.support.page_node import Browser, PageNode, token_file
from tests.support.served_page import SETTINGS

SHIPPED = Path(dicomnode.__file__).parent / "models"


def recompute(told: dict[str, Any], data: Path, models: Path) -> int:
    """Compute every digest again, and compare; how many there were. Needs nothing of the node but the files."""
    files = [*told["received"], *(file for job in told["jobs"] for file in job["derived"])]
    for file in files:
        content = (data / "archive" / file["file"]).read_bytes()
        assert content[128:132] == b"DICM"
        (length,) = struct.unpack_from("<I", content, 140)  # (0002,0000), the length of the rest of the file meta
        assert hashlib.sha256(content[144 + length :]).hexdigest() == file["sha256"], file["file"]
        assert len(content) >= file["size_bytes"]
    cards = 0
    for model in (job["model"] for job in told["jobs"] if job["model"]["card"] is not None):
        sums = (models / model["name"] / "SHA256SUMS").read_bytes()
        assert hashlib.sha256(sums).hexdigest() == model["digest"]
        for line in sums.decode().splitlines():
            digest, name = line.split()
            assert hashlib.sha256((models / model["name"] / name).read_bytes()).hexdigest() == digest
            cards += 1
    return len(files) + cards


def _told(node: PageNode, number: int, *, identify: bool = False) -> dict[str, Any]:
    found = passport(node.quiet.reader, number, node.data, node.quiet.clock.now(), identify=identify)
    told: dict[str, Any] = json.loads(as_json(found))
    return told


def test_every_digest_can_be_computed_again(node: PageNode) -> None:
    told = _told(node, 1)
    derived = len(node.quiet.reader.series_show(2).files)
    assert recompute(told, node.data, SHIPPED) == 8 + derived
    assert _told(node, 2)["series"] == 1, "of the derived series it is the same"


def test_an_altered_file_does_not_pass(node: PageNode) -> None:
    told = _told(node, 1)
    file = node.data / "archive" / told["received"][0]["file"]
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(AssertionError):
        recompute(told, node.data, SHIPPED)


def test_the_model_s_card_is_in_it_and_fits_its_digest(node: PageNode) -> None:
    sums = (SHIPPED / "thin" / "SHA256SUMS").read_bytes()
    told = _told(node, 1)
    told["jobs"][0]["model"] = {"name": "thin", "digest": hashlib.sha256(sums).hexdigest(), "card": {}, "note": ""}
    assert recompute(told, node.data, SHIPPED) > 10


def test_it_says_what_was_measured_and_what_the_peer_proved(node: PageNode) -> None:
    told = _told(node, 1)
    (job,) = told["jobs"]
    assert job["residual"]["check"] == "encoded_averages"
    assert job["residual"]["measured"] <= job["residual"]["limit"]
    assert job["model"]["note"] == "It has no weights and no card."
    proofs = {one["delivery"]["peer"]: one["delivery"]["proof"] for one in told["deliveries"]}
    assert proofs == {"pacs": "acknowledged", "workstation": None}
    (request,) = [one for delivery in told["deliveries"] for one in delivery["commitments"]]
    assert (request["peer"], request["state"], request["transaction_uid"]) == ("pacs", "wanted", None)
    assert {event["table"] for event in told["events"]} >= {"series", "job", "delivery"}


def test_uids_are_in_it_only_where_they_are_asked_for(node: PageNode) -> None:
    assert not re.search(r"\d\.\d+\.\d+\.\d+\.\d+", json.dumps(_told(node, 1)))
    told = _told(node, 1, identify=True)
    assert told["series_uid"]
    assert all(file["sop_instance_uid"] for file in told["received"])


def test_the_page_and_the_command_show_the_same(
    node: PageNode, open_page: Browser, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "dicomnode.toml"
    config.write_text(SETTINGS.format(data=node.data, port=8113, token=token_file(tmp_path), runs=""))
    got = open_page.get("/series/1/passport.json")
    assert got.headers["Content-Type"].startswith("application/json")

    def printed(*words: str) -> str:
        with pytest.raises(SystemExit) as caught:
            main(["series", "passport", "1", "--config", str(config), *words])
        assert caught.value.code == 0
        return capsys.readouterr().out

    assert {**json.loads(printed("--json")), "made_at": ""} == {**json.loads(got.text), "made_at": ""}
    page = open_page.get("/series/1/passport").text
    assert page.count("digest") > 16
    assert "SECRET" not in page
    assert "Passport of series 1" in printed("--html")
    assert "<style>" in printed("--html")
    assert "encoded_averages" in printed()
