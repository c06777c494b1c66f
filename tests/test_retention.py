"""What has had its time leaves the ledger, and nothing else does."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dicomnode import seams
from dicomnode.archive.store import Archive
from dicomnode.errors import InputError, SettingsError, StorageError
from dicomnode.ids import SeriesId
from dicomnode.ledger import ageing
from dicomnode.ledger.store import open_ledger
from dicomnode.ledger.values import Condition
from dicomnode.retention import Retention, oldest_kept
from dicomnode.settings.load import parse
from tests.ledger.scene import FakeClock, Scene
from tests.support.mr_series import mr_datasets
from tests.support.stored import store
from tests.support.wait import wait_until

DAYS = 183


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    """A ledger that began 400 days ago, since the database compares with this machine's clock; and small pieces."""
    monkeypatch.setattr(ageing, "PIECE", 2)
    clock = FakeClock(moment=datetime.now(UTC) - timedelta(days=400))
    path = tmp_path / "ledger.sqlite"
    scene = Scene(ledger=open_ledger(f"sqlite:///{path}", clock=clock), clock=clock, path=path)
    yield scene
    scene.close()


def events(scene: Scene) -> list[tuple[str, int, str]]:
    with closing(sqlite3.connect(scene.path)) as connection:
        return connection.execute("SELECT table_name, row_id, kind FROM event ORDER BY id").fetchall()


def retention(scene: Scene, days: int = DAYS, *, keep_days: float = 0) -> Retention:
    archive = Archive(scene.path.parent)
    return Retention(scene.ledger, archive, keep_days=keep_days, keep_events_days=days, clock=scene.clock)


def stored_series(scene: Scene) -> SeriesId:
    """A kept series whose files are there."""
    series = store(scene.ledger, Archive(scene.path.parent), mr_datasets(slices=3))
    assert scene.ledger.settling.settle(series, 1, note="quiet")
    assert scene.ledger.settling.keep(series, 1, reason="too_few", sentence="Only 3 slices.")
    return series


def files(scene: Scene) -> set[str]:
    root = scene.path.parent / "archive"
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def test_old_events_go_and_younger_ones_and_the_rows_themselves_stay(scene: Scene) -> None:
    scene.queued("pacs")
    scene.ledger.note("backed_up", table="node", row=1)
    old = events(scene)
    assert len(old) > 4, "more than two pieces"
    scene.clock.advance(timedelta(days=DAYS + 7).total_seconds())
    scene.ledger.note("seen", table="job", row=1)
    forgotten = retention(scene).forget()
    assert forgotten == len(old) - 1
    assert events(scene) == [("node", 1, "backed_up"), ("job", 1, "seen"), ("node", 1, "forgotten")]
    assert scene.ledger.jobs.claim("1:x:1", lease_s=60) is not None
    assert retention(scene).forget() == 0


