"""A delivery that is held because its peer has another patient: a person has the series derived anew, on the page."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import generate_uid

from dicomnode.demo.pacs import Pacs
from dicomnode.ids import DeliveryId
from dicomnode.settings.load import load_with_source
from tests.support.dcmtk import free_port
from tests.support.page_node import Browser, PageNode, browser, settings_of, token_file
from tests.support.wait import wait_until

PEER = "workstation"
LIMIT_S = 120.0


@pytest.fixture
def held(node: PageNode) -> int:
    """The delivery of series 1 to the workstation, which has the study under another patient."""
    claimed = node.quiet.ledger.deliveries.claim(PEER, "boot1:host:1", lease_s=60)
    assert claimed is not None
    assert node.quiet.ledger.deliveries.hold(claimed, reason="identity", sentence="Patient ID differs.")
    return int(claimed.id)


@contextmanager
def page_with(node: PageNode, folder: Path, port: int, **web: object) -> Iterator[Browser]:
    """The page over a settings file, in which the workstation listens at this port."""
    config = folder / "dicomnode.toml"
    keys = {"token_file": str(token_file(folder)), **web}
    lines = [f"{key} = {str(value).lower() if isinstance(value, bool) else repr(value)}" for key, value in keys.items()]
    config.write_text(
        f'[node]\nlisten = "127.0.0.1:{free_port()}"\ndata = "{node.data}"\n[web]\n'
        + "\n".join(lines)
        + f'\n[[peer]]\nname = "{PEER}"\nae_title = "WS"\naddress = "127.0.0.1:{port}"\n'
    )
    settings, source = load_with_source(config, {})
    with browser(settings, node.quiet.clock, source) as page:
        page.enter("Dr. Ada")
        yield page


def files_of_peer(node: PageNode, folder: Path, delivery: int) -> Path:
    """A folder with an image of the study as the peer has it: under another patient."""
    wanted = node.quiet.ledger.refreshes.wanted(DeliveryId(delivery))
    theirs = dcmread(node.quiet.archive.path(wanted.file))
    theirs.SOPInstanceUID = theirs.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    theirs.SeriesInstanceUID = generate_uid()
    theirs.PatientID, theirs.PatientName = "HIDDEN-9", "Hidden^Person"
    folder.mkdir()
    theirs.save_as(folder / "theirs.dcm")
    return folder


def running() -> list[str]:
    """The words of each process of this machine, as ``ps`` shows them."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended
            found.append(file.read_text(errors="replace"))
    return found


def events(node: PageNode, delivery: int) -> list[tuple[str, str]]:
    told = node.quiet.explain(1).events
    return [(one.kind, one.by) for one in told if one.table == "delivery" and one.row == delivery]


def test_a_person_has_it_derived_anew_under_the_patient_of_the_peer(node: PageNode, held: int, tmp_path: Path) -> None:
    place = f"/deliveries/{held}/refresh"
    with (
        Pacs(files_of_peer(node, tmp_path / "theirs", held)) as pacs,
        page_with(node, tmp_path, pacs.port) as page,
    ):
        assert f'href="{place}"' in page.get("/series/1").text
        asked = page.get(place)
        assert "This result is never sent" in asked.text
        assert "refresh_asked" not in dict(events(node, held)), "to ask does nothing"
        began = page.post(place, {"key": asked.key, "note": "merged\0 records"})
        assert (began.status, began.headers["Location"]) == (303, place)
        wait_until(lambda: any("--refresh" in words for words in running()), LIMIT_S, "the command has begun")
        assert not any("merged" in words for words in running()), "other users of the machine see its words"
        wait_until(lambda: "is being asked" not in page.get(f"{place}/live").text, LIMIT_S, "the command has ended")
        said = page.get(place).text
        assert "derives the series anew under the patient whom workstation names" in said
        assert '<form method="post" action="/deliveries' not in said, "it is done"
        assert f'href="{place}"' not in page.get("/series/1").text
    found = dict(events(node, held))
    assert found["refresh_asked"] == "web:Dr. Ada"
    assert found["refreshed"].endswith("(Dr. Ada)")
    (line,) = (one for one in node.quiet.explain(1).deliveries if one.id == held)
    assert (line.state, line.reason) == ("cancelled", "refreshed")
    job = node.quiet.claim_job()
    assert job.planned.parameters.patient is not None
    assert job.planned.deliver_to == (PEER,), "the other peer has the old result"
    assert "HIDDEN" not in said
    assert "Hidden" not in said


def test_what_changed_nothing_says_why_and_can_be_asked_again(node: PageNode, held: int, tmp_path: Path) -> None:
    place = f"/deliveries/{held}/refresh"
    with page_with(node, tmp_path, free_port()) as page:
        page.post(place, {"key": page.get(place).key})
        wait_until(lambda: "is being asked" not in page.get(f"{place}/live").text, LIMIT_S, "the command has ended")
        said = page.get(place)
        assert "workstation did not say whose the study is" in said.text
        assert "nothing was changed" in said.text
        assert said.key, "the form is there again"
    (line,) = (one for one in node.quiet.explain(1).deliveries if one.id == held)
    assert (line.state, line.reason) == ("held", "identity")


def test_it_is_begun_only_for_a_delivery_that_allows_it_and_with_a_name(
    node: PageNode, held: int, tmp_path: Path
) -> None:
    sent = next(line.id for line in node.quiet.explain(1).deliveries if line.state == "sent")
    with page_with(node, tmp_path, free_port()) as page:
        assert f'href="/deliveries/{sent}/refresh"' not in page.get("/series/1").text
        key = page.get("/").key
        refused = page.post(f"/deliveries/{sent}/refresh", {"key": key})
        assert (refused.status, "only a held one can be refreshed" in refused.text) == (409, True)
        assert page.get("/deliveries/99/refresh").status == 404
        assert page.post(f"/deliveries/{held}/refresh", {}).status == 403
    with browser(settings_of(node.data), node.quiet.clock) as page:
        asked = page.get(f"/deliveries/{held}/refresh")
        assert "Your name, for the record" in asked.text
        unsigned = page.post(f"/deliveries/{held}/refresh", {"key": asked.key})
        assert (unsigned.status, "A name is needed" in unsigned.text) == (409, True)
        begun = page.post(f"/deliveries/{held}/refresh", {"key": asked.key, "name": "Ada"})
        assert (begun.status, "no settings file" in begun.text) == (409, True)
    assert "refresh_asked" not in dict(events(node, held))


def test_a_page_without_actions_offers_none_and_does_none(node: PageNode, held: int, tmp_path: Path) -> None:
    with page_with(node, tmp_path, free_port(), actions=False) as page:
        assert "/refresh" not in page.get("/series/1").text
        assert page.get(f"/deliveries/{held}/refresh").status == 404
        got = page.post(f"/deliveries/{held}/refresh", {"key": page.get("/").key})
        assert (got.status, "Nothing can be changed on this page." in got.text) == (409, True)
    assert "refresh_asked" not in dict(events(node, held))
