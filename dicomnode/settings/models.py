"""Every key of the settings, with its default and its limits, as one frozen ``Settings``.

Large tables have files of their own beside this one; this file has the small tables, and the values that depend on
several tables.

A room of the node gets its own table only (``ReceiveSettings``). A key that is not in these models is an error. The
models are the list of keys: ``etc/dicomnode.toml`` and ``docs/settings.md`` follow them, and a test compares the three.
``load`` reads the file.
"""

from __future__ import annotations

import re
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from dicomnode.ids import AeTitle
from dicomnode.settings.addresses import Listening, MaybeHostPort
from dicomnode.settings.alert import AlertSettings
from dicomnode.settings.cluster import ClusterSettings, SchedulerSettings, WorkerSettings, WorkSettings
from dicomnode.settings.peers import ANY_TITLE, PeerSettings
from dicomnode.settings.rules import RuleSettings
from dicomnode.settings.values import Count, Folder, MaybeTitle, PemFile, Seconds, Title
from dicomnode.settings.web import WebSettings
from dicomnode.strict_toml import StrictModel, fail

LEAST_EVENT_DAYS = 183  # half a year; the ledger itself refuses to remove younger events


class NodeSettings(Listening):
    """The AE titles of the node, the address where it listens, and its data folder."""

    ae_title: Title = AeTitle("DICOMNODE")
    ae_titles: tuple[Title, ...] = ()  # further AE titles that senders may call
    listen: MaybeHostPort = "127.0.0.1:11112"  # port 0: any free one; empty: only with TLS (tls.listen)
    data: Folder = Path("dicomnode-data")
    pull_ae_title: MaybeTitle = AeTitle("")  # pulled instances are sent to this title; empty: nothing is pulled

    @model_validator(mode="after")
    def _has_two_titles(self) -> Self:
        if self.pull_ae_title in self.titles:
            fail("pull_ae_title has to differ from ae_title and ae_titles: what is asked for comes there alone")
        return self

    @property
    def titles(self) -> tuple[AeTitle, ...]:
        """Every AE title that senders may call."""
        return (self.ae_title, *self.ae_titles)


