"""Every key of the settings, with its default and its limits, as one frozen ``Settings``.

A room of the node gets its own table only (``ReceiveSettings``). A key that is not in these models is an error. The
models are the list of keys: ``etc/dicomnode.toml`` and ``docs/settings.md`` follow them, and a test compares the three.
Nothing is read here: ``load`` does that.
"""

from __future__ import annotations

import re
from datetime import time
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Annotated, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, Field, PlainValidator, field_validator, model_validator

from dicomnode.ids import AeTitle
from dicomnode.settings import urls
from dicomnode.settings.addresses import HostPort, Listening, MaybeHostPort, split_address
from dicomnode.settings.match import Match, parse_match, window
from dicomnode.settings.web import WebSettings
from dicomnode.strict_toml import StrictModel, fail

TLS = "tls://"  # how the address of a cluster begins: there is no other way to reach one
WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
LEAST_EVENT_DAYS = 183  # half a year; the ledger itself refuses to remove younger events
ANY_TITLE = "*"  # any AE title; only for a peer of this machine itself

Network = IPv4Network | IPv6Network

_A_DAY_S = 86_400.0
_TITLE = re.compile(r"[\x20-\x5b\x5d-\x7e]{1,16}")  # PS3.5 section 6.2, VR AE: ASCII without backslash and controls
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")
_MAIL_ADDRESS = re.compile(r"[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9.-]{1,253}")
_LETTER = re.compile(rf"({'|'.join(WEEKDAYS)}) ([01]\d|2[0-3]):([0-5]\d)(?: ([A-Za-z0-9_+/-]{{1,64}}))?")
_NAME = re.compile(r"[^\x00-\x1f\x7f*]{1,253}")  # a common name may hold blanks


def _title(text: str) -> AeTitle:
    if not _TITLE.fullmatch(text) or not text.strip():
        fail("expected 1 to 16 ASCII characters, no backslash (PS3.5 section 6.2)")
    return AeTitle(text.strip())  # leading and trailing spaces are not significant


def _word(text: str) -> str:
    if not _WORD.fullmatch(text):
        fail("expected a name of letters, digits, '.', '_' and '-', at most 64")
    return text


def _device(text: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d{1,2})?", text):
        fail("expected auto, cpu, cuda or cuda:N")
    return text


def _cluster_address(text: str) -> str:
    if not text.startswith(TLS) or not split_address(text.removeprefix(TLS))[1]:
        fail('expected tls://address:port, such as "tls://10.1.0.9:8786"')
    return text


def _cluster_address_or_none(text: str) -> str:
    return text and _cluster_address(text)


def _folder(path: Path) -> Path:
    return path.expanduser()


def _file(text: str) -> str:
    return text and str(Path(text).expanduser())


def _fingerprint(text: str) -> str:
    digits = text.replace(":", "").lower()
    if not _FINGERPRINT.fullmatch(digits):
        fail("expected the SHA-256 fingerprint of a certificate, 64 hexadecimal digits, with or without colons")
    return digits


def _certificate_name(text: str) -> str:
    if not _NAME.fullmatch(text):
        fail("expected a DNS name or an IP address as the certificate has it, without a wildcard")
    return text


def _mail_address(text: str) -> str:
    if not _MAIL_ADDRESS.fullmatch(text):
        fail('expected a mail address without a name, such as "it@hospital.example"')
    return text


def _mail_address_or_none(text: str) -> str:
    return text and _mail_address(text)


def _letter(text: str) -> str:
    if text:
        split_letter(text)
    return text


def _hours(text: str) -> str:
    if text and window(text) is None:
        fail('expected two times of day, such as "07:00-19:00"')
    return text


def _network(value: object) -> Network:
    if isinstance(value, IPv4Network | IPv6Network):
        return value
    if not isinstance(value, str):
        fail('expected a network in text, such as "10.1.2.0/24"')
    try:
        return ip_network(value)
    except ValueError:
        fail('expected a network such as "10.1.2.0/24" (no bits set behind the prefix) or one address')


Title = Annotated[AeTitle, AfterValidator(_title)]
MaybeTitle = Annotated[AeTitle, AfterValidator(lambda text: text and _title(text))]
Hours = Annotated[str, AfterValidator(_hours)]  # empty: never
Word = Annotated[str, AfterValidator(_word)]
MaybeClusterAddress = Annotated[str, AfterValidator(_cluster_address_or_none)]
Device = Annotated[str, AfterValidator(_device)]
Folder = Annotated[Path, AfterValidator(_folder)]
PemFile = Annotated[str, AfterValidator(_file)]  # empty: none
SecretFile = Annotated[str, AfterValidator(_file)]  # empty: none
MailAddress = Annotated[str, AfterValidator(_mail_address)]
MaybeMailAddress = Annotated[str, AfterValidator(_mail_address_or_none)]
Webhook = Annotated[str, AfterValidator(urls.webhook)]
DicomwebUrl = Annotated[str, AfterValidator(urls.dicomweb)]
Letter = Annotated[str, AfterValidator(_letter)]
Fingerprint = Annotated[str, AfterValidator(_fingerprint)]
CertificateName = Annotated[str, AfterValidator(_certificate_name)]
NetworkText = Annotated[Network, PlainValidator(_network)]
Seconds = Annotated[float, Field(gt=0, le=_A_DAY_S, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=1024)]
ModelSpeed = Literal["auto", "quality", "fast"]


