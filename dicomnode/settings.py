"""One TOML file and the environment in, one frozen ``Settings`` out, or every mistake at once.

A room gets its own table (``ReceiveSettings``), nobody reads the environment elsewhere, and a key that is not in
these models is an error. The models are the list of keys: ``etc/dicomnode.toml`` and ``docs/settings.md`` follow
them, and a test compares the three.
"""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Annotated, Literal, NoReturn, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from dicomnode.errors import SettingsError
from dicomnode.ids import AeTitle

SYSTEM_FILE = Path("/etc/dicomnode/dicomnode.toml")
FILE_VARIABLE = "DICOMNODE_CONFIG"
PREFIX = "DICOMNODE_"
ANY_TITLE = "*"  # any AE title; only for a peer of this machine itself

Network = IPv4Network | IPv6Network
Operator = Literal[">=", "<=", ">", "<", "="]

_A_DAY_S = 86_400.0
_TITLE = re.compile(r"[\x20-\x5b\x5d-\x7e]{1,16}")  # PS3.5 section 6.2, VR AE: ASCII without backslash and controls
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_COMPARISON = re.compile(r"(>=|<=|>|<|=)\s*(\d+(?:\.\d+)?)")
_SPACING = "slice_spacing_mm"
_NO_TEXT = frozenset({"SQ", "OB", "OW", "OF", "OD", "OL", "OV", "UN"})  # value representations that no glob can match


def _fail(expected: str, *, also: Sequence[tuple[str, str]] = ()) -> NoReturn:
    """Say what was expected; ``also``: (key below this one, what was expected there), in place of the sentence."""
    raise PydanticCustomError("expected", "{expected}", {"expected": expected, "also": list(also)})


def _title(text: str) -> AeTitle:
    if not _TITLE.fullmatch(text) or not text.strip():
        _fail("expected 1 to 16 ASCII characters, no backslash (PS3.5 section 6.2)")
    return AeTitle(text.strip())  # leading and trailing spaces are not significant


def _word(text: str) -> str:
    if not _WORD.fullmatch(text):
        _fail("expected a name of letters, digits, '.', '_' and '-', at most 64")
    return text


def _address(text: str) -> str:
    split_address(text)
    return text


def _address_or_none(text: str) -> str:
    return text and _address(text)


def _device(text: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d{1,2})?", text):
        _fail("expected auto, cpu, cuda or cuda:N")
    return text


def _folder(path: Path) -> Path:
    return path.expanduser()


def _network(value: object) -> Network:
    if isinstance(value, IPv4Network | IPv6Network):
        return value
    if not isinstance(value, str):
        _fail('expected a network in text, such as "10.1.2.0/24"')
    try:
        return ip_network(value)
    except ValueError:
        _fail('expected a network such as "10.1.2.0/24" (no bits set behind the prefix) or one address')


Title = Annotated[AeTitle, AfterValidator(_title)]
Word = Annotated[str, AfterValidator(_word)]
HostPort = Annotated[str, AfterValidator(_address)]
MaybeHostPort = Annotated[str, AfterValidator(_address_or_none)]
Device = Annotated[str, AfterValidator(_device)]
Folder = Annotated[Path, AfterValidator(_folder)]
NetworkText = Annotated[Network, PlainValidator(_network)]
Seconds = Annotated[float, Field(gt=0, le=_A_DAY_S, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=1024)]


def split_address(text: str) -> tuple[str, int]:
    """``host:port`` apart; an IPv6 address stands in brackets.

    >>> split_address("10.1.0.5:104"), split_address("[::1]:11112")
    (('10.1.0.5', 104), ('::1', 11112))
    """
    host, colon, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    whole = bool(colon and bare) and not re.search(r"[\s/@]", bare) and (bare != host or ":" not in host)
    if not (whole and port.isascii() and port.isdigit() and int(port) <= 65535):
        _fail('expected address:port, such as "10.1.0.5:104" (an IPv6 address in brackets)')
    return bare, int(port)


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """What must hold in every instance of a series for its rule to apply; empty matches every series."""

    globs: tuple[tuple[str, str], ...] = ()  # (DICOM keyword, pattern; case is ignored)
    slice_spacing: tuple[tuple[Operator, float], ...] = ()  # the distance of slice centres, in mm


