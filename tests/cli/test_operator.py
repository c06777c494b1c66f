"""``status``, ``series``, ``deliveries`` and ``db`` on a ledger that a node has really written."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dicomnode.archive.store import Archive
from dicomnode.derivation import DerivationParameters, DerivedInstance, DerivedSeries
from dicomnode.ids import SeriesId, new_instance_id
from dicomnode.ledger.store import Ledger, open_ledger
from dicomnode.ledger.values import (
    Examined,
    Finding,
    Job,
    PlannedJob,
    QuarantinedFile,
    QuarantineReason,
    Release,
    StoredInstance,
)
from tests.cli.conftest import Run
from tests.support.mr_series import MR_IMAGE_STORAGE, write_mr_series

EXPLICIT = "1.2.840.10008.1.2.1"
SERIES_UID = "1.2.826.0.1.3680043.10.1"


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """The ledger of the data folder that the commands look at."""
    (tmp_path / "data").mkdir()
    with closing(open_ledger(f"sqlite:///{tmp_path}/data/ledger.sqlite")) as opened:
        yield opened


@pytest.fixture
def series(ledger: Ledger, tmp_path: Path) -> SeriesId:
    """A series of six received files."""
    number = ledger.intake.series_for(SERIES_UID)
    paths = write_mr_series(tmp_path / "data" / "archive" / str(number))
    ledger.intake.accept(
        [
            StoredInstance(
                id=new_instance_id(),
                series=number,
                sop_class_uid=MR_IMAGE_STORAGE,
                sop_instance_uid=f"{SERIES_UID}.{place}",
                transfer_syntax_uid=EXPLICIT,
                size_bytes=path.stat().st_size,
                sha256=f"{place:064x}",
                file=f"{number}/{path.name}",
                peer="mr1",
                received_at=datetime.now(UTC),
            )
            for place, path in enumerate(paths)
        ]
    )
    return number


def _plan(ledger: Ledger, series: SeriesId, release: Release = Release.AUTO) -> Job:
    assert ledger.settling.settle(series, 1, note="")
    planned = PlannedJob(
        parameters=DerivationParameters(rule="all", model="cubic-dc", model_digest="cubic-dc/1", ratio=4),
        deliver_to=("pacs",),
        sentence="6 slices, 4 mm apart → 24 slices of 1 mm by rule all.",
        release=release,
    )  # fmt: skip
    assert ledger.settling.plan(series, 1, planned)
    job = ledger.jobs.claim("test", lease_s=60)
    assert job is not None
    return job


def _finish(ledger: Ledger, job: Job) -> None:
    instances = tuple(
        DerivedInstance(
            id=new_instance_id(), file_name=f"{place}.dcm", sop_instance_uid=f"{SERIES_UID}.9.{place}",
            sop_class_uid=MR_IMAGE_STORAGE, transfer_syntax_uid=EXPLICIT, size_bytes=10, sha256=f"{place:064x}",
        )
        for place in range(2)
    )  # fmt: skip
    derived = DerivedSeries(series_uid=f"{SERIES_UID}.9", instances=instances, notes=("A note.",), seconds=1.5)
    assert ledger.jobs.finish(job, derived)


def test_without_a_ledger_a_question_is_code_3_and_makes_none(run: Run, tmp_path: Path) -> None:
    ran = run("status")
    assert ran.code == 3
    assert "There is no ledger" in ran.err
    assert run("series", "retry", "1").code == 3
    assert not (tmp_path / "data").exists(), "a question writes nothing"


def test_status_counts_what_stands_where(run: Run, series: SeriesId) -> None:
    found = json.loads(run("status", "--json").out)
    assert found["series"]["receiving"] == 1
    assert found["instances"] == 6
    assert found["attention"] == []
    assert series


def test_a_list_is_an_array_with_the_promised_fields(run: Run, ledger: Ledger, series: SeriesId) -> None:
    (row,) = json.loads(run("series", "list", "--json").out)
    assert row.items() >= {"id": series, "state": "receiving", "revision": 1, "reason": None, "instances": 6}.items()
    _finish(ledger, _plan(ledger, series))
    assert len(json.loads(run("series", "list", "--json").out)) == 1
    derived, received = json.loads(run("series", "list", "--derived", "--json").out)
    assert (received["state"], derived["state"], derived["reason"]) == ("planned", "kept", "own_output")
    (delivery,) = json.loads(run("deliveries", "list", "--json").out)
    assert {"id", "state", "peer", "items", "acknowledged", "next_at", "reason"} <= delivery.keys()
    assert (delivery["state"], delivery["peer"], delivery["items"]) == ("due", "pacs", 2)


def test_a_kept_series_explains_itself_in_one_sentence(run: Run, ledger: Ledger, series: SeriesId) -> None:
    ledger.settling.settle(series, 1, note="")
    ledger.settling.keep(series, 1, reason="too_few", sentence="Only 4 slices; at least 5 are needed.")
    ran = run("series", "explain", series)
    assert ran.code == 0
    assert "Only 4 slices; at least 5 are needed." in ran.out
    assert json.loads(run("series", "explain", series, "--json").out)["reason"] == "too_few"


@pytest.mark.parametrize("command", ["show", "explain"])
def test_uids_and_the_patient_are_shown_only_to_who_asks(run: Run, series: SeriesId, command: str) -> None:
    for words in ([], ["--json"]):
        quiet = run("series", command, series, *words).out
        assert SERIES_UID not in quiet
        assert "Phantom" not in quiet
        asked = run("series", command, series, "--identify", *words).out
        assert "Phantom^Made" in asked
        assert "T2 TSE TRA" in asked
    assert SERIES_UID in json.loads(run("series", command, series, "--identify", "--json").out)["series_uid"]


def test_retry_lets_a_kept_series_be_judged_again(run: Run, ledger: Ledger, series: SeriesId) -> None:
    ledger.settling.settle(series, 1, note="")
    ledger.settling.keep(series, 1, reason="no_rule", sentence="No rule of the settings applies to this series.")
    assert json.loads(run("series", "retry", series, "--json").out)["id"] == series
    assert [row.id for row in ledger.settling.settled()] == [series]


def test_release_lets_a_held_job_go_on(run: Run, ledger: Ledger, series: SeriesId) -> None:
    ledger.jobs.hold(_plan(ledger, series), reason="input", sentence="Slice 3 cannot be used.")
    attention = json.loads(run("status", "--json").out)["attention"]
    assert [(row["table"], row["sentence"]) for row in attention] == [("job", "Slice 3 cannot be used.")]
    assert run("series", "release", series).code == 0
    assert ledger.jobs.claim("test", lease_s=60)


def test_a_held_delivery_goes_when_it_is_released_or_tried_again(run: Run, ledger: Ledger, series: SeriesId) -> None:
    _finish(ledger, _plan(ledger, series))
    for verb in ("release", "retry"):
        delivery = ledger.deliveries.claim("pacs", "test", lease_s=60)
        assert delivery is not None
        ledger.deliveries.hold(delivery, reason="rejected", sentence="The peer rejected the association.")
        assert run("deliveries", verb, delivery.id).code == 0
    (row,) = json.loads(run("deliveries", "list", "--json").out)
    assert row["state"] == "due"


def test_a_person_rejects_a_result_with_a_word_that_the_events_keep(run: Run, ledger: Ledger, series: SeriesId) -> None:
    _finish(ledger, _plan(ledger, series, Release.REVIEW))
    (row,) = json.loads(run("deliveries", "list", "--reason", "review", "--json").out)
    assert run("deliveries", "cancel", row["id"]).code == 2
    words = ("--note", "a blurred\x1b[31m knee", "--by", "A. Reader")
    assert run("deliveries", "cancel", row["id"], *words).code == 0
    (event,) = [
        one for one in json.loads(run("series", "explain", series, "--json").out)["events"] if "A." in one["by"]
    ]
    assert event["by"].startswith("operator:")
    assert event["by"].endswith(" (A. Reader)")
    assert event["to_state"] == "cancelled"
    assert "\x1b" not in run("series", "explain", series).out
    assert run("deliveries", "cancel", row["id"], "--note", "x" * 501).code == 2


def test_a_note_may_come_by_the_standard_input(
    run: Run, ledger: Ledger, series: SeriesId, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Words of a command stand in the list of processes, for every user of the machine."""
    _finish(ledger, _plan(ledger, series))
    (row,) = json.loads(run("deliveries", "list", "--json").out)
    monkeypatch.setattr("sys.stdin", io.StringIO("records merged\n"))
    assert run("deliveries", "cancel", row["id"], "--note", "-").code == 0
    assert "records merged" in run("series", "explain", series).out


