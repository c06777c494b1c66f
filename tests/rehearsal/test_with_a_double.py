"""A rehearsal with a PACS that stores, commits and answers by script: the mistakes that Orthanc does not make."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from pynetdicom import AE
from pynetdicom.events import EVT_PDU_RECV, Event
from pynetdicom.pdu import A_ASSOCIATE_RJ

from dicomnode.rehearsal import exchange, rehearse
from dicomnode.rehearsal.findings import Mark, Rehearsal, Side, Topic
from dicomnode.settings.models import Settings
from dicomnode.settings.peers import PeerSettings
from dicomnode.wire import IMPLICIT, MR_IMAGE, VERIFICATION
from tests.rehearsal.scene import NODE, failed, rehearsed, settings_for, step_of
from tests.support.certificates import Authority, caller
from tests.support.committing_pacs import Asked, CommittingPacs
from tests.support.dcmtk import free_port
from tests.support.wait import wait_until


@pytest.fixture
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a report that never comes, and images that are never shown."""
    monkeypatch.setattr(rehearse, "REPORT_S", 4.0)
    monkeypatch.setattr(exchange, "INDEX_S", 0.5)


def settings_with(folder: Path, pacs: CommittingPacs, **keys: object) -> Settings:
    port = free_port()
    pacs.node, pacs.node_title = ("127.0.0.1", port), NODE
    return settings_for(folder, port, pacs.port, pacs={"ae_title": "PACS", **keys})


def found_with(folder: Path, pacs: CommittingPacs, **keys: object) -> Rehearsal:
    return rehearsed(settings_with(folder, pacs, **keys))[0]


def test_an_ae_title_in_the_wrong_case_is_named_with_the_right_one(tmp_path: Path) -> None:
    with CommittingPacs(checks_title=True) as pacs:
        found = found_with(tmp_path, pacs, ae_title="Pacs")
        assert not pacs.stored
    assert failed(found) == {Topic.ASSOCIATION: Side.OURS}
    step = step_of(found, Topic.ASSOCIATION)
    assert "1/1/7" in step.sentence
    assert '`ae_title = "PACS"`' in step.hint


def test_another_ae_title_altogether_is_asked_for(tmp_path: Path) -> None:
    with CommittingPacs(checks_title=True) as pacs:
        found = found_with(tmp_path, pacs, ae_title="ARCHIVE")
    assert "letter by letter" in step_of(found, Topic.ASSOCIATION).hint


def test_a_pacs_that_takes_no_mr_images_is_named(tmp_path: Path) -> None:
    with CommittingPacs(stores=False) as pacs:
        found = found_with(tmp_path, pacs)
    assert failed(found) == {Topic.CONTEXTS: Side.PACS, Topic.IMAGES: Side.PACS}
    assert "MR Image Storage: not accepted." in step_of(found, Topic.CONTEXTS).sentence
    assert "MR Image Storage" in step_of(found, Topic.CONTEXTS).hint
    taken = {line.sop_class for line in found.contexts if line.accepted}
    assert "MR Image Storage" not in taken
    assert "Verification SOP Class" in taken


def test_a_pacs_that_takes_implicit_vr_only_is_no_mistake(tmp_path: Path) -> None:
    with CommittingPacs(syntaxes=[IMPLICIT]) as pacs:
        found = found_with(tmp_path, pacs)
        assert len(pacs.held) == 5
    assert failed(found) == {}
    assert "encoded in implicit VR" in step_of(found, Topic.CONTEXTS).sentence


def test_a_pacs_that_offers_no_commitment_is_named(tmp_path: Path) -> None:
    with CommittingPacs(commits=False) as pacs:
        found = found_with(tmp_path, pacs)
    assert failed(found) == {Topic.COMMITMENT: Side.PACS}
    assert "switch on Storage Commitment" in step_of(found, Topic.COMMITMENT).hint


def test_a_pacs_that_answers_no_query_is_named(tmp_path: Path) -> None:
    with CommittingPacs(finds=False) as pacs:
        found = found_with(tmp_path, pacs)
    assert failed(found) == {Topic.QUERY: Side.PACS}


@pytest.mark.usefixtures("_short_waits")
def test_a_pacs_that_loses_what_it_acknowledged_is_found_twice(tmp_path: Path) -> None:
    with CommittingPacs() as pacs:
        pacs.loses = 2
        found = found_with(tmp_path, pacs)
    assert failed(found) == {Topic.QUERY: Side.PACS, Topic.COMMITMENT: Side.PACS}
    assert "shows 3 of 5 images" in step_of(found, Topic.QUERY).sentence
    assert "committed to 3 and denied 2" in step_of(found, Topic.COMMITMENT).sentence


def test_a_report_on_the_same_association_counts_and_says_nothing_of_the_way_back(tmp_path: Path) -> None:
    with CommittingPacs() as pacs:
        pacs.report = pacs.on_the_same_association
        found = found_with(tmp_path, pacs)
        assert pacs.answers == [0x0000]
    assert "on our association" in step_of(found, Topic.COMMITMENT).sentence
    assert step_of(found, Topic.CALL_BACK).mark is Mark.OPEN


@pytest.mark.parametrize("with_role", [True, False])
def test_a_report_on_a_new_association_is_answered_with_success(tmp_path: Path, with_role: bool) -> None:
    def tell(_event: Event, asked: Asked) -> None:
        pacs.later(lambda: pacs.tell(asked, with_role=with_role))

    with CommittingPacs() as pacs:
        pacs.report = tell
        found = found_with(tmp_path, pacs)
        assert pacs.answers == [0x0000]
    assert failed(found) == {}
    assert step_of(found, Topic.CALL_BACK).mark is Mark.OK