def _match(value: object) -> Match:
    """Parse ``{ SeriesDescription = "*T2*", slice_spacing_mm = ">= 2, < 8" }``."""
    if isinstance(value, Match):
        return value
    if not isinstance(value, dict):
        _fail('expected a table such as { SeriesDescription = "*T2*" }')
    mistakes: list[tuple[str, str]] = []
    globs: list[tuple[str, str]] = []
    spacing: tuple[tuple[Operator, float], ...] = ()
    for key, text in value.items():
        if key == _SPACING:
            spacing = _comparisons(text)
            if not spacing:
                mistakes.append((key, f'expected comparisons such as ">= 2" or ">= 2, < 8", found {_shown(text)}'))
        elif problem := _keyword_problem(key):
            mistakes.append((key, problem))
        elif not isinstance(text, str) or not text:
            mistakes.append((key, f'expected a pattern in text, such as "*T2*", found {_shown(text)}'))
        else:
            globs.append((key, text))
    if mistakes:
        _fail("does not parse", also=mistakes)
    return Match(globs=tuple(globs), slice_spacing=spacing)


def _comparisons(text: object) -> tuple[tuple[Operator, float], ...]:
    """The parts of ``">= 2, < 8"``, all of which must hold; empty where the text is none."""
    parts = [_COMPARISON.fullmatch(part.strip()) for part in text.split(",")] if isinstance(text, str) else []
    found: list[tuple[Operator, float]] = []
    for part in parts:
        if part is None:
            return ()
        found.append((part[1], float(part[2])))  # type: ignore[arg-type]  # the pattern holds the operators' list
    return tuple(found)


def _keyword_problem(keyword: str) -> str:
    """Why no rule can look at this attribute; empty where one can."""
    # Here, not above: a file without such a rule is then read without pydicom (0.2 s).
    from pydicom.datadict import dictionary_VR, keyword_dict, tag_for_keyword

    tag = tag_for_keyword(keyword)
    if tag is None:
        return f"is not a keyword of the DICOM dictionary{_guess(keyword, [*keyword_dict, _SPACING])}"
    if not _NO_TEXT.isdisjoint(dictionary_VR(tag).split(" or ")):
        return "holds no text that a pattern could match"
    return ""


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class NodeSettings(_Table):
    """Who the node is, where it listens, where it keeps everything."""

    ae_title: Title = AeTitle("DICOMNODE")
    listen: HostPort = "127.0.0.1:11112"  # port 0: any free one
    data: Folder = Path("dicomnode-data")

    @property
    def host(self) -> str:
        """The address of ``listen``."""
        return split_address(self.listen)[0]

    @property
    def port(self) -> int:
        """The port of ``listen``."""
        return split_address(self.listen)[1]