@pytest.mark.parametrize(
    "words", [["series", "release"], ["series", "retry"], ["deliveries", "release"], ["deliveries", "retry"]]
)
def test_a_verb_that_does_not_apply_is_a_sentence(run: Run, series: SeriesId, words: list[str]) -> None:
    for number in (series, 4711):
        ran = run(*words, number)
        assert ran.code in (2, 3)
        assert ran.err.startswith("dicomnode: ")
        assert "unexpected" not in ran.err


def test_who_did_it_is_in_the_events(run: Run, ledger: Ledger, series: SeriesId) -> None:
    ledger.settling.settle(series, 1, note="")
    ledger.settling.keep(series, 1, reason="no_rule", sentence="No rule of the settings applies to this series.")
    run("series", "retry", series)
    events = json.loads(run("series", "explain", series, "--json").out)["events"]
    assert next(event["by"] for event in events if event["kind"] == "retry").startswith("operator:")


def test_upgrade_makes_a_ledger_where_there_is_none(run: Run) -> None:
    assert json.loads(run("db", "current", "--json").out)["current"] is None
    assert run("db", "upgrade").code == 0
    found = json.loads(run("db", "current", "--json").out)
    assert found["current"] == found["needed"]
    assert json.loads(run("series", "list", "--json").out) == []


