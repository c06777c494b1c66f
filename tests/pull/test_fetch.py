"""What was asked for comes whole, or it is said how many instances are absent, whatever the peer says of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydicom import dcmread
from pynetdicom import AE, evt

from dicomnode.archive.store import Archive
from dicomnode.dimse.outcome import RequestOutcome, RequestReason
from dicomnode.errors import InputError, PeerError
from dicomnode.ids import AeTitle, SeriesId
from dicomnode.ledger.store import Ledger, open_ledger
from dicomnode.pull.dimse_source import DimseSource
from dicomnode.pull.fetch import PulledSeries, Wish, fetch, find_series, look_up, only_one, patterns, refuse_in
from dicomnode.pull.handover import Handover
from dicomnode.pull.source import Match, Source
from dicomnode.pull.web_source import WebSource
from dicomnode.push.dimse_carrier import DimseCarrier
from dicomnode.push.send_files import send_files
from dicomnode.receive.scp import Receiver, fetcher
from dicomnode.settings.models import ArchiveSettings, NodeSettings, PushSettings, ReceiveSettings, TlsSettings
from dicomnode.settings.peers import PeerSettings
from dicomnode.stow.server import Server
from dicomnode.wire import MR_IMAGE, STUDY_ROOT_GET, UNCOMPRESSED
from tests.support.dicom import dataset_bytes
from tests.support.mr_series import write_mr_series
from tests.support.orthanc import AE_TITLE, WITH_DICOMWEB, Orthanc, needs_dicomweb, needs_orthanc, orthanc
from tests.support.wait import wait_until

PULL = AeTitle("PULLED")
PUSH = PushSettings(connect_timeout_s=10.0, response_timeout_s=30.0)
PACS = PeerSettings(name="pacs", ae_title=AeTitle(AE_TITLE), address="127.0.0.1:1")
OK = RequestOutcome(reason=RequestReason.ANSWERED, status=0)
LOST = RequestOutcome(reason=RequestReason.LOST)
EVERYTHING = Wish(matches={})


class Door:
    """A receiver with its ledger and archive, and a way to it under the title of what is pulled."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.archive = Archive(folder)
        self.ledger: Ledger = open_ledger(f"sqlite:///{folder / 'ledger.sqlite'}")
        node = NodeSettings(listen="127.0.0.1:0", data=folder, pull_ae_title=PULL)
        self._receiver = Receiver(
            node=node, receive=ReceiveSettings(), disk=ArchiveSettings(refuse_free_percent=0.0), peers=[PACS],
            ledger=self.ledger, archive=self.archive, wake=lambda: None,
        )  # fmt: skip
        self._receiver.start()
        self.port = self._receiver.port
        self.myself = fetcher(node.model_copy(update={"listen": f"127.0.0.1:{self.port}"}))
        self.carrier = DimseCarrier(ae_title=PULL, push=PUSH)
        self.handover = Handover(carrier=self.carrier, myself=self.myself)

    def close(self) -> None:
        self._receiver.stop(1.0)
        self.ledger.close()

    def datasets(self) -> set[bytes]:
        """What lies in the archive."""
        return {dataset_bytes(path) for path in (self.archive.data / "archive").rglob("*.dcm")}

    def settled(self) -> dict[int, bool]:
        """Settle everything; our number of a series → was it pulled?"""
        for one in self.ledger.settling.receiving():
            self.ledger.settling.settle(one.id, one.revision, note="quiet")
        return {int(one.id): one.is_pulled for one in self.ledger.settling.settled()}


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    with closing(Door(tmp_path / "node")) as opened:
        yield opened


class Double:
    """A source that has files, and brings them as the script says."""

    def __init__(self, door: Door, files: Sequence[Path]) -> None:
        self._door = door
        self._files = {str(dcmread(file, specific_tags=["SOPInstanceUID"]).SOPInstanceUID): file for file in files}
        self.withheld: set[str] = set()  # of a fetch of the series
        self.never: set[str] = set()
        self.answer = OK
        self.fetched: list[str] = []
        self.hidden: set[str] = set()  # from the first search
        self.searches = 0

    def find(self, level: str, values: Mapping[str, str]) -> list[Match] | RequestOutcome:
        self.searches += level == "IMAGE"
        found = []
        for uid, file in self._files.items():
            if level != "IMAGE" or uid not in self.hidden or self.searches > 1:
                header = dcmread(file, stop_before_pixels=True)
                found.append({keyword: str(header.get(keyword, "")) for keyword in values})
        return list({tuple(one.items()): one for one in found}.values())

    def fetch_series(self, _study_uid: str, _series_uid: str, sop_instance_uids: Sequence[str]) -> RequestOutcome:
        self._bring([uid for uid in sop_instance_uids if uid not in self.withheld | self.never])
        return self.answer

    def fetch_one(self, _study_uid: str, _series_uid: str, sop_instance_uid: str) -> RequestOutcome:
        self.fetched.append(sop_instance_uid)
        self._bring([sop_instance_uid] if sop_instance_uid not in self.never else [])
        return self.answer

    def close(self) -> None:
        """Nothing is open."""

    def _bring(self, uids: Sequence[str]) -> None:
        sent = list(send_files(self._door.carrier, self._door.myself, [self._files[uid] for uid in uids]))
        assert [one.outcome.status for one in sent] == [0] * len(uids)