class LogSettings(_Table):
    """How much is logged, and in which form."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "text", "json"] = "auto"


class LedgerSettings(_Table):
    """Which database holds the ledger."""

    url: str = ""  # empty: SQLite in the data folder

    @field_validator("url")
    @classmethod
    def _is_sqlite(cls, url: str) -> str:
        if url.startswith("postgres"):
            _fail("a PostgreSQL ledger is not supported yet: leave the key out, the ledger is then in node.data")
        if url and not re.fullmatch(r"sqlite:////[^?]+", url):
            _fail('expected "" (the ledger is in node.data) or sqlite:////absolute/path')
        return url


class ReceiveSettings(_Table):
    """Limits of the door."""

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
            _fail("max_per_address is above max_associations")
        return self


class SettleSettings(_Table):
    """When the set of instances of a series is taken as whole."""

    quiet_s: Seconds = 30.0
    aborted_wait_s: Seconds = 300.0
    max_wait_s: Seconds = 1800.0

    @model_validator(mode="after")
    def _longest_is_longest(self) -> Self:
        if self.max_wait_s < max(self.quiet_s, self.aborted_wait_s):
            _fail("max_wait_s is below quiet_s or aborted_wait_s, which it ends")
        return self


class WorkSettings(_Table):
    """Where jobs run and how far they may go."""

    device: Device = "auto"
    time_limit_s: Seconds = 3600.0
    memory_limit_mb: Annotated[int, Field(ge=0, le=1 << 24)] = 0  # 0: three quarters of the machine


class PushSettings(_Table):
    """Patience with the peers that we send to."""

    connect_timeout_s: Seconds = 10.0
    response_timeout_s: Seconds = 120.0
    backoff_min_s: Seconds = 5.0
    backoff_max_s: Seconds = 900.0

    @model_validator(mode="after")
    def _longest_is_longest(self) -> Self:
        if self.backoff_max_s < self.backoff_min_s:
            _fail("backoff_max_s is below backoff_min_s")
        return self


class ArchiveSettings(_Table):
    """When the disk counts as full."""

    refuse_free_percent: Annotated[float, Field(ge=0, le=50, allow_inf_nan=False)] = 3.0


class PeerSettings(_Table):
    """A DICOM application that may send to us (``networks``), be sent to (``address``), or both."""

    name: Word
    ae_title: Title
    networks: tuple[NetworkText, ...] = ()
    address: MaybeHostPort = ""
    other_objects: Literal["refuse", "store"] = "refuse"

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
        return any(_unmapped(address) in network for network in self.networks)

    def may_send(self, calling_ae_title: str, address: str) -> bool:
        """Is this the peer behind an association's calling AE title (case matters) and IP address?"""
        return self.ae_title in (ANY_TITLE, calling_ae_title.strip()) and self.is_near(address)

    @model_validator(mode="after")
    def _has_a_direction(self) -> Self:
        if not self.networks and not self.address:
            _fail("needs networks (may send from there) or an address (may be sent to), or both")
        if self.ae_title == ANY_TITLE and (self.address or not all(net.is_loopback for net in self.networks)):
            _fail('ae_title "*" is only for networks of this machine itself, such as "127.0.0.1/32", and no address')
        return self


class RuleSettings(_Table):
    """Which series are derived, how, and who gets the result; the first rule that matches wins."""

    name: Annotated[str, Field(min_length=1, max_length=64)]
    match: Annotated[Match, PlainValidator(_match)] = Match()
    model: Word | None = None  # None: the default model
    deliver_to: tuple[str, ...] = ()  # names of peers; none: the result stays in the archive
    target_mm: Annotated[float, Field(gt=0, le=10, allow_inf_nan=False)] = 1.0
    min_ratio: Annotated[float, Field(ge=1, le=6, allow_inf_nan=False)] = 1.5
    max_gap_fraction: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)] = 0.5
    derived: Literal["process", "keep"] = "process"
    allow_lossy: bool = False
    refuse_terms: tuple[Annotated[str, Field(min_length=1, max_length=64)], ...] = ()


# The embedded defaults: whoever sends from this machine itself, every series with the default model.
_LOOPBACK_PEER = PeerSettings(name="this-machine", ae_title=AeTitle(ANY_TITLE), networks=(ip_network("127.0.0.1"),))
_EVERY_SERIES = RuleSettings(name="every series")


class Settings(_Table):
    """Every key; lists of tables (``peer``, ``rule``) come from the file only."""

    node: NodeSettings = NodeSettings()
    log: LogSettings = LogSettings()
    ledger: LedgerSettings = LedgerSettings()
    receive: ReceiveSettings = ReceiveSettings()
    settle: SettleSettings = SettleSettings()
    work: WorkSettings = WorkSettings()
    push: PushSettings = PushSettings()
    archive: ArchiveSettings = ArchiveSettings()
    peer: tuple[PeerSettings, ...] = (_LOOPBACK_PEER,)
    rule: tuple[RuleSettings, ...] = (_EVERY_SERIES,)

    @property
    def reachable_peers(self) -> tuple[str, ...]:
        """The names of the peers that can be sent to."""
        return tuple(peer.name for peer in self.peer if peer.address)

    @property
    def ledger_url(self) -> str:
        """SQLAlchemy's URL of the ledger."""
        return self.ledger.url or f"sqlite:///{self.node.data.absolute() / 'ledger.sqlite'}"


