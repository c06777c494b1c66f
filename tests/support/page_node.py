"""The data folder of a node with a series that was really derived and delivered, and the page over it."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from pydicom.dataset import Dataset

from dicomnode.ids import SeriesId
from dicomnode.settings.load import NO_FILE, Source, parse
from dicomnode.settings.models import Settings
from dicomnode.web.application import Application
from dicomnode.web.current import Current
from dicomnode.work import orders
from dicomnode.work.job import Models, run
from tests.ledger.scene import FakeClock
from tests.support.phantom import Phantom
from tests.support.quiet_node import QuietNode, quiet_node

TOKEN = "correct horse battery staple"  # noqa: S105
HOST = "127.0.0.1:8113"
PHANTOM = Phantom(
    slices=8, rows=36, columns=44, row_spacing_mm=2.6, column_spacing_mm=2.2, spacing_mm=12.0, thickness_mm=12.0
)


@dataclass(kw_only=True)
class PageNode:
    """A quiet node, and where it lies."""

    data: Path
    quiet: QuietNode

    def receive(self, datasets: Sequence[Dataset] | None = None, *, peer: str = "mr1") -> SeriesId:
        """Receive a series, and let it have its verdict."""
        sent = PHANTOM.datasets() if datasets is None else datasets
        assert set(self.quiet.send(sent, peer=peer)) == {0}
        self.quiet.settle()
        return self.quiet.number_of(sent)

    def derive(self) -> SeriesId:
        """Do the job that waits as a worker does it; the series that it made."""
        job = self.quiet.claim_job()
        instances = self.quiet.ledger.settling.instances_of(job.series, job.revision)
        order = orders.Order(
            job=job.id,
            token=job.lease_token,
            archive=str(self.quiet.archive.root),
            files=tuple(orders.SourceFile(instance=one.id, file=one.file, sha256=one.sha256) for one in instances),
            output=str(self.quiet.archive.outputs.begin(job.output_series)),
            node_uuid=str(self.quiet.ledger.node_uuid),
            ae_title="DICOMNODE",
            parameters=job.planned.parameters,
            derivation_number=job.derivation_number,
            created_at=job.created_at.astimezone(UTC).isoformat(),
        )
        finished = run(order, device="cpu", models=Models(), progress=lambda _stage, _share: None)
        self.quiet.archive.outputs.publish(job.output_series)
        assert self.quiet.ledger.jobs.finish(job, finished.series)
        return job.output_series

    def deliver(self, peer: str = "pacs") -> None:
        """Have the peer take the delivery that is due."""
        ledger = self.quiet.ledger
        delivery = ledger.deliveries.claim(peer, "boot1:host:1", lease_s=60)
        assert delivery is not None
        for item in ledger.deliveries.pending_items(delivery):
            assert ledger.deliveries.acknowledge(delivery, item, status=0)
        assert ledger.deliveries.finish(delivery, committer=peer) is not None


@contextmanager
def page_node(folder: Path) -> Iterator[PageNode]:
    """An empty node below a folder."""
    with quiet_node(folder / "data") as quiet:
        yield PageNode(data=folder / "data", quiet=quiet)


def settings_of(data: Path, **web: object) -> Settings:
    """Settings with a scanner, a PACS that can be sent to and one that is silent, and the keys of ``[web]``."""
    return parse(
        {
            "node": {"data": str(data), "ae_title": "DICOMNODE"},
            "web": web,
            "peer": [
                {"name": "mr1", "ae_title": "MR1", "networks": ["10.1.2.0/24"]},
                {"name": "mr2", "ae_title": "MR2", "networks": ["10.1.3.0/24"]},
                {"name": "pacs", "ae_title": "PACS", "address": "127.0.0.1:104"},
                {"name": "workstation", "ae_title": "WS", "address": "127.0.0.1:105"},
            ],
        }
    )


def token_file(folder: Path) -> Path:
    """A file with the token, as an operator makes it."""
    file = folder / "token"
    file.write_text(TOKEN + "\n")
    os.chmod(file, 0o640)  # noqa: PTH101
    return file


@dataclass(frozen=True, slots=True, kw_only=True)
class Got:
    """The answer to a request."""

    status: HTTPStatus
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode()

    @property
    def key(self) -> str:
        """The key of the first form of the page."""
        return self.text.partition('name="key" value="')[2].partition('"')[0]


@dataclass(kw_only=True)
class Browser:
    """Asks the page without a network, with the cookie that it was given."""

    application: Application
    headers: dict[str, str] = field(default_factory=dict)
    cookie: str = ""
    address: str = "127.0.0.1"

    def get(self, place: str, **headers: str) -> Got:
        """Ask for a page."""
        return self._ask("GET", place, b"", headers)

    def post(self, place: str, form: Mapping[str, str], **headers: str) -> Got:
        """Send a form."""
        return self._ask("POST", place, urlencode(form).encode(), headers)

    def enter(self, name: str = "Dr. Ada", token: str = TOKEN) -> Got:
        """Type name and token."""
        return self.post("/enter", {"key": self.get("/enter").key, "name": name, "token": token})

    def _ask(self, method: str, place: str, body: bytes, headers: Mapping[str, str]) -> Got:
        path, _, query = place.partition("?")
        environ: dict[str, object] = {
            "REQUEST_METHOD": method,
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "REMOTE_ADDR": self.address,
            "HTTP_HOST": HOST,
            "HTTP_ACCEPT": "text/html",
            "CONTENT_LENGTH": str(len(body)),
            "CONTENT_TYPE": "application/x-www-form-urlencoded",
            "wsgi.input": io.BytesIO(body),
        }
        if self.cookie:
            environ["HTTP_COOKIE"] = self.cookie
        given = {**self.headers, **headers}
        environ |= {f"HTTP_{name.upper().replace('-', '_')}": value for name, value in given.items()}
        started: list[Any] = []
        said = b"".join(self.application(environ, lambda *words: started.append(words)))
        status, listed = started[0]
        found = dict(listed)
        if "Set-Cookie" in found:
            self.cookie = found["Set-Cookie"].partition(";")[0]
        return Got(status=HTTPStatus(int(status.split()[0])), headers=found, body=said)


@contextmanager
def browser(settings: Settings, clock: FakeClock, source: Source = NO_FILE) -> Iterator[Browser]:
    """A browser on the page of a node. ``source``: the file of the settings, which a rehearsal reads."""
    application = Application(Current(settings, source), clock=clock)
    try:
        yield Browser(application=application)
    finally:
        application.close()