def split_letter(text: str) -> tuple[int, time, ZoneInfo | None]:
    """Day of the week (Monday is 0), time of day and time zone apart; None: the zone of this machine.

    >>> split_letter("mon 07:00")
    (0, datetime.time(7, 0), None)
    """
    match = _LETTER.fullmatch(text)
    if match is None:
        fail('expected day and time, such as "mon 07:00", and a time zone behind them where it is not the machine\'s')
    day, hour, minute, name = match.groups()
    try:
        zone = ZoneInfo(name) if name else None
    except (KeyError, ValueError, OSError):  # unknown; no name of a zone; a folder
        zone = None
    if name and zone is None:
        fail('there is no such time zone; expected a name such as "Europe/Berlin"')
    return WEEKDAYS.index(day), time(int(hour), int(minute)), zone


class NodeSettings(Listening):
    """Who the node is, where it listens, where it keeps everything."""

    ae_title: Title = AeTitle("DICOMNODE")
    ae_titles: tuple[Title, ...] = ()  # further ones that senders may call
    listen: MaybeHostPort = "127.0.0.1:11112"  # port 0: any free one; empty: only with TLS (tls.listen)
    data: Folder = Path("dicomnode-data")
    pull_ae_title: MaybeTitle = AeTitle("")  # what we asked for is brought to this one; empty: nothing is pulled

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
    """How much is logged, and in which form."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "text", "json"] = "auto"


class LedgerSettings(StrictModel):
    """Which database holds the ledger."""

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


class TlsSettings(StrictModel):
    """TLS, for those who connect to us and those we connect to."""

    listen: MaybeHostPort = ""  # empty: nobody can connect with TLS
    certificate: PemFile = ""
    key: PemFile = ""
    ca: PemFile = ""
    handshake_timeout_s: Seconds = 5.0

    @property
    def host(self) -> str:
        """The address of ``listen``; only where it is set."""
        return split_address(self.listen)[0]

    @property
    def port(self) -> int:
        """The port of ``listen``; only where it is set."""
        return split_address(self.listen)[1]

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
    """When the set of instances of a series is taken as whole."""

    quiet_s: Seconds = 30.0
    aborted_wait_s: Seconds = 300.0
    max_wait_s: Seconds = 1800.0
    late: Literal["hold", "new_revision"] = "hold"  # with what came after a delivery of the series had begun
    study_quiet_s: Seconds = 600.0  # of a study, before a rule chooses one of its series

    @model_validator(mode="after")
    def _longest_is_longest(self) -> Self:
        if self.max_wait_s < max(self.quiet_s, self.aborted_wait_s):
            fail("max_wait_s is below quiet_s or aborted_wait_s, which it ends")
        return self


class WorkSettings(StrictModel):
    """Where jobs run and how far they may go."""

    executor: Literal["local", "dask"] = "local"
    cluster: MaybeClusterAddress = ""  # of the scheduler
    slots: Count = 1
    device: Device = "auto"
    model_speed: ModelSpeed = "auto"  # of the model of rules that name none
    time_limit_s: Seconds = 3600.0
    memory_limit_mb: Annotated[int, Field(ge=0, le=1 << 24)] = 0  # 0: three quarters of the machine

    @model_validator(mode="after")
    def _slots_are_of_a_cluster(self) -> Self:
        if self.executor == "dask" and not self.cluster:
            fail('executor is "dask", which needs the address of a cluster in the key cluster')
        if self.executor == "local" and self.slots > 1:
            fail('slots above 1 need executor = "dask": this machine runs one job at a time')
        return self


class ClusterSettings(StrictModel):
    """Certificates with which this machine and the others of a cluster know each other."""

    ca: str = ""  # PEM file of the authority of this cluster alone
    cert: str = ""  # PEM file of this machine's certificate
    key: str = ""  # PEM file of its private key

    @property
    def missing(self) -> tuple[str, ...]:
        """The keys that are not set."""
        return tuple(name for name in ("ca", "cert", "key") if not getattr(self, name))


class WorkerSettings(Listening):
    """The settings of `dicomnode worker`: where a worker of a cluster is reached, and which models it offers."""

    listen: HostPort = "127.0.0.1:8790"
    models: tuple[Annotated[str, Field(min_length=1)], ...] = ("thin",)  # names, or paths of model directories


class SchedulerSettings(Listening):
    """The settings of `dicomnode scheduler`: where nodes and workers of a cluster meet."""

    listen: HostPort = "127.0.0.1:8786"


class PushSettings(StrictModel):
    """Patience with the peers that we send to."""

    connect_timeout_s: Seconds = 10.0
    response_timeout_s: Seconds = 120.0
    backoff_min_s: Seconds = 5.0
    backoff_max_s: Seconds = 900.0
    commit_wait_s: Seconds = 3600.0  # for a report, before a C-FIND is asked what the peer has

    @model_validator(mode="after")
    def _longest_is_longest(self) -> Self:
        if self.backoff_max_s < self.backoff_min_s:
            fail("backoff_max_s is below backoff_min_s")
        return self


class ArchiveSettings(StrictModel):
    """When the disk counts as full, and how long images are kept."""

    refuse_free_percent: Annotated[float, Field(ge=0, le=50, allow_inf_nan=False)] = 3.0
    warn_free_percent: Annotated[float, Field(ge=0, le=50, allow_inf_nan=False)] = 10.0
    keep_days: Annotated[float, Field(ge=0, le=36525, allow_inf_nan=False)] = 0.0  # 0: for ever


class AlertSettings(StrictModel):
    """Where people are told of what is wrong."""

    smtp: MaybeHostPort = ""  # empty: no mail
    smtp_tls: Literal["starttls", "tls", "none"] = "starttls"
    mail_from: MaybeMailAddress = ""
    mail_to: tuple[MailAddress, ...] = ()
    user: str = ""
    password_file: SecretFile = ""
    webhook: Webhook = ""  # empty: none
    ca: PemFile = ""  # empty: the authorities that this machine trusts
    letter: Letter = "mon 07:00"  # empty: none

    @model_validator(mode="after")
    def _mail_is_whole(self) -> Self:
        if self.smtp and not (self.mail_from and self.mail_to):
            fail("smtp needs mail_from and mail_to")
        if bool(self.user) != bool(self.password_file):
            fail("user and password_file belong together: both are needed, or none")
        if self.user and self.smtp_tls == "none":
            fail('a password is sent under TLS only: smtp_tls = "starttls" or "tls"')
        return self


class MetricsSettings(Listening):
    """Where programs ask how the node is."""

    listen: MaybeHostPort = ""  # empty: nowhere


class PeerSettings(StrictModel):
    """A DICOM application that may send to us (``networks``), be sent to (``address`` or ``url``), or both."""

    name: Word
    ae_title: Title = AeTitle("")  # empty: it is only reached by DICOMweb, which knows no titles
    networks: tuple[NetworkText, ...] = ()
    address: MaybeHostPort = ""
    url: DicomwebUrl = ""
    token_file: SecretFile = ""
    ca: PemFile = ""  # of whom the server at url has its certificate; empty: the authorities that this machine trusts
    enhanced: Literal["process", "store", "refuse"] = "process"  # its Enhanced (multi-frame) MR objects
    other_objects: Literal["refuse", "store"] = "refuse"
    tls: bool = False  # when it is sent to
    fingerprints: tuple[Fingerprint, ...] = ()
    certificate_names: tuple[CertificateName, ...] = ()
    pull_blackout: Hours = ""  # each day; nothing is pulled from it then
    commitment: Word = "auto"  # who commits to what this peer got: itself where it offers that, nobody, another peer

    @property
    def committer(self) -> str | None:
        """The name of the peer that is asked to prove that it has what this one got; None: nobody is asked."""
        if self.commitment == "off" or not self.is_sent_to:
            return None
        return self.name if self.commitment == "auto" else self.commitment

    @property
    def is_sent_to(self) -> bool:
        """Is there a way to it?"""
        return bool(self.address or self.url)

    @property
    def is_bound(self) -> bool:
        """May it come in, and be sent to, only with a certificate that is named here?"""
        return bool(self.fingerprints or self.certificate_names)

    @property
    def host(self) -> str:
        """The address to send to; only of a peer that has one."""
        return split_address(self.address)[0]

    @property
    def port(self) -> int:
        """The port to send to; only of a peer that has an address."""
        return split_address(self.address)[1]

    def is_near(self, address: str) -> bool:
        """Does a connection from this IP address come from one of the peer's networks?"""
        return any(unmapped(address) in network for network in self.networks)

    def may_send(self, calling_ae_title: str, address: str) -> bool:
        """Is this the peer behind an association's calling AE title (case matters) and IP address?"""
        return self.ae_title in (ANY_TITLE, calling_ae_title.strip()) and self.is_near(address)

    @model_validator(mode="after")
    def _has_a_direction(self) -> Self:
        if not self.networks and not self.is_sent_to:
            fail("needs networks (may send from there) or an address or url (may be sent to), or both")
        if self.tls and not self.address:
            fail("tls is for sending: it needs an address")
        if not self.ae_title and (self.networks or self.address):
            fail("ae_title is missing; only a peer that has a url alone needs none")
        if self.ae_title == ANY_TITLE and (self.address or not all(net.is_loopback for net in self.networks)):
            fail('ae_title "*" is only for networks of this machine itself, such as "127.0.0.1/32", and no address')
        return self

    @model_validator(mode="after")
    def _has_one_way(self) -> Self:
        if self.address and self.url:
            fail("is sent to by DICOM (address) or by DICOMweb (url), not by both: name two peers")
        if (self.token_file or self.ca) and not self.url:
            fail("token_file and ca are for DICOMweb: they need a url")
        if self.ca and not self.url.startswith("https:"):
            fail("ca is for TLS: it needs a url that begins with https://")
        if self.url and self.is_bound and not self.networks:
            fail("fingerprints and certificate_names are for DICOM: the certificate at url has to name its host")
        return self