def pull(source: Source, door: Door, wish: Wish = EVERYTHING) -> list[PulledSeries]:
    return [fetch(source, door.ledger, found, arrival_s=0.5) for found in find_series(source, wish)]


def uids_of(files: Sequence[Path]) -> list[str]:
    return [str(dcmread(file, specific_tags=["SOPInstanceUID"]).SOPInstanceUID) for file in files]


def test_a_series_comes_whole_as_the_same_bytes_and_counts_as_pulled(door: Door, tmp_path: Path) -> None:
    files = write_mr_series(tmp_path / "pacs", slices=5)
    (pulled,) = pull(Double(door, files), door)
    assert (pulled.wanted, pulled.before, pulled.here, pulled.sentence) == (5, 0, 5, "")
    assert door.datasets() == {dataset_bytes(file) for file in files}
    assert door.settled() == {pulled.series: True}


@pytest.mark.parametrize("answer", [OK, RequestOutcome(reason=RequestReason.ANSWERED, status=0xB000), LOST])
def test_what_is_withheld_is_fetched_one_by_one_whatever_the_peer_says(
    door: Door, tmp_path: Path, answer: RequestOutcome
) -> None:
    files = write_mr_series(tmp_path / "pacs", slices=5)
    source = Double(door, files)
    source.withheld, source.answer = set(uids_of(files)[1:3]), answer
    (pulled,) = pull(source, door)
    assert (pulled.here, pulled.is_whole, pulled.sentence) == (5, True, "")
    assert set(source.fetched) == source.withheld


def test_what_never_comes_is_counted_though_the_peer_says_success(door: Door, tmp_path: Path) -> None:
    files = write_mr_series(tmp_path / "pacs", slices=4)
    source = Double(door, files)
    source.never = {uids_of(files)[3]}
    (pulled,) = pull(source, door)
    assert (pulled.wanted, pulled.here, pulled.is_whole) == (4, 3, False)
    assert pulled.sentence == "1 of 4 instances did not come."


def test_a_peer_that_is_gone_is_not_asked_for_each_instance(door: Door, tmp_path: Path) -> None:
    source = Double(door, files := write_mr_series(tmp_path / "pacs", slices=4))
    source.never, source.answer = set(uids_of(files)), LOST
    (pulled,) = pull(source, door)
    assert (pulled.here, len(source.fetched)) == (0, 1)
    assert "The connection to the peer was lost." in pulled.sentence


def test_a_series_that_grew_meanwhile_is_said(door: Door, tmp_path: Path) -> None:
    source = Double(door, files := write_mr_series(tmp_path / "pacs", slices=4))
    source.hidden = {uids_of(files)[0]}
    (pulled,) = pull(source, door)
    assert (pulled.wanted, pulled.here) == (4, 3)
    assert "1 more since it was asked" in pulled.sentence


def test_what_is_here_is_not_fetched_again_and_a_look_fetches_nothing(door: Door, tmp_path: Path) -> None:
    source = Double(door, write_mr_series(tmp_path / "pacs", slices=3))
    (found,) = find_series(source, EVERYTHING)
    assert look_up(door.ledger, found).here == 0
    assert pull(source, door)[0].before == 0
    assert pull(source, door)[0].before == 3
    assert look_up(door.ledger, found).here == 3


def test_a_series_of_which_a_peer_sent_something_is_taken_by_the_rules(door: Door, tmp_path: Path) -> None:
    files = write_mr_series(tmp_path / "pacs", slices=3)
    (pulled,) = pull(Double(door, files), door)
    assert door.settled() == {pulled.series: True}
    assert pulled.series is not None
    door.ledger.operator.release_series(SeriesId(pulled.series), "operator")
    assert door.settled() == {pulled.series: False}, "an operator has it judged"


def test_only_series_that_are_meant_are_counted(door: Door, tmp_path: Path) -> None:
    source = Double(door, write_mr_series(tmp_path / "pacs", slices=2))
    description = source.find("SERIES", {"SeriesDescription": ""})
    assert isinstance(description, list)
    said = description[0]["SeriesDescription"]
    assert len(find_series(source, Wish(matches={"SeriesDescription": said.lower()}))) == 1
    assert find_series(source, Wish(matches={"SeriesDescription": "nothing of the kind"})) == []
    with pytest.raises(InputError, match="is not KEYWORD=PATTERN"):
        patterns(["SeriesDescriptoin=*"])


