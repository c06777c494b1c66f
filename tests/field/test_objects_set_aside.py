"""SOP Instance UIDs that come twice: copied series, corrected patients, scanners that number slices alike.

Seen in the field at gateways and archives alike: the sender is told 0000 for every slice, some are set aside or
overwritten, and nobody reads that what is derived or shown lacks them, or still bears the old name.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, RLELossless

from dicomnode.generators.model_dir import ModelFacts, model_facts
from dicomnode.ids import DeliveryId
from dicomnode.ledger.engine import LedgerBusyError
from dicomnode.receive import space
from dicomnode.sweep import Sweep
from tests.support.mr_series import mr_datasets
from tests.support.quiet_node import IMPLICIT, QuietNode, changed, quiet_node

RLE = str(RLELossless)
OTHER_PIXELS = b"\1\2" * 256


@pytest.fixture
def node(tmp_path: Path) -> Iterator[QuietNode]:
    with quiet_node(tmp_path / "data") as one:
        yield one


@pytest.fixture
def made() -> list[Dataset]:
    return mr_datasets(slices=8)


def sharing(made: list[Dataset], *places: int) -> list[Dataset]:
    """Another series of the study, some of whose slices bear UIDs of the first."""
    other = mr_datasets(slices=8, attributes={"StudyInstanceUID": made[0].StudyInstanceUID, "SeriesNumber": 4})
    for place in places:
        other[place].SOPInstanceUID = made[place].SOPInstanceUID
    return other


def compressed(datasets: list[Dataset]) -> list[Dataset]:
    """The same images, RLE."""
    copies = changed(datasets)
    for dataset in copies:
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.compress(RLELossless, generate_instance_uid=False)
        del dataset.file_meta
    return copies


def test_a_series_that_shares_uids_with_another_is_not_derived_without_them_in_silence(
    node: QuietNode, made: list[Dataset]
) -> None:
    two = sharing(made, 6, 7)
    assert node.send(made) == node.send(two) == [0x0000] * 8
    node.settle()
    first, second = node.number_of(made), node.number_of(two)
    found = node.explain(second)
    assert (found.state, found.reason) == ("kept", "set_aside")
    words = f"2 of its 8 instances were set aside: their SOP Instance UIDs are those of series {first}."
    assert found.sentences[0] == words
    assert found.notes[0].startswith("Without what was set aside, the verdict would be: 6 slices")
    assert node.attention()["series", second] == words
    assert node.explain(first).state == "planned"
    assert node.explain(first).notes == (
        f"2 objects of series {second} came under SOP Instance UIDs of this series and were set aside.",
    )
    assert ("series", first) not in node.attention()

    node.ledger.operator.release_series(second, "operator")
    node.settler.turn()
    found = node.explain(second)
    assert found.state == "planned"
    assert words in found.notes, "who looks at what was derived reads what it lacks"
    assert not node.attention()


def test_a_slice_inside_that_was_set_aside_is_not_called_missing_alone(node: QuietNode, made: list[Dataset]) -> None:
    two = sharing(made, 3)
    node.send(made)
    node.send(two)
    node.settle()
    found = node.explain(node.number_of(two))
    assert found.reason == "set_aside"
    assert found.sentences[0].startswith("1 of its 8 instances was set aside: its SOP Instance UID is that of an")


def test_all_slices_under_one_uid_are_said_to_be(node: QuietNode, made: list[Dataset]) -> None:
    same = changed(made, SOPInstanceUID=made[0].SOPInstanceUID)
    assert node.send(same) == [0x0000] * 8
    node.settle()
    found = node.explain(node.number_of(same))
    assert found.reason == "set_aside"
    assert found.sentences[0].startswith("7 objects came under SOP Instance UIDs that this series has already, with")
    assert "pixels" in found.sentences[0]
    assert "Image Position (Patient)" in found.sentences[0]
    assert found.notes == ("Without what was set aside, the verdict would be: Only 1 slices; at least 5 are needed.",)


def test_a_series_of_which_everything_was_set_aside_is_a_series_all_the_same(
    node: QuietNode, made: list[Dataset]
) -> None:
    two = sharing(made, *range(8))
    node.send(made)
    assert node.send(two) == [0x0000] * 8
    node.settle()
    second = node.number_of(two)
    (line,) = [line for line in node.reader.series_list() if line.id == second]
    assert (line.state, line.reason, line.instances, line.alert) == ("kept", "set_aside", 0, True)
    assert node.explain(second).sentences[0].startswith("8 of its 8 instances were set aside")
    assert ("series", second) in node.attention()
    node.ledger.operator.release_series(second, "operator")
    node.settler.turn()
    assert node.explain(second).reason == "set_aside"
    assert not node.attention()


@pytest.mark.parametrize("is_judged", [True, False])
@pytest.mark.parametrize(
    ("attributes", "names"),
    [
        ({"PatientName": "Right^Name", "PatientID": "R-2"}, "Patient's Name, Patient ID"),
        ({"StudyInstanceUID": "1.2.3.4"}, "Study Instance UID"),
    ],
)
def test_a_series_that_comes_again_with_its_patient_corrected_is_an_alert_that_names_no_patient(
    node: QuietNode, made: list[Dataset], is_judged: bool, attributes: dict[str, str], names: str
) -> None:
    node.send(made)
    if is_judged:
        node.settle()
    assert node.send(changed(made, **attributes)) == [0x0000] * 8
    node.settle()
    series = node.number_of(made)
    found = node.explain(series)
    words = f"8 objects came again, with another {names}, and were set aside; the first ones stay."
    assert (found.revision, found.state) == (1, "planned" if is_judged else "kept")
    assert (words in found.notes) if is_judged else (found.sentences[0] == words)
    assert node.attention()["series", series] == words
    assert node.reader.series_show(series).alert
    told = repr((found, node.reader.status(), node.reader.quarantine_list(is_all=True)))
    assert not any(value in told for value in (*attributes.values(), "Phantom", "P-1"))


def test_what_has_not_begun_its_way_waits_once_the_patient_was_corrected_and_goes_when_a_person_says_so(
    node: QuietNode, made: list[Dataset]
) -> None:
    node.send(made)
    node.settle()
    node.finish_job()
    begun = node.ledger.deliveries.claim("pacs", "push", lease_s=60)
    assert begun is not None
    assert node.ledger.deliveries.acknowledge(begun, node.ledger.deliveries.pending_items(begun)[0], status=0)
    node.send(changed(made, PatientName="Right^Name"))
    assert node.deliveries() == [("sending", None), ("held", "set_aside")], "before anybody has compared anything"
    node.settle()
    assert node.deliveries() == [("sending", None), ("held", "set_aside")]
    assert node.ledger.deliveries.claim("workstation", "push", lease_s=60) is None
    node.ledger.operator.release_delivery(DeliveryId(2), "operator")
    assert node.ledger.deliveries.claim("workstation", "push", lease_s=60) is not None


def test_what_is_derived_after_the_correction_is_born_held_until_it_was_seen(
    node: QuietNode, made: list[Dataset]
) -> None:
    node.send(made)
    node.settle()
    job = node.claim_job()
    node.send(changed(made, PatientName="Right^Name"))
    node.settler.turn()
    node.ledger.jobs.give_back(job, detail="stopped", counts=False)
    node.finish_job()
    assert node.deliveries() == [("held", "set_aside")] * 2
    assert node.ledger.operator.see_quarantine(None, "operator") == 8
    assert ("series", node.number_of(made)) not in node.attention()
    node.ledger.operator.retry_series(node.number_of(made), "operator")
    node.settler.turn()
    node.finish_job()
    assert [state for state, _ in node.deliveries()][-2:] == ["due", "due"]


def test_a_release_of_the_series_lets_its_held_deliveries_go(node: QuietNode, made: list[Dataset]) -> None:
    node.send(made)
    node.settle()
    node.finish_job()
    node.send(changed(made, PatientName="Right^Name"))
    node.settle()
    node.ledger.operator.release_series(node.number_of(made), "operator")
    assert node.deliveries() == [("due", None)] * 2
    assert {line.state for line in node.reader.quarantine_list(is_all=True)} == {"seen"}
    assert not node.attention()


@pytest.mark.parametrize("encoding", ["implicit", "rle"])
@pytest.mark.parametrize("is_judged", [True, False])
def test_the_same_images_in_another_encoding_change_nothing(
    node: QuietNode, made: list[Dataset], encoding: str, is_judged: bool
) -> None:
    node.send(made)
    if is_judged:
        node.settle()
        node.finish_job()
    again = made if encoding == "implicit" else compressed(made)
    assert node.send(again, syntax=IMPLICIT if encoding == "implicit" else RLE) == [0x0000] * 8
    node.settle()
    assert node.explain(node.number_of(made)).state == "planned"
    assert node.explain(node.number_of(made)).notes == ()
    assert not node.attention()
    assert node.deliveries() == [("due", None)] * 2 * is_judged
    assert node.reader.quarantine_list() == []
    assert {line.state for line in node.reader.quarantine_list(is_all=True)} == {"harmless"}


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"PatientName": "Right^Name"}, "another Patient's Name"),
        ({"ImagePositionPatient": [0, 0, 99]}, "other Image Position (Patient)"),
        ({"PixelData": OTHER_PIXELS}, "other pixels"),
    ],
)
@pytest.mark.parametrize("encoding", ["implicit", "rle"])
def test_a_conflict_does_not_hide_behind_another_encoding(
    node: QuietNode, made: list[Dataset], attributes: dict[str, object], words: str, encoding: str
) -> None:
    node.send(made)
    node.settle()
    again = changed(made[2:3], **attributes)
    again = again if encoding == "implicit" else compressed(again)
    node.send(again, syntax=IMPLICIT if encoding == "implicit" else RLE)
    node.settle()
    assert words in node.attention()["series", node.number_of(made)]


def test_pixels_that_cannot_be_decoded_are_said_to_be_uncompared(node: QuietNode, made: list[Dataset]) -> None:
    node.send(made)
    node.settle()
    again = compressed(made[2:3])
    again[0].PixelData = bytes.fromhex("feff00e000000000feff00e004000000ffffffff")
    node.send(again, syntax=RLE)
    node.settle()
    words = node.attention()["series", node.number_of(made)]
    assert words.endswith("and was set aside; what differs could not be determined: pixels cannot be decoded.")


@pytest.mark.parametrize("harm", ["missing", "altered"])
def test_where_the_first_one_is_lost_nobody_says_what_differs(node: QuietNode, made: list[Dataset], harm: str) -> None:
    node.send(made)
    (known,) = [node.ledger.intake.find_instance(str(made[2].SOPInstanceUID))]
    assert known is not None
    path = node.archive.path(known.file)
    if harm == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    node.send(changed(made[2:3], PixelData=OTHER_PIXELS))
    node.settle()
    found = node.explain(node.number_of(made))
    assert found.reason == "set_aside"
    assert found.sentences[0].endswith(f"what differs could not be determined: the file of the first one is {harm}.")


def test_an_object_that_comes_between_the_look_and_the_verdict_still_holds_what_is_derived(
    tmp_path: Path, made: list[Dataset]
) -> None:
    late: list[list[Dataset]] = [changed(made, PatientName="Right^Name")]

    def model_of(_name: str | None) -> ModelFacts:
        """Asked for in the middle of a verdict."""
        while late:
            own.send(late.pop())
        return model_facts("cubic-dc")

    with quiet_node(tmp_path / "data", model_of=model_of) as own:
        own.send(made)
        own.settle()
        own.finish_job()
        assert own.deliveries() == [("held", "set_aside")] * 2
        assert "another Patient's Name" in own.attention()["series", own.number_of(made)]


def test_the_same_correction_sent_again_and_again_is_kept_once_and_is_no_new_alert(
    node: QuietNode, made: list[Dataset]
) -> None:
    again = changed(made, PatientName="Right^Name")
    node.send(made)
    for _ in range(3):
        assert node.send(again) == [0x0000] * 8
    assert len(list(node.archive.quarantine.folder.iterdir())) == 8
    node.ledger.operator.see_quarantine(None, "operator")
    node.archive.quarantine.path(node.reader.quarantine_list(is_all=True)[0].file).unlink()
    node.send(again)
    assert len(list(node.archive.quarantine.folder.iterdir())) == 8, "what was removed by hand is back"
    assert not node.attention()


def test_several_conflicts_of_one_uid_are_all_named(node: QuietNode, made: list[Dataset]) -> None:
    node.send(made)
    node.send(changed(made[:1], PatientName="Right^Name"))
    node.send(changed(made[:1], PixelData=OTHER_PIXELS))
    node.settle()
    first, second = node.ledger.quarantine.objections(node.number_of(made))
    assert first.startswith("1 object came again, with another Patient's Name, and was set aside")
    assert "with other pixels, and was set aside" in second


def test_a_late_slice_does_not_make_the_node_forget_what_was_set_aside(node: QuietNode, made: list[Dataset]) -> None:
    node.send(made[:7])
    node.send(changed(made[:1], PatientName="Right^Name"))
    node.settle()
    node.send(made[7:])
    node.settle()
    found = node.explain(node.number_of(made))
    assert (found.revision, found.reason) == (2, "set_aside")


def test_once_its_share_of_the_disk_is_taken_nothing_more_is_set_aside_and_the_sender_is_told(
    node: QuietNode, made: list[Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    node.send(made)
    again = changed(made, PatientName="Right^Name")
    node.send(again[:1])
    monkeypatch.setattr(space, "ASIDE_SHARE_PERCENT", 1e-9)
    node.clock.advance(60)
    assert node.send(again[1:2]) == [0xA700]
    assert node.send([made[1], again[0]]) == [0x0000] * 2, "both lie here already"
    other = mr_datasets(slices=5)
    assert node.send(other) == [0x0000] * 5, "other images are taken as ever"
    assert len(list(node.archive.quarantine.folder.iterdir())) == 1
    monkeypatch.undo()
    node.clock.advance(60)
    assert node.send(again[1:2]) == [0x0000]


def test_an_association_that_fills_the_quarantine_is_told_so_at_its_next_object(
    node: QuietNode, made: list[Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(space, "ASIDE_SHARE_PERCENT", 1e-9)
    again = changed(made, PatientName="Right^Name")
    assert node.send([*made, *again]) == [0x0000] * (len(made) + 1) + [0xA700] * (len(again) - 1)
    assert len(list(node.archive.quarantine.folder.iterdir())) == 1


@pytest.mark.parametrize("comes_again", [True, False])
def test_a_file_that_a_crash_left_without_a_row_belongs_to_its_series(
    tmp_path: Path, made: list[Dataset], comes_again: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with quiet_node(tmp_path / "data") as node:
        node.send(made[:7])

        def cut(_instances: object) -> None:
            raise LedgerBusyError("Cut off.")

        monkeypatch.setattr(node.ledger.intake, "accept", cut)
        monkeypatch.setattr(node.archive, "discard", lambda _file: None)  # as if killed before
        assert node.send(made[7:]) == [0xA700]
    monkeypatch.undo()
    with quiet_node(tmp_path / "data") as node:
        boot = node.ledger.boots.begin(pid=1, host="h")
        Sweep(node.archive, node.ledger, boot, damaged=lambda _: None).begin()
        if comes_again:
            node.send(made[7:])
        node.settle()
        found = node.explain(node.number_of(made))
        if comes_again:
            assert (found.state, node.attention()) == ("planned", {})
        else:
            assert found.reason == "set_aside"
            assert found.sentences[0].startswith("1 file of this series had no row in the ledger")
            node.send(made[7:])
            node.settle()
            assert node.explain(node.number_of(made)).state == "planned", "and it is forgotten once the slice is there"


def test_refused_objects_wait_for_a_person_one_line_for_each_reason_and_peer(
    node: QuietNode, made: list[Dataset]
) -> None:
    bad = changed(made, SOPInstanceUID="../../etc/passwd")
    assert node.send(bad) == [0xA900] * 8
    node.send(bad[:1], peer="mr2")
    lines = [line for line in node.reader.status().attention if line.table == "quarantine"]
    assert [(line.reason, line.series, line.id) for line in lines] == [("uid", None, 9), ("uid", None, 8)]
    assert lines[1].sentence.startswith("8 files from mr1 set aside: their UIDs are none")
    node.ledger.operator.see_quarantine([line.id for line in node.reader.quarantine_list()], "operator")
    assert not node.attention()
    node.send(bad[:1])
    assert len(node.attention()) == 1, "a new one is new"