class RuleSettings(StrictModel):
    """Which series are derived, how, and who gets the result; the first rule that matches wins."""

    name: Annotated[str, Field(min_length=1, max_length=64)]
    match: Annotated[Match, PlainValidator(parse_match)] = Match()
    model: Word | None = None  # None: the default model
    deliver_to: tuple[str, ...] = ()  # names of peers; none: the result stays in the archive
    forward_originals: tuple[str, ...] = ()  # names of peers that get the series as it was received
    target_mm: Annotated[float, Field(gt=0, le=10, allow_inf_nan=False)] = 1.0
    min_ratio: Annotated[float, Field(ge=1, le=6, allow_inf_nan=False)] = 1.5
    max_gap_fraction: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)] = 0.5
    derived: Literal["process", "keep"] = "process"
    allow_lossy: bool = False
    refuse_terms: tuple[Annotated[str, Field(min_length=1, max_length=64)], ...] = ()
    sharpness: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None  # None: as the model's card says
    uncertainty: bool = False
    priority: Literal["urgent", "normal", "offpeak"] = "normal"
    release: Literal["auto", "review", "shadow"] = "auto"
    select: Literal["all", "most_slices"] = "all"  # of the series of one study that the rule takes

    @model_validator(mode="after")
    def _review_is_of_deliveries(self) -> Self:
        if self.release == "review" and not self.deliver_to:
            fail('release is "review", and deliver_to names no peer, so nothing would ever wait for review')
        return self