@pytest.mark.usefixtures("_short_waits")
@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda pacs, asked: pacs.tell(asked, title="OTHER"), "1/1/3"),
        (lambda pacs, asked: _call_us(pacs, "node", asked), "1/1/7"),
    ],
    ids=["calling title", "called title"],
)
def test_a_call_that_is_turned_away_is_named_with_its_reason(
    tmp_path: Path, wrong: Callable[[CommittingPacs, Asked], None], says: str
) -> None:
    with CommittingPacs() as pacs:
        pacs.report = lambda _event, asked: pacs.later(lambda: wrong(pacs, asked))
        found = found_with(tmp_path, pacs)
    step = step_of(found, Topic.COMMITMENT)
    assert (step.mark, step.side) == (Mark.FAIL, Side.BOTH)
    assert says in step.hint
    assert step_of(found, Topic.CALL_BACK).mark is Mark.FAIL


def _call_us(pacs: CommittingPacs, title: str, asked: Asked) -> None:
    pacs.node_title = title
    pacs.tell(asked)


@pytest.mark.usefixtures("_short_waits")
def test_a_report_on_a_request_of_somebody_else_is_not_taken(tmp_path: Path) -> None:
    with CommittingPacs() as pacs:
        pacs.report = lambda _event, asked: pacs.later(lambda: pacs.tell(asked, transaction_uid="1.2.3"))
        found = found_with(tmp_path, pacs)
        assert pacs.answers == [0x0110]
    assert Topic.COMMITMENT in failed(found)


def test_who_waits_for_a_c_echo_of_the_pacs_sees_it(tmp_path: Path) -> None:
    """The PACS reports on the same association; a person there sends the echo when asked."""
    with CommittingPacs() as pacs:
        pacs.report = pacs.on_the_same_association
        settings = settings_with(tmp_path, pacs)

        def person() -> None:
            wait_until(lambda: pacs.answers, 30, "the PACS has reported")
            entity = AE("PACS")
            entity.add_requested_context(VERIFICATION)
            association = entity.associate(pacs.node[0], pacs.node[1], ae_title=NODE)
            assert association.is_established
            assert association.send_c_echo().Status == 0x0000
            association.release()

        thread = threading.Thread(target=person)
        thread.start()
        found, said = rehearsed(settings, wait_s=30.0)
        thread.join(30)
    assert step_of(found, Topic.CALL_BACK).mark is Mark.OK
    assert f"send a C-ECHO to {NODE}" in said[1]


def test_a_scanner_that_comes_during_a_rehearsal_is_asked_to_come_later(tmp_path: Path) -> None:
    rejections: list[tuple[int | None, ...]] = []

    def note(event: Event) -> None:
        """Take the PDU itself: a rejection that comes at once is a failed connection to pynetdicom's requestor."""
        assert isinstance(event.pdu, A_ASSOCIATE_RJ)
        rejections.append((event.pdu.result, event.pdu.source, event.pdu.reason_diagnostic))

    def scan(_event: Event, asked: Asked) -> None:
        def run() -> None:
            entity = AE("MR1")
            entity.add_requested_context(MR_IMAGE)
            entity.associate(pacs.node[0], pacs.node[1], ae_title=NODE, evt_handlers=[(EVT_PDU_RECV, note)])
            pacs.tell(asked)

        pacs.later(run)

    with CommittingPacs() as pacs:
        pacs.report = scan
        settings = settings_with(tmp_path, pacs)
        scanner = PeerSettings.model_validate({"name": "mr1", "ae_title": "MR1", "networks": ("127.0.0.1",)})
        settings = settings.model_copy(update={"peer": (*settings.peer, scanner)})
        found, _ = rehearsed(settings)
    assert rejections == [(2, 3, 1)], "a transient rejection: the scanner keeps its images"
    assert failed(found) == {}


def test_a_port_that_another_program_has_leaves_the_way_back_open(tmp_path: Path) -> None:
    with CommittingPacs() as pacs, CommittingPacs() as other:
        settings = settings_for(tmp_path, other.port, pacs.port, pacs={"ae_title": "PACS"})
        pacs.report = pacs.never
        found, _ = rehearsed(settings)
    step = step_of(found, Topic.COMMITMENT)
    assert step.mark is Mark.OPEN
    assert "listens there already" in step.sentence


@pytest.mark.usefixtures("_short_waits")
def test_a_late_report_is_awaited_by_who_says_how_long(tmp_path: Path) -> None:
    with CommittingPacs() as pacs:
        pacs.report = lambda _event, asked: pacs.later(lambda: pacs.tell(asked), after_s=8.0)
        settings = settings_with(tmp_path, pacs)
        assert Topic.COMMITMENT in failed(rehearsed(settings)[0])
        assert failed(rehearsed(settings, wait_s=60.0)[0]) == {}


def test_who_calls_back_under_tls_is_shown_with_its_certificate(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    ours, theirs = authority.issue("node"), authority.issue("pacs")
    port = free_port()
    tls = {
        "listen": f"127.0.0.1:{port}", "certificate": str(ours.certificate), "key": str(ours.key),
        "ca": str(authority.certificate),
    }  # fmt: skip
    with CommittingPacs() as pacs:
        pacs.node, pacs.node_title = ("127.0.0.1", port), NODE
        pacs.calls_with = (caller(authority, theirs), "localhost")
        settings = settings_for(tmp_path, free_port(), pacs.port, pacs={"ae_title": "PACS"}, tls=tls)
        found, _ = rehearsed(settings)
    assert failed(found) == {}
    shown = theirs.fingerprint.replace(":", "").lower()
    assert f"Its certificate has SHA-256 {shown}" in step_of(found, Topic.CALL_BACK).sentence