_LISTS: dict[str, type[_Table]] = {"peer": PeerSettings, "rule": RuleSettings}
_TABLES: dict[str, type[BaseModel]] = {
    name: field.annotation
    for name, field in Settings.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
}


def load(path: Path | None, environ: Mapping[str, str]) -> Settings:
    """Settings of ``--config`` (``path``), else of DICOMNODE_CONFIG, else of /etc, else the embedded defaults.

    ``DICOMNODE_TABLE__KEY`` of ``environ`` wins over the file. Raises SettingsError, one line a mistake.
    """
    file = find(path, environ)
    return parse(_read(file) if file else {}, environ, source=str(file) if file else "the embedded defaults")


def find(path: Path | None, environ: Mapping[str, str]) -> Path | None:
    """The file that ``load`` reads; None: the embedded defaults hold."""
    if path is not None:
        return path
    if named := environ.get(FILE_VARIABLE):
        return Path(named)
    return SYSTEM_FILE if SYSTEM_FILE.is_file() else None


def parse(raw: Mapping[str, object], environ: Mapping[str, str] | None = None, *, source: str = "settings") -> Settings:
    """Settings of what ``tomllib`` read; ``source`` is named in the error."""
    tables: dict[str, object] = {name: dict(table) if isinstance(table, dict) else table for name, table in raw.items()}
    mistakes, variables = _overlay(tables, environ or {})
    settings: Settings | None = None
    try:
        # Strict JSON takes a path, an enum and a tuple from text and still refuses "11" for a number; strict
        # Python would refuse the path. A date of TOML becomes text, which no key takes for one.
        settings = Settings.model_validate_json(json.dumps(tables, default=str))
    except ValidationError as exc:
        mistakes += [line for error in exc.errors() for line in _lines(error, source, variables)]
    mistakes += [f"{source}: {line}" for line in _cross_mistakes(tables)]
    if mistakes or settings is None:
        count = "a mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
        listed = "".join(f"\n  {line}" for line in mistakes)
        raise SettingsError(
            f"The settings hold {count}, so none of them is used:{listed}",
            hint="docs/settings.md lists every key with its unit and default.",
        )
    return settings


def _read(file: Path) -> dict[str, object]:
    hint = "Correct the file, or name another one with --config or DICOMNODE_CONFIG."
    try:
        text = file.read_text(encoding="utf-8-sig")  # some editors put a byte order mark first
        return tomllib.loads(text)
    except OSError as exc:
        raise SettingsError(f"The settings file {file} cannot be read: {exc.strerror}.", hint=hint) from exc
    except UnicodeDecodeError as exc:
        raise SettingsError(f"The settings file {file} is not UTF-8 text (byte {exc.start}).", hint=hint) from exc
    except tomllib.TOMLDecodeError as exc:
        raise SettingsError(f"The settings file {file} is not TOML: {exc}.", hint=hint) from exc


def _overlay(tables: dict[str, object], environ: Mapping[str, str]) -> tuple[list[str], dict[tuple[str, str], str]]:
    """Lay ``DICOMNODE_TABLE__KEY`` over the tables; mistakes, and which key came from which variable."""
    mistakes: list[str] = []
    variables: dict[tuple[str, str], str] = {}
    for variable, text in sorted(environ.items()):
        if not variable.startswith(PREFIX) or variable == FILE_VARIABLE:
            continue
        table, _, key = variable.removeprefix(PREFIX).lower().partition("__")
        model = _TABLES.get(table)
        if table in _LISTS:
            mistakes.append(f"{variable}: peers and rules come from the file only")
        elif model is None or key not in model.model_fields:
            known = [_variable(name, field) for name, table in _TABLES.items() for field in table.model_fields]
            mistakes.append(f"{variable}: is not a known variable{_guess(variable, known)}")
        else:
            # A table that is not one, such as ``settle = 5``, stays for the model to complain about.
            if isinstance(inner := tables.setdefault(table, {}), dict):
                inner[key] = _value(text, is_text=model.model_fields[key].annotation in (str, AeTitle, Path))
            variables[table, key] = variable
    return mistakes, variables


