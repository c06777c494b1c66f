"""What a peer is answered, and what is on disk and in the ledger then: docs/protocol.md#answers-to-c-store."""

from __future__ import annotations

import errno
import os
import re
import socket
import sqlite3
import subprocess
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import JPEG2000Lossless, generate_uid

from dicomnode.archive.store import FileState
from dicomnode.errors import SettingsError
from dicomnode.ids import AeTitle, digest
from dicomnode.ledger.engine import LedgerBusyError
from dicomnode.receive.association import Association
from dicomnode.receive.scp import Receiver
from dicomnode.seams import SYSTEM_CLOCK, set_checkpoint_hook
from dicomnode.settings.models import NodeSettings
from dicomnode.settings.peers import PeerSettings
from tests.ledger.scene import derived, plan_for
from tests.receive.receiving_node import LOOPBACK, ReceivingNode, receiving_node
from tests.support.dcmtk import environment, needs_dcmtk, program
from tests.support.dicom import (
    Made,
    dataset_bytes,
    dcmsend,
    encoded,
    made,
    mr_dataset,
    storescu,
    write_series,
)
from tests.support.mr_series import write_mr_series
from tests.support.pdu import (
    ABORT,
    ABORT_BYTES,
    ASSOCIATE_AC,
    ASSOCIATE_RJ,
    MR_IMAGE,
    RawClient,
    associate_rq,
    c_store_rq,
    p_data,
    raw_client,
    store_pdus,
)
from tests.support.shared import DATA, needs_shared
from tests.support.wait import wait_until

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT, IMPLICIT = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"


@pytest.fixture
def node(tmp_path: Path) -> Iterator[ReceivingNode]:
    """A receiver for the peer TEST of 127.0.0.1."""
    with receiving_node(tmp_path / "data") as running:
        yield running


@pytest.fixture
def client(node: ReceivingNode) -> Iterator[RawClient]:
    """An association of TEST's."""
    with raw_client(node.port) as one:
        answer = one.associate()
        assert answer is not None
        assert answer.kind == ASSOCIATE_AC
        yield one


@pytest.fixture
def at_checkpoint() -> Iterator[Callable[[str, Callable[[], None]], None]]:
    """Do something when this process passes a checkpoint."""

    def install(name: str, act: Callable[[], None]) -> None:
        set_checkpoint_hook(lambda passed: act() if passed == name else None)

    yield install
    set_checkpoint_hook(None)


def store(client: RawClient, one: Made, **how: int) -> int:
    return client.store(one.sop_class_uid, one.sop_instance_uid, one.dataset, **how)


def derived_instance(node: ReceivingNode) -> str:
    """Receive one image and let a job derive one from it; the SOP Instance UID of that one, whose file is not there."""
    source = made(1)
    with raw_client(node.port) as other:
        other.associate()
        assert store(other, source) == 0x0000
    series = node.ledger.intake.series_for(source.series_uid)
    assert node.ledger.settling.settle(series, 1, note="")
    assert node.ledger.settling.plan(series, 1, plan_for())
    job = node.ledger.jobs.claim("worker", lease_s=60)
    assert job is not None
    output = derived(1)
    assert node.ledger.jobs.finish(job, output)
    return output.instances[0].sop_instance_uid


def fail_with(number: int) -> Callable[[], None]:
    def act() -> None:
        raise OSError(number, os.strerror(number))

    return act


def test_every_address_of_the_machine_is_listened_on_where_the_settings_say_so(tmp_path: Path) -> None:
    if not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    peer = PeerSettings(name="a", ae_title=AeTitle("TEST"), networks=(*LOOPBACK, ip_network("::1")))
    with receiving_node(tmp_path / "data", listen="[::]:0", peers=[peer]) as node:
        for address in ("127.0.0.1", "::1"):
            with socket.create_connection((address, node.port), timeout=10) as connection:
                one = RawClient(connection)
                one.associate()
                assert one.echo() == 0x0000


def test_a_peer_is_answered_an_echo(client: RawClient) -> None:
    assert client.echo() == 0x0000
    client.release()


def test_success_means_bytes_on_disk_and_a_row(node: ReceivingNode, client: RawClient) -> None:
    one = made(1)
    assert store(client, one) == 0x0000
    known = node.ledger.intake.find_instance(one.sop_instance_uid)
    assert known is not None
    assert known.sha256 == digest(one.dataset)
    (file,) = node.stored(one.series_uid)
    assert dataset_bytes(node.archive.path(file)) == one.dataset