class LogSettings(StrictModel):
    """The level and the form of the log."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "text", "json"] = "auto"


class LedgerSettings(StrictModel):
    """The database of the ledger, and how long events are kept."""

    url: str = ""  # empty: SQLite in the data folder
    keep_events_days: Annotated[int, Field(ge=0, le=36_500)] = 0  # 0: for ever

    @field_validator("keep_events_days")
    @classmethod
    def _is_long_enough(cls, days: int) -> int:
        if 0 < days < LEAST_EVENT_DAYS:
            fail(f"expected 0 (for ever) or at least {LEAST_EVENT_DAYS} days")
        return days

    @field_validator("url")
    @classmethod
    def _is_sqlite(cls, url: str) -> str:
        if url.startswith("postgres"):
            fail("a PostgreSQL ledger is not supported yet: leave the key out, the ledger is then in node.data")
        if url and not re.fullmatch(r"sqlite:////[^?]+", url):
            fail('expected "" (the ledger is in node.data) or sqlite:////absolute/path')
        return url


class ReceiveSettings(StrictModel):
    """Limits of the receiving service."""

    max_pdu_bytes: Annotated[int, Field(ge=4096, le=1 << 20)] = 131_072
    max_instance_mb: Annotated[int, Field(ge=1, le=16_384)] = 512
    max_associations: Count = 64
    max_per_address: Count = 32
    associate_timeout_s: Seconds = 10.0
    pdu_timeout_s: Seconds = 20.0
    idle_timeout_s: Seconds = 60.0
    drain_s: Seconds = 30.0

    @model_validator(mode="after")
    def _one_address_leaves_room(self) -> Self:
        if self.max_per_address > self.max_associations:
            fail("max_per_address is above max_associations")
        return self


class TlsSettings(Listening):
    """TLS, for the peers that connect to us and those we connect to."""

    listen: MaybeHostPort = ""  # empty: no peer can connect with TLS
    certificate: PemFile = ""
    key: PemFile = ""
    ca: PemFile = ""
    handshake_timeout_s: Seconds = 5.0

    @model_validator(mode="after")
    def _has_its_files(self) -> Self:
        if self.listen and not (self.certificate and self.key and self.ca):
            fail("listen needs certificate, key and ca")
        if bool(self.certificate) != bool(self.key):
            fail("certificate and key belong together: both are needed, or none")
        if self.certificate and not self.ca:
            fail("certificate needs ca: without it no peer could be verified")
        return self


class SettleSettings(StrictModel):
    """The waits after which the instances of a series are taken as complete."""

    quiet_s: Seconds = 30.0
    aborted_wait_s: Seconds = 300.0
    max_wait_s: Seconds = 1800.0
    late: Literal["hold", "new_revision"] = "hold"  # for instances that came after a delivery of the series had begun
    parts_wait_s: Seconds = 300.0  # wait for the absent parts of a concatenation
    study_quiet_s: Seconds = 600.0  # quiet time of a study, before a rule chooses one of its series

    @model_validator(mode="after")
    def _longest_is_longest(self) -> Self:
        if self.max_wait_s < max(self.quiet_s, self.aborted_wait_s):
            fail("max_wait_s is below quiet_s or aborted_wait_s, which it ends")
        return self


class PushSettings(StrictModel):
    """Patience with the peers that we send to."""

    connect_timeout_s: Seconds = 10.0
    response_timeout_s: Seconds = 120.0
    backoff_min_s: Seconds = 5.0
    backoff_max_s: Seconds = 900.0
    commit_wait_s: Seconds = 3600.0  # wait for a report, before a C-FIND asks which instances the peer has

    @model_validator(mode="after")
    def _longest_is_longest(self) -> Self:
        if self.backoff_max_s < self.backoff_min_s:
            fail("backoff_max_s is below backoff_min_s")
        return self


class ArchiveSettings(StrictModel):
    """The limits at which the disk counts as full, and the days for which images are kept."""

    refuse_free_percent: Annotated[float, Field(ge=0, le=50, allow_inf_nan=False)] = 3.0
    warn_free_percent: Annotated[float, Field(ge=0, le=50, allow_inf_nan=False)] = 10.0
    keep_days: Annotated[float, Field(ge=0, le=36525, allow_inf_nan=False)] = 0.0  # 0: for ever

    @property
    def work_free_percent(self) -> float:
        """The free space below which no job begins: half of the mark of reception, as results need room, too."""
        return self.refuse_free_percent / 2


class MetricsSettings(Listening):
    """The address at which monitoring programs ask for the state of the node."""

    listen: MaybeHostPort = ""  # empty: nowhere


# The embedded defaults: accept any sender on this machine itself, and derive every series with the default model.
_LOOPBACK_PEER = PeerSettings(name="this-machine", ae_title=AeTitle(ANY_TITLE), networks=(ip_network("127.0.0.1"),))
_EVERY_SERIES = RuleSettings(name="every series")


class Settings(StrictModel):
    """Every key; lists of tables (``peer``, ``rule``) come from the file only."""

    node: NodeSettings = NodeSettings()
    log: LogSettings = LogSettings()
    ledger: LedgerSettings = LedgerSettings()
    receive: ReceiveSettings = ReceiveSettings()
    tls: TlsSettings = TlsSettings()
    settle: SettleSettings = SettleSettings()
    work: WorkSettings = WorkSettings()
    cluster: ClusterSettings = ClusterSettings()
    worker: WorkerSettings = WorkerSettings()
    scheduler: SchedulerSettings = SchedulerSettings()
    push: PushSettings = PushSettings()
    archive: ArchiveSettings = ArchiveSettings()
    alert: AlertSettings = AlertSettings()
    metrics: MetricsSettings = MetricsSettings()
    web: WebSettings = WebSettings()
    peer: tuple[PeerSettings, ...] = (_LOOPBACK_PEER,)
    rule: tuple[RuleSettings, ...] = (_EVERY_SERIES,)

    @model_validator(mode="after")
    def _cluster_has_certificates(self) -> Self:
        if self.work.executor == "dask" and self.cluster.missing:
            fail(f'work.executor is "dask", which needs cluster.{" and cluster.".join(self.cluster.missing)}')
        return self

    @model_validator(mode="after")
    def _committers_can_be_asked(self) -> Self:
        for peer in self.peer:
            if peer.committer not in (None, peer.name, *self.reachable_peers):
                fail(
                    f'the commitment of peer {peer.name} is neither "auto" nor "off" nor a peer with an address or url'
                )
        return self

    @property
    def committers(self) -> frozenset[str]:
        """The names of the peers that may report that they keep what was sent; no peer reports by DICOMweb."""
        asked = {peer.committer for peer in self.peer}
        return frozenset(peer.name for peer in self.peer if peer.address and peer.name in asked)

    def is_delivered_to(self, peer: str) -> bool:
        """Tell whether a rule delivers derived series to the peer of this name, or forwards received ones to it."""
        return any(peer in (*rule.deliver_to, *rule.forward_originals) for rule in self.rule)

    @property
    def enhanced_kept(self) -> frozenset[str]:
        """The names of the peers whose Enhanced MR objects are never processed."""
        return frozenset(peer.name for peer in self.peer if peer.enhanced != "process")

    @property
    def names_peers(self) -> bool:
        """True if the file names any peer. If not, every program on this machine may send."""
        return self.peer != (_LOOPBACK_PEER,)

    @property
    def reachable_peers(self) -> tuple[str, ...]:
        """The names of the peers that can be sent to."""
        return tuple(peer.name for peer in self.peer if peer.is_sent_to)

    @property
    def uses_tls(self) -> bool:
        """True if a connection needs the files of ``tls``."""
        return bool(self.tls.ca)

    @property
    def ledger_url(self) -> str:
        """SQLAlchemy's URL of the ledger."""
        return self.ledger.url or f"sqlite:///{self.node.data.absolute() / 'ledger.sqlite'}"