def _value(text: str, *, is_text: bool) -> object:
    """A variable's text as a TOML value, else as it stands; ``is_text``: a title of digits stays a title."""
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    value = parsed["value"]
    return text if len(parsed) > 1 or (is_text and not isinstance(value, str)) else value


def _variable(table: str, key: str) -> str:
    return f"{PREFIX}{table}__{key}".upper()


def _lines(error: ErrorDetails, source: str, variables: Mapping[tuple[str, str], str]) -> Iterator[str]:
    """One error of pydantic as ``file: dotted.key: what was expected``, or with the variable's name instead."""
    loc = error["loc"]
    variable = variables.get((str(loc[0]), str(loc[1]))) if len(loc) > 1 else None
    where = variable or f"{source}: {'.'.join(map(str, loc)) or '(the whole)'}"
    if also := error.get("ctx", {}).get("also"):
        for key, expected in also:
            yield f"{where}.{key}: {expected}"
    elif error["type"] == "extra_forbidden":
        yield f"{where}: is not a known key{_guess(str(loc[-1]), _siblings(loc))}"
    elif error["type"] == "missing":
        yield f"{where}: is missing"
    elif error["type"] == "expected":
        yield f"{where}: {error['msg']}{_found(error)}"
    else:
        yield f"{where}: expected {error['msg'].removeprefix('Input should be ')}{_found(error)}"


def _found(error: ErrorDetails) -> str:
    """What stood there, where that is short and no secret (a database URL may hold a password)."""
    value = error["input"]
    is_short = isinstance(value, str | int | float) and len(str(value)) <= 64
    return f", found {_shown(value)}" if is_short and error["loc"][0] != "ledger" else ""


def _shown(value: object) -> str:
    return json.dumps(value, default=str, ensure_ascii=False)


def _siblings(loc: Sequence[str | int]) -> list[str]:
    """The keys that could have stood where an unknown one does."""
    if len(loc) == 1:
        return list(Settings.model_fields)
    model = _LISTS.get(str(loc[0])) or _TABLES.get(str(loc[0]))
    return list(model.model_fields) if model else []


def _guess(word: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.75)
    return f" (did you mean {close[0]}?)" if close else ""


def _cross_mistakes(tables: Mapping[str, object]) -> Iterator[str]:
    """What one table says of another: looked up in what was read, so that it is found beside every other mistake."""
    peers = _rows(tables, "peer")
    reachable = {peer.get("name") for peer in peers if peer.get("address")}
    for kind in _LISTS:
        names = [row.get("name") for row in _rows(tables, kind)]
        for index, name in enumerate(names):
            if isinstance(name, str) and name in names[:index]:
                yield f"{kind}.{index}.name: a {kind} named {_shown(name)} came before"
    for index, rule in enumerate(_rows(tables, "rule")):
        wanted = rule.get("deliver_to")
        for name in wanted if isinstance(wanted, list) else []:
            if name not in {peer.get("name") for peer in peers}:
                yield f"rule.{index}.deliver_to: there is no peer named {_shown(name)}"
            elif name not in reachable:
                yield f"rule.{index}.deliver_to: peer {_shown(name)} has no address to send to"


def _rows(tables: Mapping[str, object], kind: str) -> list[dict[str, object]]:
    rows = tables.get(kind)
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def _unmapped(address: str) -> IPv4Address | IPv6Address:
    """An IPv4 address that an IPv6 socket shows as ::ffff:10.1.2.3 is the IPv4 address."""
    parsed = ip_address(address.partition("%")[0])
    return (parsed.ipv4_mapped or parsed) if isinstance(parsed, IPv6Address) else parsed