def test_name_and_bytes_of_a_file_are_flushed_before_its_row_is_committed(
    node: ReceivingNode, client: RawClient, at_checkpoint: Callable[[str, Callable[[], None]], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """After a power cut an acknowledged instance must be there, and under its name."""
    store(client, made(1))  # its folder is there from now on
    flushed: list[Path] = []
    real = {"fdatasync": os.fdatasync, "fsync": os.fsync}

    def recorded(name: str) -> Callable[[int], None]:
        def flush(descriptor: int) -> None:
            flushed.append(Path(f"/proc/self/fd/{descriptor}").readlink())
            real[name](descriptor)

        return flush

    for name in real:
        monkeypatch.setattr(os, name, recorded(name))
    before_commit: list[list[Path]] = []
    at_checkpoint("receive.folder_synced", lambda: before_commit.append(list(flushed)))
    second = made(2)
    assert store(client, second) == 0x0000
    (seen,) = before_commit
    (folder,) = {path.parent for path in node.files() if path.name in " ".join(node.stored(second.series_uid))}
    assert [path for path in seen if path.parent == folder], "the bytes"
    assert seen[-1] == folder, "the name, after them"


def test_a_dataset_in_many_fragments_arrives_whole(node: ReceivingNode, client: RawClient) -> None:
    one = made(1, size=128)
    assert store(client, one, pdv_bytes=1000) == 0x0000
    assert dataset_bytes(node.archive.path(node.stored(one.series_uid)[0])) == one.dataset


def test_the_same_object_again_is_success_and_one_copy(node: ReceivingNode, client: RawClient) -> None:
    one = made(1)
    assert [store(client, one) for _ in range(3)] == [0x0000] * 3
    assert len(node.files()) == 1
    assert not node.quarantined()


@pytest.mark.parametrize("harm", ["missing", "altered"])
def test_an_object_that_the_archive_lost_is_back_after_it_was_sent_again(
    node: ReceivingNode, client: RawClient, harm: str
) -> None:
    one = made(1)
    assert store(client, one) == 0x0000
    (file,) = node.stored(one.series_uid)
    path = node.archive.path(file)
    if harm == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert store(client, one) == 0x0000
    (file,) = node.stored(one.series_uid)
    assert dataset_bytes(node.archive.path(file)) == one.dataset
    assert node.files() == [node.archive.path(file)]
    assert len(node.quarantined()) == (harm == "altered")


def test_an_object_that_was_removed_for_its_age_is_stored_again_whatever_is_left_of_its_file(
    node: ReceivingNode, client: RawClient
) -> None:
    one = made(1)
    assert store(client, one) == 0x0000
    series = node.ledger.intake.series_for(one.series_uid)
    assert node.ledger.settling.settle(series, 1, note="quiet")
    assert node.ledger.settling.keep(series, 1, reason="too_few", sentence="Only 1 slice.")
    removed = node.ledger.removals.remove_old(series, SYSTEM_CLOCK.now() + timedelta(days=1))
    assert removed is not None
    assert store(client, one) == 0x0000  # before the file itself is removed
    node.archive.remove(removed.files)
    (file,) = node.stored(one.series_uid)
    assert dataset_bytes(node.archive.path(file)) == one.dataset
    assert store(client, one) == 0x0000
    assert node.files() == [node.archive.path(file)], "a copy of what returned is one copy"
    assert not node.quarantined()


def test_other_bytes_under_the_same_uid_are_set_aside_and_the_first_is_kept(
    node: ReceivingNode, client: RawClient
) -> None:
    first = made(1)
    second = made(2, series_uid=first.series_uid, sop_instance_uid=first.sop_instance_uid)
    assert store(client, first) == 0x0000
    assert store(client, second) == 0x0000
    assert dataset_bytes(node.archive.path(node.stored(first.series_uid)[0])) == first.dataset
    (aside,) = node.quarantined()
    assert aside.read_bytes().endswith(second.dataset)


def test_the_same_uid_in_another_encoding_is_set_aside(node: ReceivingNode, client: RawClient) -> None:
    dataset = mr_dataset()
    uid, series = str(dataset.SOPInstanceUID), str(dataset.SeriesInstanceUID)
    assert client.store(MR_IMAGE, uid, encoded(dataset), context=3) == 0x0000
    assert client.store(MR_IMAGE, uid, encoded(dataset, implicit=True), context=5) == 0x0000
    assert len(node.stored(series)) == 1
    assert len(node.quarantined()) == 1


@pytest.mark.parametrize("brought_before", [0, 1])
def test_our_own_output_coming_back_is_success_and_not_stored(
    node: ReceivingNode, client: RawClient, brought_before: int
) -> None:
    """As from a PACS that has it under a Series Instance UID of its own, alone or after images that are not ours."""
    output = derived_instance(node)
    series_uid = generate_uid()
    for number in range(brought_before):
        assert store(client, made(number, series_uid=series_uid)) == 0x0000
    assert store(client, made(7, series_uid=series_uid, sop_instance_uid=output)) == 0x0000
    assert len(node.files()) == 1 + brought_before
    assert not node.quarantined()
    assert (node.ledger.intake.find_series(series_uid) is not None) == bool(brought_before)


@pytest.mark.parametrize(
    ("number", "status"),
    [
        (errno.ENOSPC, 0xA700),
        (errno.EDQUOT, 0xA700),
        (errno.EMFILE, 0xA700),
        (errno.EROFS, 0x0110),
        (errno.EACCES, 0x0110),
        (errno.EIO, 0x0110),
    ],
)
def test_a_write_that_fails_is_answered_by_its_cause_and_leaves_no_file(
    node: ReceivingNode,
    client: RawClient,
    at_checkpoint: Callable[[str, Callable[[], None]], None],
    number: int,
    status: int,
) -> None:
    for seam in ("durable.written", "receive.folder_synced"):
        at_checkpoint(seam, fail_with(number))
        with raw_client(node.port) as other:
            answer = other.associate()
            if answer is not None and answer.kind == ASSOCIATE_RJ:
                assert answer.code == (2, 3, 1)  # while the condition lasts
        set_checkpoint_hook(None)
    at_checkpoint("durable.written", fail_with(number))
    assert store(client, made(1)) == status
    assert not node.files()
    with raw_client(node.port) as other:
        answer = other.associate()
        assert answer is not None
        assert (answer.kind, answer.code) == (ASSOCIATE_RJ, (2, 3, 1))


def test_a_commit_that_fails_leaves_no_file_and_no_row(
    node: ReceivingNode, client: RawClient, at_checkpoint: Callable[[str, Callable[[], None]], None]
) -> None:
    at_checkpoint("receive.folder_synced", fail_with(errno.ENOSPC))
    one = made(1)
    assert store(client, one) == 0xA700
    assert not node.files()
    assert node.ledger.intake.find_instance(one.sop_instance_uid) is None


def test_a_commit_that_succeeded_though_its_report_failed_is_a_success(
    node: ReceivingNode, client: RawClient, at_checkpoint: Callable[[str, Callable[[], None]], None]
) -> None:
    at_checkpoint("receive.committed", fail_with(errno.EIO))
    one = made(1)
    assert store(client, one) == 0x0000
    assert len(node.files()) == len(node.stored(one.series_uid)) == 1


def test_a_busy_ledger_is_out_of_resources(
    node: ReceivingNode, client: RawClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(_instances: object) -> None:
        raise LedgerBusyError("Another process held the ledger.")

    monkeypatch.setattr(node.ledger.intake, "accept", busy)
    assert store(client, made(1)) == 0xA700
    assert not node.files()


def test_a_programming_error_is_a_processing_failure_without_a_traceback(
    node: ReceivingNode, client: RawClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node.ledger.intake, "series_for", lambda _uid: 1 / 0)
    assert store(client, made(1)) == 0x0110
    assert client.echo() == 0x0000


def test_below_the_mark_nothing_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with receiving_node(tmp_path / "data", free_percent=3.0) as node, raw_client(node.port) as client:
        assert client.associate() is not None
        free = 2.9
        monkeypatch.setattr(node.archive.data_folder, "free_percent", lambda: free)
        assert store(client, made(1)) == 0xA700
        with raw_client(node.port) as other:
            answer = other.associate()
            assert answer is not None
            assert answer.code == (2, 3, 1)
        free = 3.1  # it clears itself
        assert store(client, made(1)) == 0x0000
        with sqlite3.connect(node.data / "ledger.sqlite") as ledger:
            events = ledger.execute("SELECT kind FROM event WHERE table_name = 'node' ORDER BY id").fetchall()
        ledger.close()
        assert [kind for (kind,) in events][-2:] == ["no_space", "accepting_again"]


def test_a_class_on_another_classes_context_is_not_supported(node: ReceivingNode, client: RawClient) -> None:
    one = made(1)
    assert client.store(CT_IMAGE, one.sop_instance_uid, one.dataset) == 0x0122
    assert client.store("1.2.3.4.5", one.sop_instance_uid, one.dataset) == 0x0122  # the library would abort
    assert not node.files()


def test_other_classes_and_lossy_syntaxes_are_refused_as_contexts(node: ReceivingNode) -> None:
    offered = [
        (1, MR_IMAGE, [EXPLICIT, IMPLICIT]),
        (3, CT_IMAGE, [EXPLICIT]),
        (5, MR_IMAGE, ["1.2.840.10008.1.2.4.50"]),
        (7, MR_IMAGE, ["1.2.840.10008.1.2.2"]),
        (9, MR_IMAGE, ["1.2.840.10008.1.2.1.99"]),
        (11, MR_IMAGE, [IMPLICIT, EXPLICIT, "1.2.840.10008.1.2.4.70"]),
    ]
    with raw_client(node.port) as client:
        answer = client.associate(associate_rq(contexts=offered))
        assert answer is not None
        results = {match[1][0]: match[2][0] for match in re.finditer(rb"!\0..(.)\0(.)\0", answer.body, re.DOTALL)}
        assert results == {1: 0, 3: 3, 5: 4, 7: 4, 9: 4, 11: 0}
        assert answer.body.count(EXPLICIT.encode()) >= 2  # ours is the order of preference


def test_a_peer_whose_other_objects_are_stored_may_send_ct(tmp_path: Path) -> None:
    peer = PeerSettings(name="ct", ae_title=AeTitle("TEST"), networks=LOOPBACK, other_objects="store")
    with receiving_node(tmp_path / "data", peers=[peer]) as node, raw_client(node.port) as client:
        assert client.associate(associate_rq(contexts=[(3, CT_IMAGE, [EXPLICIT])])) is not None
        dataset = mr_dataset()
        dataset.SOPClassUID = CT_IMAGE
        assert client.store(CT_IMAGE, str(dataset.SOPInstanceUID), encoded(dataset)) == 0x0000


@pytest.mark.parametrize(
    "uid", ["../../../etc/passwd", "..", "1.2.3.", "1..3", "x" * 64, "1." * 64 + "1", "1.2/3", "1.2\n3", "1.2 3", " "]
)
def test_what_is_no_uid_does_not_match_and_is_set_aside(node: ReceivingNode, client: RawClient, uid: str) -> None:
    dataset = mr_dataset()
    content = encoded(dataset).replace(
        _element(0x0008, 0x0018, str(dataset.SOPInstanceUID)), _element(0x0008, 0x0018, uid)
    )
    assert client.store(MR_IMAGE, uid, content) == 0xA900
    assert len(node.quarantined()) == 1
    assert not node.files()
    assert client.echo() == 0x0000


@pytest.mark.parametrize("uid", ["1.02.3", "1.2." + 61 * "7", "1." * 63 + "12", "7"])
@pytest.mark.parametrize("padding", ["", "\0", " "])
def test_a_uid_that_breaks_the_rule_but_harms_nobody_is_archived_as_it_is(
    node: ReceivingNode, client: RawClient, uid: str, padding: str
) -> None:
    dataset = mr_dataset()
    content = encoded(dataset)
    for tag, keyword in ((0x0018, "SOPInstanceUID"), (0x000D, "StudyInstanceUID"), (0x000E, "SeriesInstanceUID")):
        group = 0x0008 if keyword == "SOPInstanceUID" else 0x0020
        content = content.replace(
            _element(group, tag, str(dataset[keyword].value)), _element(group, tag, uid + padding)
        )
    assert client.store(MR_IMAGE, uid + padding, content) == 0x0000
    (file,) = node.stored(uid)
    assert dataset_bytes(node.archive.path(file)) == content
    assert dcmread(node.archive.path(file)).file_meta.MediaStorageSOPInstanceUID == uid
    assert not node.quarantined()
    assert client.echo() == 0x0000


def test_a_command_that_names_another_instance_than_the_dataset_does_not_match(
    node: ReceivingNode, client: RawClient
) -> None:
    one = made(1)
    assert client.store(MR_IMAGE, "1.2.3", one.dataset) == 0xA900
    assert len(node.quarantined()) == 1


@pytest.mark.parametrize("content", [b"odd", b"\xff" * 2000, b"<html></html>!" * 10000])
def test_what_cannot_be_walked_is_not_understood_and_its_head_kept(
    node: ReceivingNode, client: RawClient, content: bytes
) -> None:
    assert client.store(MR_IMAGE, "1.2.3", content) == 0xC000
    (aside,) = node.quarantined()
    assert aside.read_bytes().endswith(content[:65536])
    assert aside.stat().st_size < 65536 + 1024


def test_an_empty_dataset_and_none_at_all_are_not_understood(client: RawClient) -> None:
    assert client.store(MR_IMAGE, "1.2.3", b"") == 0xC000
    client.send(p_data(3, c_store_rq(MR_IMAGE, "1.2.3", has_dataset=False), is_command=True))
    assert client.status() == 0xC000


def test_a_dataset_beyond_the_limit_is_aborted_while_it_streams(tmp_path: Path) -> None:
    with receiving_node(tmp_path / "data", max_instance_mb=1) as node, raw_client(node.port) as client:
        assert client.associate() is not None
        client.send(p_data(3, c_store_rq(MR_IMAGE, "1.2.3"), is_command=True))
        fragment = p_data(3, bytes(60000), is_command=False, is_last=False)
        with pytest.raises((ConnectionError, TimeoutError)):  # noqa: PT012 - somewhere in this stream
            for _ in range(1000):
                client.send(fragment)
        node.wait_until_empty()
        assert not node.files()


def test_open_series_are_known_until_the_association_ends(node: ReceivingNode, client: RawClient) -> None:
    one = made(1)
    store(client, one)
    assert node.receiver.open_series() == {node.ledger.intake.series_for(one.series_uid)}
    client.release()
    node.wait_until_empty()
    assert node.receiver.open_series() == frozenset()
    assert node.wakes
    assert [series.aborted for series in node.ledger.settling.receiving()] == [False]


@pytest.mark.parametrize("end", [ABORT_BYTES, b""])
def test_an_abort_or_a_lost_link_marks_the_series(node: ReceivingNode, client: RawClient, end: bytes) -> None:
    store(client, made(1))
    client.send(end)
    client.connection.close()
    node.wait_until_empty()
    wait_until(lambda: [one.aborted for one in node.ledger.settling.receiving()] == [True])


def test_one_series_on_two_associations_stays_open_until_both_end(node: ReceivingNode, client: RawClient) -> None:
    one = made(1)
    store(client, one)
    with raw_client(node.port) as other:
        other.associate()
        assert store(other, made(2, series_uid=one.series_uid)) == 0x0000
        client.release()
        wait_until(lambda: node.receiver.associations() == 1)
        assert len(node.receiver.open_series()) == 1
    node.wait_until_empty()
    assert len(node.stored(one.series_uid)) == 2


def test_the_same_object_at_once_on_many_associations_becomes_one_row(node: ReceivingNode) -> None:
    one = made(1, size=64)
    connections = [raw_client(node.port) for _ in range(6)]
    clients = [each.__enter__() for each in connections]
    for client in clients:
        assert client.associate() is not None
    for client in clients:
        client.send(_pdus(one))
    assert [client.status() for client in clients] == [0x0000] * 6
    for each in connections:
        each.__exit__(None, None, None)
    assert len(node.files()) == len(node.stored(one.series_uid)) == 1


@needs_dcmtk
def test_storescu_and_dcmsend_deliver_whole_series(node: ReceivingNode, tmp_path: Path) -> None:
    """DCMTK encodes anew what it read, so that values are compared here and bytes elsewhere."""
    first, second = write_series(tmp_path / "a", 6), write_series(tmp_path / "b", 6, transfer_syntax=IMPLICIT)
    assert storescu(node.port, first, "-xe").returncode == 0
    report = dcmsend(node.port, second, tmp_path / "report")
    assert len(re.findall(r"DIMSE Status\s*: 0x0000", report)) == 6
    kept = {str(one.SOPInstanceUID): one for one in map(dcmread, node.files())}
    assert len(kept) == 12
    for path in (*first, *second):
        sent = dcmread(path)
        assert kept[str(sent.SOPInstanceUID)] == sent
    for instance in node.ledger.settling.instances_of(
        node.ledger.intake.series_for(str(dcmread(first[0]).SeriesInstanceUID)), 1
    ):
        assert node.archive.verify(instance.file, instance.sha256) is FileState.WHOLE
        assert instance.transfer_syntax_uid == EXPLICIT


@needs_dcmtk
def test_storescu_goes_on_after_an_altered_copy(node: ReceivingNode, tmp_path: Path) -> None:
    """A failure status would have stopped it: the rest of the series would be lost."""
    files = write_series(tmp_path / "a", 4)
    assert storescu(node.port, files[:2], "-xe").returncode == 0
    content = bytearray(files[1].read_bytes())
    content[-1] ^= 1
    files[1].write_bytes(content)
    assert storescu(node.port, files, "-xe").returncode == 0
    assert len(node.files()) == 4
    assert len(node.quarantined()) == 1


@needs_dcmtk
@pytest.mark.parametrize(
    ("compress", "option", "transfer_syntax"),
    [
        ("dcmcjpeg", "-xs", "1.2.840.10008.1.2.4.70"),
        ("dcmcjpls", "-xt", "1.2.840.10008.1.2.4.80"),
        ("pydicom", "-xv", "1.2.840.10008.1.2.4.90"),  # DCMTK has no encoder for JPEG 2000
        ("dcmcrle", "-xr", "1.2.840.10008.1.2.5"),
    ],
)
def test_lossless_compressed_objects_are_kept_as_they_are(
    tmp_path: Path, compress: str, option: str, transfer_syntax: str
) -> None:
    peer = PeerSettings(name="any", ae_title=AeTitle("TEST"), networks=LOOPBACK, other_objects="store")
    (plain,), file = write_mr_series(tmp_path / "plain", slices=1, size=64), tmp_path / "compressed.dcm"
    if compress == "pydicom":
        dataset = dcmread(plain)
        dataset.compress(JPEG2000Lossless)
        dataset.save_as(file)
    else:
        subprocess.run([program(compress), plain, file], env=environment(), check=True)
    sent = dcmread(file)
    with receiving_node(tmp_path / "foreign", peers=[peer]) as node:
        result = storescu(node.port, [file], option)
        assert result.returncode == 0, _said(result)
        (kept,) = node.files()
        assert dcmread(kept).PixelData == sent.PixelData
        assert dcmread(kept).file_meta.TransferSyntaxUID == transfer_syntax
    with receiving_node(tmp_path / "raw", peers=[peer]) as node, raw_client(node.port) as client:
        client.associate(associate_rq(contexts=[(3, str(sent.SOPClassUID), [transfer_syntax])]))
        content = dataset_bytes(file)
        assert client.store(str(sent.SOPClassUID), str(sent.SOPInstanceUID), content) == 0x0000
        assert node.files()[0].read_bytes().endswith(content)


@needs_dcmtk
def test_storescu_learns_why_it_was_rejected(node: ReceivingNode, tmp_path: Path) -> None:
    files = write_series(tmp_path / "a", 1)
    assert "Called AE Title Not Recognized" in _said(storescu(node.port, files, called="WRONG"))
    assert "Calling AE Title Not Recognized" in _said(storescu(node.port, files, calling="WRONG"))


def test_both_titles_wrong_names_the_called_one_and_a_peer_elsewhere_is_unknown(tmp_path: Path) -> None:
    elsewhere = PeerSettings(name="b", ae_title=AeTitle("B"), networks=(ip_network("127.0.0.9"),))
    here = PeerSettings(name="a", ae_title=AeTitle("A"), networks=LOOPBACK)
    with receiving_node(tmp_path / "data", peers=[elsewhere, here]) as node:
        for request, code in [
            (associate_rq(called=b"X", calling=b"X"), (1, 1, 7)),
            (associate_rq(calling=b"B"), (1, 1, 3)),
            (associate_rq(calling=b"a"), (1, 1, 3)),
            (associate_rq(calling=b"A\xc3"), (1, 1, 3)),  # the library would read it as A
            (associate_rq(calling=b""), (1, 1, 3)),
            (associate_rq(calling=b"A", application_context=b"1.2.3"), (1, 1, 2)),
            (associate_rq(calling=b"A", version=2), (1, 2, 2)),
        ]:
            with raw_client(node.port) as client:
                answer = client.associate(request)
                assert answer is not None
                assert (answer.kind, answer.code) == (ASSOCIATE_RJ, code)
        with raw_client(node.port, source="127.0.0.9") as client:
            answer = client.associate(associate_rq(calling=b"B", version=3))  # only bit 0 is tested
            assert answer is not None
            assert answer.kind == ASSOCIATE_AC


def test_a_port_in_use_is_said_in_words(node: ReceivingNode, tmp_path: Path) -> None:
    with receiving_node(tmp_path / "other") as other:
        second = Receiver(
            node=NodeSettings(listen=f"127.0.0.1:{node.port}"),
            receive=other.limits,
            disk=other.disk,
            peers=(),
            ledger=other.ledger,
            archive=other.archive,
            wake=lambda: None,
        )
        with pytest.raises(SettingsError, match="cannot listen on"):
            second.start()


def test_stopping_lets_an_open_association_finish_and_rejects_new_ones(node: ReceivingNode, client: RawClient) -> None:
    stopping = threading.Thread(target=node.receiver.stop, args=(20.0,))
    stopping.start()
    wait_until(lambda: _code(node.port) == (2, 3, 1))
    one = made(1)
    assert store(client, one) == 0x0000
    client.release()
    stopping.join(30)
    assert not stopping.is_alive()
    with pytest.raises(ConnectionError):
        raw_client(node.port).__enter__()
    assert len(node.files()) == 1


def test_an_association_is_known_before_its_peer_hears_that_it_is_accepted(
    node: ReceivingNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The listener's thread may be held up after it started that of the association; a stop must wait for it still."""
    start = Association.start

    def start_and_be_held_up(association: Association) -> None:
        start(association)
        threading.Event().wait(0.5)

    monkeypatch.setattr(Association, "start", start_and_be_held_up)
    with raw_client(node.port) as client:
        client.associate()
        assert node.receiver.associations() == 1


def test_stopping_aborts_who_does_not_finish(node: ReceivingNode, client: RawClient) -> None:
    store(client, made(1))
    node.receiver.stop(0.1)
    answer = client.receive()
    assert answer is not None
    assert (answer.kind, answer.code) == (ABORT, (0, 0))
    assert [one.aborted for one in node.ledger.settling.receiving()] == [True]


@needs_dcmtk
@needs_shared
def test_every_odd_file_is_stored_set_aside_or_refused_and_the_node_lives(tmp_path: Path) -> None:
    peer = PeerSettings(name="any", ae_title=AeTitle("TEST"), networks=LOOPBACK, other_objects="store")
    files = sorted(path for path in (DATA / "odd").rglob("*") if path.is_file())
    with receiving_node(tmp_path / "data", peers=[peer]) as node:
        report = dcmsend(node.port, files, tmp_path / "report", "+sd", "-nh", "--no-uid-checks", "-dn")
        answered = len(re.findall(r"DIMSE Status\s*: 0x(?:0000|A900|C000)", report))
        assert answered > 10
        with raw_client(node.port) as client:
            client.associate()
            assert client.echo() == 0x0000
        assert len(node.files()) + len(node.quarantined()) <= answered


def _pdus(one: Made) -> bytes:
    return store_pdus(one.sop_class_uid, one.sop_instance_uid, one.dataset)


def _said(result: object) -> str:
    return str(getattr(result, "stdout", "")) + str(getattr(result, "stderr", ""))


def _code(port: int) -> tuple[int, ...] | None:
    with raw_client(port) as client:
        answer = client.associate()
        return answer.code if answer is not None and answer.kind == ASSOCIATE_RJ else None


def _element(group: int, element: int, uid: str) -> bytes:
    raw = uid.encode() + b"\0" * (len(uid) % 2)
    return group.to_bytes(2, "little") + element.to_bytes(2, "little") + b"UI" + len(raw).to_bytes(2, "little") + raw