# The embedded defaults: whoever sends from this machine itself, every series with the default model.
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
            if peer.committer not in (None, peer.name, *self._addresses):
                fail(f'the commitment of peer {peer.name} is neither "auto" nor "off" nor a peer with an address')
        return self

    @property
    def committers(self) -> frozenset[str]:
        """The names of the peers that may report that they keep what was sent."""
        asked = {peer.committer for peer in self.peer}
        return frozenset(name for name in self._addresses if name in asked)

    def is_delivered_to(self, peer: str) -> bool:
        """Does a rule deliver what it derives, or forward what was received, to the peer of this name?"""
        return any(peer in (*rule.deliver_to, *rule.forward_originals) for rule in self.rule)

    @property
    def enhanced_kept(self) -> frozenset[str]:
        """The names of the peers whose Enhanced MR objects are never processed."""
        return frozenset(peer.name for peer in self.peer if peer.enhanced != "process")

    @property
    def reachable_peers(self) -> tuple[str, ...]:
        """The names of the peers that can be sent to."""
        return tuple(peer.name for peer in self.peer if peer.is_sent_to)

    @property
    def _addresses(self) -> tuple[str, ...]:
        """The names of the peers that are called by DICOM, and can report."""
        return tuple(peer.name for peer in self.peer if peer.address)

    @property
    def uses_tls(self) -> bool:
        """Does a connection need the files of ``tls``?"""
        return bool(self.tls.ca)

    @property
    def ledger_url(self) -> str:
        """SQLAlchemy's URL of the ledger."""
        return self.ledger.url or f"sqlite:///{self.node.data.absolute() / 'ledger.sqlite'}"


def unmapped(address: str) -> IPv4Address | IPv6Address:
    """An IPv4 address that an IPv6 socket shows as ::ffff:10.1.2.3 is the IPv4 address."""
    parsed = ip_address(address.partition("%")[0])
    return (parsed.ipv4_mapped or parsed) if isinstance(parsed, IPv6Address) else parsed