def test_a_peer_that_does_not_answer_a_search_is_an_error(door: Door) -> None:
    source = DimseSource(door.carrier, PACS, door.handover)
    with pytest.raises(PeerError, match="does not say what it has"):
        find_series(source, EVERYTHING)


@pytest.mark.parametrize(("span", "hour", "refused"), [("07:00-19:00", 8, True), ("07:00-19:00", 20, False),
                                                      ("22:00-06:00", 23, True), ("22:00-06:00", 12, False),
                                                      ("", 8, False)])  # fmt: skip
def test_nothing_is_pulled_in_the_hours_of_a_peer(span: str, hour: int, refused: bool) -> None:
    now = datetime(2026, 3, 2, hour, 30).astimezone(UTC)
    if refused:
        with pytest.raises(InputError, match=r"peer\.pull_blackout"):
            refuse_in(span, "pacs", now)
    else:
        refuse_in(span, "pacs", now)


def test_one_pull_from_a_peer_runs_at_a_time(tmp_path: Path) -> None:
    with only_one(tmp_path, "pacs"):
        with only_one(tmp_path, "other"):
            pass
        with pytest.raises(InputError, match="Another pull from pacs runs"), only_one(tmp_path, "pacs"):
            pass


def filled(running: Orthanc, files: Sequence[Path]) -> PeerSettings:
    peer = PACS.model_copy(update={"address": f"127.0.0.1:{running.dicom_port}"})
    ours = DimseCarrier(ae_title=AeTitle("DICOMNODE"), push=PUSH)
    assert all(one.outcome.status == 0 for one in send_files(ours, peer, files))
    wait_until(lambda: len(running.sop_instance_uids()) == len(files))
    return peer


@needs_orthanc
def test_orthanc_brings_studies_by_c_move(door: Door, tmp_path: Path) -> None:
    files = write_mr_series(tmp_path / "one", slices=7)
    modalities = {"DicomModalities": {"node": [PULL, "127.0.0.1", door.port], "us": ["DICOMNODE", "127.0.0.1", 104]}}
    with orthanc(tmp_path / "orthanc", settings=modalities) as running:
        peer = filled(running, files)
        source = DimseSource(DimseCarrier(ae_title=AeTitle("DICOMNODE"), push=PUSH), peer, door.handover)
        with closing(source):
            header = dcmread(files[0], stop_before_pixels=True)
            wish = Wish(patient=str(header.PatientID), matches={"SeriesDescription": "*"})
            (found,) = find_series(source, wish)
            assert find_series(source, Wish(studies=(found.study_uid,), matches={})) == [found]
            pulled = fetch(source, door.ledger, found)
            assert (pulled.wanted, pulled.here, pulled.sentence) == (7, 7, "")
            assert fetch(source, door.ledger, found).before == 7
    assert len(door.datasets()) == 7
    assert door.settled() == {pulled.series: True}


@needs_orthanc
def test_orthanc_that_does_not_know_our_door_brings_studies_by_c_get(door: Door, tmp_path: Path) -> None:
    files = write_mr_series(tmp_path / "one", slices=7)
    us = {"us": {"AET": "DICOMNODE", "Host": "127.0.0.1", "Port": 104, "AllowGet": True}}
    with orthanc(tmp_path / "orthanc", settings={"DicomModalities": us}) as running:
        peer = filled(running, files)
        source = DimseSource(DimseCarrier(ae_title=AeTitle("DICOMNODE"), push=PUSH), peer, door.handover)
        with closing(source):
            (found,) = find_series(source, EVERYTHING)
            pulled = fetch(source, door.ledger, found)
            assert (pulled.wanted, pulled.here, pulled.sentence) == (7, 7, "")
            assert source.fetch_one(found.study_uid, found.series_uid, min(found.instances)).status == 0
    assert door.datasets() == {dataset_bytes(file) for file in files}
    assert door.settled() == {pulled.series: True}


@needs_orthanc
@needs_dicomweb
def test_an_instance_that_is_gone_from_a_server_does_not_lose_the_others(door: Door, tmp_path: Path) -> None:
    files = write_mr_series(tmp_path / "one", slices=3)
    with orthanc(tmp_path / "orthanc", settings=WITH_DICOMWEB) as running:
        filled(running, files)
        source = WebSource(
            Server(PeerSettings(name="web", url=running.dicomweb_url), PUSH, TlsSettings()), door.handover
        )
        (found,) = find_series(source, EVERYTHING)
        gone = replace(found, instances=found.instances | {"1.2.3"})
        pulled = fetch(source, door.ledger, gone, arrival_s=0.5)
    assert (pulled.wanted, pulled.here) == (4, 3)
    assert pulled.sentence.startswith("1 of 4 instances did not come.")


