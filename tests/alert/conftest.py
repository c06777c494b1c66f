"""A ledger, a mail server, a webhook, and a watch between them whose clock a test turns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest

from dicomnode.alert.conditions import conditions, facts
from dicomnode.alert.destination import Destination
from dicomnode.alert.message import letter
from dicomnode.alert.watch import Patience, Watch, destinations
from dicomnode.ids import SeriesId
from dicomnode.ledger.queries import Reader, open_reader
from dicomnode.ledger.store import open_ledger
from dicomnode.settings.load import parse
from dicomnode.settings.models import Settings
from tests.ledger.scene import FakeClock, Scene
from tests.support.certificates import Authority
from tests.support.mail_server import HookServer, MailServer, hook_server, mail_server

TO = ("it@hospital.example", "pacs@hospital.example")


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def mail(authority: Authority) -> Iterator[MailServer]:
    with mail_server(authority) as server:
        yield server


@pytest.fixture
def hook(authority: Authority) -> Iterator[HookServer]:
    with hook_server(authority) as server:
        yield server


@dataclass
class Watched:
    """A node of which only ledger and alerts are there. ``restart`` is what a kill leaves of them."""

    folder: Path
    settings: Settings
    scene: Scene
    reader: Reader
    watch: Watch = field(init=False)

    def __post_init__(self) -> None:
        self._watch()

    def _watch(self, ways: Sequence[Destination] | None = None) -> None:
        self.watch = Watch(
            self.scene.ledger.alerts,
            destinations(self.settings.alert) if ways is None else ways,
            node="DICOMNODE on here",
            conditions=lambda now: conditions(self.settings, self.reader, now),
            letter=lambda now: letter(
                "DICOMNODE on here",
                self.reader.week(now - timedelta(days=7)),
                self.reader.waiting(),
                facts(self.settings, self.reader, now),
                next_at=now + timedelta(days=7),
            ),
            patience=Patience(),
            clock=self.scene.clock,
        )

    def restart(self) -> None:
        self.scene.ledger.close()
        self.scene.ledger = open_ledger(f"sqlite:///{self.scene.path}", clock=self.scene.clock)
        self._watch()

    def use(self, settings: Settings) -> None:
        self.settings = settings
        self._watch()

    def pass_by(self, seconds: float) -> None:
        """With a look at the end."""
        self.scene.clock.advance(seconds)
        self.watch.look()

    def hold(self, *, reason: str = "input", sentence: str = "It cannot be read.") -> SeriesId:
        """A series whose job is held."""
        series = self.scene.queued("pacs")
        assert self.scene.ledger.jobs.hold(self.scene.claim_job(), reason=reason, sentence=sentence)
        return series

    def fail(self, number: int) -> None:
        """So many jobs that failed, made from one in the tables themselves: 500 by our own code take half a minute."""
        first = self.scene.queued("pacs")
        for table, changed in (("series", {"id": "{n}", "series_uid": "'1.2.' || {n}"}), ("job", {"series_id": "{n}"})):
            columns = [str(row[1]) for row in self.scene.ask(f"PRAGMA table_info({table})")]
            born = {"state": "'receiving'", "reason": "NULL"} if table == "series" else {"id": "NULL"}
            values = ", ".join((born | changed).get(column, f"{table}.{column}") for column in columns)
            where = "series.id" if table == "series" else "job.series_id"
            self.scene.ask(
                "WITH RECURSIVE m(n) AS (SELECT ?1 + 1 WHERE ?2 > 0 UNION ALL SELECT n + 1 FROM m WHERE n < ?1 + ?2)"  # noqa: S608 (names of this table alone)
                f" INSERT INTO {table} SELECT {values.replace('{n}', 'm.n')} FROM {table}, m"
                f" WHERE {where} = ?1",
                int(first),
                number - 1,
            )
        moved = "UPDATE job SET state = '{}', state_cause = 'test', attempts = 3, lease_owner = {}, lease_until = {}"
        self.scene.ask(moved.format("running", "'x'", "'2026-01-01'") + " WHERE state = 'queued'")
        self.scene.ask(moved.format("failed", "NULL", "NULL") + " WHERE state = 'running'")


def settings_for(
    folder: Path, authority: Authority, *, mail: MailServer | None, hook: HookServer | None = None, **more: object
) -> Settings:
    """The settings of a node that sends alerts to these servers."""
    alert: dict[str, object] = {"ca": str(authority.certificate)}
    if mail is not None:
        alert |= {"smtp": f"127.0.0.1:{mail.port}", "mail_from": "node@hospital.example", "mail_to": list(TO)}
    if hook is not None:
        alert |= {"webhook": f"https://127.0.0.1:{hook.port}/services/T0K3N?room=mr"}
    tables: dict[str, object] = {
        "node": {"data": str(folder)},
        "archive": {"refuse_free_percent": 0.0, "warn_free_percent": 0.0},
        "peer": [{"name": "pacs", "ae_title": "PACS", "address": "127.0.0.1:11"}],
        **more,
    }
    extra = tables.pop("alert", {})
    assert isinstance(extra, dict)
    return parse({**tables, "alert": {**alert, **extra}})


@pytest.fixture
def watched(tmp_path: Path, authority: Authority, mail: MailServer) -> Iterator[Watched]:
    clock, path = FakeClock(), tmp_path / "ledger.sqlite"
    scene = Scene(ledger=open_ledger(f"sqlite:///{path}", clock=clock), clock=clock, path=path)
    settings = settings_for(tmp_path, authority, mail=mail)
    reader = open_reader(f"sqlite:///{path}", peers=settings.reachable_peers)
    yield Watched(folder=tmp_path, settings=settings, scene=scene, reader=reader)
    reader.close()
    scene.close()