def test_upgrade_leaves_the_ledger_of_a_running_service_alone(run: Run, tmp_path: Path) -> None:
    service = Archive(tmp_path / "data")
    service.data_folder.lock()
    try:
        ran = run("db", "upgrade")
    finally:
        service.data_folder.unlock()
    assert ran.code == 3
    assert "Another dicomnode service uses the data folder" in ran.err
    assert json.loads(run("db", "current", "--json").out)["current"] is None


def test_an_older_ledger_says_what_to_do(run: Run, ledger: Ledger, tmp_path: Path) -> None:
    import sqlite3

    ledger.close()
    with closing(sqlite3.connect(tmp_path / "data" / "ledger.sqlite")) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '0000'")
    ran = run("status")
    assert ran.code == 3
    assert "run `dicomnode db upgrade`" in ran.err


def _set_aside(ledger: Ledger, *, reason: QuarantineReason = QuarantineReason.UID) -> int:
    file = QuarantinedFile(
        file=f"{new_instance_id():016x}.dcm", reason=reason, sha256="a" * 64, peer="mr1", instance=None,
        kept_sha256=None,
    )  # fmt: skip
    return ledger.quarantine.record(file)


def test_what_was_set_aside_is_listed_the_newest_first_until_a_person_has_seen_it(run: Run, ledger: Ledger) -> None:
    for _ in range(2):
        _set_aside(ledger)
    _set_aside(ledger, reason=QuarantineReason.HEADER)
    rows = json.loads(run("quarantine", "list", "--json").out)
    assert [(row["id"], row["state"], row["reason"]) for row in rows] == [
        (3, "unseen", "header"), (2, "unseen", "uid"), (1, "unseen", "uid"),
    ]  # fmt: skip
    newest = json.loads(run("quarantine", "list", "--reason", "uid", "--limit", 1, "--json").out)
    assert [row["id"] for row in newest] == [2]
    assert json.loads(run("quarantine", "seen", 1, 3, "--json").out)["seen"] == 2
    assert [row["id"] for row in json.loads(run("quarantine", "list", "--json").out)] == [2]
    assert [row["id"] for row in json.loads(run("quarantine", "list", "--all", "--json").out)] == [3, 2, 1]
    (line,) = json.loads(run("status", "--json").out)["attention"]
    assert (line["table"], line["id"], line["series"], line["reason"]) == ("quarantine", 2, None, "uid")
    assert run("quarantine", "seen", "--all").out == "1 file is marked as seen.\n"
    assert run("quarantine", "list").out == "Nothing is set aside.\n"
    assert json.loads(run("status", "--json").out)["attention"] == []


@pytest.mark.parametrize("words", [[], ["1", "--all"], ["1", "4711"]])
def test_seen_without_numbers_with_both_and_with_a_wrong_number_marks_none(
    run: Run, ledger: Ledger, words: list[str]
) -> None:
    _set_aside(ledger)
    ran = run("quarantine", "seen", *words)
    assert ran.code == 2
    assert ran.err.startswith("dicomnode: ")
    assert len(json.loads(run("quarantine", "list", "--json").out)) == 1


def test_release_says_what_it_did_to_a_series_of_which_something_was_set_aside(
    run: Run, ledger: Ledger, series: SeriesId
) -> None:
    file = QuarantinedFile(
        file="1.dcm", reason=QuarantineReason.CONFLICT, sha256="a" * 64, peer="mr1", instance=None, kept_sha256=None,
        series=series,
    )  # fmt: skip
    row = ledger.quarantine.record(file)
    ledger.quarantine.examined(series, [Examined(id=row, finding=Finding.OTHER_CONTENT, details=("pixels",))])
    ledger.settling.settle(series, 1, note="")
    ledger.settling.keep(series, 1, reason="set_aside", sentence="It was set aside.")
    assert json.loads(run("series", "list", "--json").out)[0]["alert"]
    assert run("series", "release", series).out == f"Series {series} goes on as it is.\n"
    assert [one.id for one in ledger.settling.settled()] == [series]
    assert run("series", "release", series).code == 2, "there is nothing left that holds it"