class Giver:
    """A PACS of the library that offers C-GET and no C-MOVE, and gives the files of one series."""

    def __init__(
        self, files: Sequence[Path], *, with_role: bool, breaks_after: int | None = None, withholds: int = 0
    ) -> None:
        """``withholds``: of the instances that it announces when a series is asked for."""
        self._files = [dcmread(file) for file in files]
        self._breaks_after = breaks_after
        self._withholds = withholds
        ae = AE(AE_TITLE)
        ae.add_supported_context(STUDY_ROOT_GET, list(UNCOMPRESSED))
        roles = {"scu_role": False, "scp_role": True} if with_role else {}
        ae.add_supported_context(MR_IMAGE, list(UNCOMPRESSED), **roles)
        server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_GET, self._give)])
        assert server is not None
        assert server.socket is not None
        self._server = server
        self.peer = PACS.model_copy(update={"address": f"127.0.0.1:{server.socket.getsockname()[1]}"})

    def close(self) -> None:
        self._server.shutdown()

    def _give(self, event: evt.Event) -> Iterator[object]:
        wanted = str(event.identifier.get("SOPInstanceUID", ""))
        files = [one for one in self._files if wanted in ("", one.SOPInstanceUID)]
        yield len(files)
        for number, one in enumerate(files[0 if wanted else self._withholds :]):
            if not wanted and number == self._breaks_after:
                event.assoc.abort()
                return
            yield 0xFF00, one


def _got(door: Door, giver: Giver, files: Sequence[Path]) -> RequestOutcome:
    """Fetch a series whose UIDs are known: a giver answers no searches."""
    source = DimseSource(DimseCarrier(ae_title=AeTitle("DICOMNODE"), push=PUSH), giver.peer, door.handover)
    header = dcmread(files[0], stop_before_pixels=True)
    series = (str(header.StudyInstanceUID), str(header.SeriesInstanceUID))
    with closing(source):
        outcome = source.fetch_series(*series, uids_of(files))
        absent = [uid for uid in uids_of(files) if door.ledger.intake.find_instance(uid) is None]
        return next((source.fetch_one(*series, uid) for uid in absent), outcome)


def test_a_peer_without_c_move_brings_by_c_get(door: Door, tmp_path: Path) -> None:
    files = write_mr_series(tmp_path / "one", slices=4)
    with closing(Giver(files, with_role=True)) as giver:
        assert _got(door, giver, files) == OK
    assert len(door.datasets()) == 4


def test_an_association_of_a_c_get_that_is_cut_is_opened_again(door: Door, tmp_path: Path) -> None:
    files = write_mr_series(tmp_path / "one", slices=4)
    with closing(Giver(files, with_role=True, breaks_after=3)) as giver:
        assert _got(door, giver, files) == OK
    assert len(door.datasets()) == 4


def test_what_a_c_get_announces_and_withholds_is_asked_for_by_itself(door: Door, tmp_path: Path) -> None:
    files = write_mr_series(tmp_path / "one", slices=4)
    with closing(Giver(files, with_role=True, withholds=1)) as giver:
        assert _got(door, giver, files) == OK
    assert door.datasets() == {dataset_bytes(file) for file in files}


def test_without_the_role_of_a_provider_there_is_no_c_get(door: Door, tmp_path: Path) -> None:
    files = write_mr_series(tmp_path / "one", slices=2)
    with closing(Giver(files, with_role=False)) as giver:
        outcome = _got(door, giver, files)
    assert outcome.reason is RequestReason.NO_CONTEXT
    assert door.datasets() == set()


@needs_orthanc
@needs_dicomweb
def test_orthanc_gives_studies_by_dicomweb(door: Door, tmp_path: Path) -> None:
    files = write_mr_series(tmp_path / "one", slices=7)
    with orthanc(tmp_path / "orthanc", settings=WITH_DICOMWEB) as running:
        filled(running, files)
        web = PeerSettings(name="web", url=running.dicomweb_url)
        source = WebSource(Server(web, PUSH, TlsSettings()), door.handover)
        header = dcmread(files[0], stop_before_pixels=True)
        (found,) = find_series(source, Wish(patient=str(header.PatientID), matches={"SeriesDescription": "*"}))
        pulled = fetch(source, door.ledger, found)
        assert (pulled.wanted, pulled.here, pulled.sentence) == (7, 7, "")
    assert door.datasets() == {dataset_bytes(file) for file in files}