def test_a_pass_that_ends_between_two_pieces_is_taken_up_by_the_next(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end(name: str) -> None:
        if name == "retention.piece":
            raise KeyboardInterrupt

    scene.queued("pacs")
    old = events(scene)
    scene.clock.advance(timedelta(days=DAYS + 7).total_seconds())
    with monkeypatch.context() as patched:
        patched.setattr(seams, "_hook", end)
        with pytest.raises(KeyboardInterrupt):
            retention(scene).forget()
    assert events(scene) == old[2:], "a piece is gone, whole"
    retention(scene).forget()
    assert events(scene) == [("node", 1, "forgotten")]


def test_the_refusal_of_an_instance_that_is_still_to_be_sent_stays(scene: Scene) -> None:
    scene.queued("pacs")
    scene.finish_job(images=1)
    delivery = scene.ledger.deliveries.claim("pacs", "1:x:1", lease_s=60)
    assert delivery is not None
    (item,) = scene.ledger.deliveries.pending_items(delivery)
    assert scene.ledger.deliveries.refuse(delivery, item, status=0xA900)
    scene.ledger.deliveries.finish(delivery)
    scene.ledger.operator.retry_delivery(delivery.id, "operator")
    scene.clock.advance(timedelta(days=DAYS + 7).total_seconds())
    retention(scene).forget()
    again = scene.ledger.deliveries.claim("pacs", "1:x:1", lease_s=60)
    assert again is not None
    (item,) = scene.ledger.deliveries.pending_items(again)
    assert item.refusals == {0xA900}


def test_an_alert_goes_only_after_its_all_clear(scene: Scene) -> None:
    def observe(*names: str, ended: tuple[str, ...] = ()) -> None:
        holding = [Condition(name=name, sentence=name, number=1, is_error=True) for name in names]
        scene.ledger.alerts.observe("mail", holding, ended, again_s=3600)
        scene.ledger.alerts.sent(scene.ledger.alerts.to_send("mail"))

    observe("disk", "job")
    observe("job", ended=("disk",))
    scene.clock.advance(timedelta(days=DAYS + 7).total_seconds())
    retention(scene).forget()
    with closing(sqlite3.connect(scene.path)) as connection:
        assert connection.execute("SELECT name FROM alert").fetchall() == [("job",)]


def test_without_the_key_nothing_goes(scene: Scene) -> None:
    scene.queued("pacs")
    before = events(scene)
    scene.clock.advance(timedelta(days=10_000).total_seconds())
    idle = retention(scene, days=0)
    idle.begin()
    idle.stop(1.0)
    assert events(scene) == before


def test_a_pass_of_its_own_thread_ends_by_itself_and_can_be_stopped(scene: Scene) -> None:
    scene.queued("pacs")
    scene.clock.advance(timedelta(days=DAYS + 7).total_seconds())
    working = retention(scene)
    working.begin()
    wait_until(lambda: len(events(scene)) == 1, what="only the word of what was forgotten is left")
    working.stop(5.0)


@pytest.mark.parametrize("days", [1, 182, -1])
def test_a_shorter_time_is_refused(days: int) -> None:
    with pytest.raises(SettingsError, match="keep_events_days"):
        parse({"ledger": {"keep_events_days": days}})


def test_old_images_go_and_younger_ones_stay(scene: Scene) -> None:
    old = stored_series(scene)
    scene.clock.advance(timedelta(days=8).total_seconds())
    young = stored_series(scene)  # its files came just now, by the clock of this machine
    scene.ask("UPDATE series SET last_at = state_at WHERE id = ?", young)
    scene.ask("UPDATE series SET last_at = state_at WHERE id = ?", old)
    kept = scene.ledger.upkeep.files_in(str(young))
    (removed,) = retention(scene, keep_days=7).remove()
    assert (removed.series, removed.instances) == (old, 3)
    assert files(scene) == kept
    assert retention(scene, keep_days=7).remove() == []


def test_the_thread_removes_images_too(scene: Scene) -> None:
    series = stored_series(scene)
    scene.ask("UPDATE series SET last_at = state_at WHERE id = ?", series)
    scene.clock.advance(timedelta(days=8).total_seconds())
    working = retention(scene, days=0, keep_days=7)
    working.begin()
    wait_until(lambda: not files(scene), what="the files are gone")
    working.stop(5.0)
    assert events(scene)[-1] == ("series", series, "removed"), "and no event was forgotten"


def test_a_file_that_cannot_be_removed_is_said_and_its_row_says_that_it_goes(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    series = stored_series(scene)
    scene.ask("UPDATE series SET last_at = state_at WHERE id = ?", series)
    scene.clock.advance(timedelta(days=8).total_seconds())

    def refuse(name: str) -> None:
        if name == "archive.removed":
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(seams, "_hook", refuse)  # which the end of the test puts back
    with pytest.raises(StorageError, match=f"series {series} could not be removed"):
        retention(scene, keep_days=7).remove()
    assert scene.ledger.upkeep.files_in(str(series)) == set()


def test_images_that_are_kept_for_ever_are_not_asked_for(scene: Scene) -> None:
    with pytest.raises(InputError, match=r"keep all images for ever"):
        oldest_kept(0, scene.clock)


@pytest.mark.parametrize("days", [-1, 40000, "nan"])
def test_no_number_of_days_is_refused(days: object) -> None:
    with pytest.raises(SettingsError, match="keep_days"):
        parse({"archive": {"keep_days": days}})
