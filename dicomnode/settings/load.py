"""Load the settings: one TOML file and the environment in, one frozen ``Settings`` out, or every mistake at once.

No other module reads the environment for settings. With the settings comes the digest of the file, by which it can be
told later whether the file has changed since.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from hashlib import sha256
from pathlib import Path

from dicomnode.errors import SettingsError
from dicomnode.ids import AeTitle
from dicomnode.settings.match import CALLED
from dicomnode.settings.models import Settings
from dicomnode.settings.peers import PeerSettings
from dicomnode.settings.rules import RuleSettings
from dicomnode.strict_toml import Mistake, MistakesError, NotTomlError, StrictModel, check, guess, shown
from dicomnode.strict_toml import parse as parse_toml

SYSTEM_FILE = Path("/etc/dicomnode/dicomnode.toml")
FILE_VARIABLE = "DICOMNODE_CONFIG"
PREFIX = "DICOMNODE_"
_CORRECT = "Correct the file, or name another one with --config or DICOMNODE_CONFIG."
SECRET_TABLES = ("ledger", "alert")  # tables in which the address of a database or of a webhook may hold a password

Variables = dict[tuple[str | int, ...], str]  # key → the environment variable that set it

_LISTS: dict[str, type[StrictModel]] = {"peer": PeerSettings, "rule": RuleSettings}
_TABLES: dict[str, type[StrictModel]] = {
    name: field.annotation
    for name, field in Settings.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, StrictModel)
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The file that settings were read from."""

    file: Path | None  # None: there was no file, and the embedded defaults hold
    sha256: str  # of its bytes; empty: there was no file


NO_FILE = Source(file=None, sha256="")


def load(path: Path | None, environ: Mapping[str, str]) -> Settings:
    """Load the settings of ``--config`` (``path``), else of DICOMNODE_CONFIG, else of /etc, else the defaults.

    ``DICOMNODE_TABLE__KEY`` of ``environ`` wins over the file. Raises SettingsError, one line a mistake.
    """
    return load_with_source(path, environ)[0]


def load_with_source(path: Path | None, environ: Mapping[str, str]) -> tuple[Settings, Source]:
    """Load the same settings, and return them with the file that they come from."""
    file = find(path, environ)
    if file is None:
        return parse({}, environ, source="the embedded defaults"), NO_FILE
    content = _bytes(file)
    source = Source(file=file.absolute(), sha256=sha256(content).hexdigest())
    return parse(_tables(file, content), environ, source=str(file)), source


def has_changed(source: Source) -> bool | None:
    """Tell whether the file holds other bytes now than when settings were read from it. None: it cannot be read."""
    if source.file is None:
        return False
    try:
        return sha256(_bytes(source.file)).hexdigest() != source.sha256
    except SettingsError:
        return None


def data_and_ledger(path: Path | None, environ: Mapping[str, str]) -> tuple[Path, str]:
    """Read data folder and URL of the ledger, also where other tables of the file hold mistakes, or it is no TOML.

    A command finds the running service by them. Raises SettingsError where the mistake is in these keys themselves.
    """
    file = find(path, environ)
    try:
        tables = _tables(file, _bytes(file)) if file else {}
    except SettingsError:
        tables = {}
    wanted = {("node", "data"), ("ledger", "url")}
    read = {
        table: {key: value}
        for table, key in wanted
        if isinstance(found := tables.get(table), dict) and (value := found.get(key)) is not None
    }
    variables = {name: environ[name] for table, key in wanted if (name := _variable(table, key)) in environ}
    settings = parse(read, variables, source=str(file))
    return settings.node.data.absolute(), settings.ledger_url


def find(path: Path | None, environ: Mapping[str, str]) -> Path | None:
    """Return the file that ``load`` reads; None: the embedded defaults hold."""
    if path is not None:
        return path
    if named := environ.get(FILE_VARIABLE):
        return Path(named)
    return SYSTEM_FILE if SYSTEM_FILE.is_file() else None


def parse(raw: Mapping[str, object], environ: Mapping[str, str] | None = None, *, source: str = "settings") -> Settings:
    """Check the tables of a TOML file and make settings of them. The error names ``source``. Raises SettingsError."""
    tables: dict[str, object] = {name: dict(table) if isinstance(table, dict) else table for name, table in raw.items()}
    mistakes, variables = _overlay(tables, environ or {})
    settings: Settings | None = None
    try:
        settings = check(Settings, tables, secret=SECRET_TABLES)
    except MistakesError as exc:
        mistakes += [_line(mistake, source, variables) for mistake in exc.mistakes]
    mistakes += [f"{source}: {line}" for line in _cross_mistakes(tables)]
    if settings is not None:
        mistakes += [f"{source}: {line}" for line in _titles_never_called(settings)]
    if mistakes or settings is None:
        count = "a mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
        listed = "".join(f"\n  {line}" for line in mistakes)
        raise SettingsError(
            f"The settings hold {count}, so none of them is used:{listed}",
            hint="docs/settings.md lists every key with its unit and default.",
        )
    return settings


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as exc:
        raise SettingsError(f"The settings file {file} cannot be read: {exc.strerror}.", hint=_CORRECT) from exc


def _tables(file: Path, content: bytes) -> dict[str, object]:
    try:
        return parse_toml(content)
    except NotTomlError as exc:
        raise SettingsError(f"The settings file {file} is not TOML: {exc}.", hint=_CORRECT) from exc


def _overlay(tables: dict[str, object], environ: Mapping[str, str]) -> tuple[list[str], Variables]:
    """Lay ``DICOMNODE_TABLE__KEY`` over the tables; return the mistakes, and the variable of each key so set."""
    mistakes: list[str] = []
    variables: Variables = {}
    for variable, text in sorted(environ.items()):
        if not variable.startswith(PREFIX) or variable == FILE_VARIABLE:
            continue
        table, _, key = variable.removeprefix(PREFIX).lower().partition("__")
        model = _TABLES.get(table)
        if table in _LISTS:
            mistakes.append(f"{variable}: peers and rules come from the file only")
        elif model is None or key not in model.model_fields:
            known = [_variable(name, field) for name, table in _TABLES.items() for field in table.model_fields]
            mistakes.append(f"{variable}: is not a known variable{guess(variable, known)}")
        else:
            # A table that is not one, such as ``settle = 5``, stays for the model to complain about.
            if isinstance(inner := tables.setdefault(table, {}), dict):
                inner[key] = _value(text, is_text=model.model_fields[key].annotation in (str, AeTitle, Path))
            variables[table, key] = variable
    return mistakes, variables


def _value(text: str, *, is_text: bool) -> object:
    """Read a variable's text as a TOML value, else take it as text; with ``is_text``, a title of digits stays text."""
    try:
        parsed = parse_toml(f"value = {text}".encode(errors="surrogateescape"))  # bytes that are not UTF-8
    except NotTomlError:
        return text
    value = parsed["value"]
    return text if len(parsed) > 1 or (is_text and not isinstance(value, str)) else value


def _variable(table: str, key: str) -> str:
    return f"{PREFIX}{table}__{key}".upper()


def _line(mistake: Mistake, source: str, variables: Variables) -> str:
    """Write ``file: dotted.key: what was expected``, or the variable's name in place of file and key."""
    variable = variables.get(mistake.key)
    return f"{variable}: {mistake.sentence}" if variable else f"{source}: {mistake}"


def _cross_mistakes(tables: Mapping[str, object]) -> Iterator[str]:
    """Find mistakes between tables. The raw tables are compared, so that these are listed with all other mistakes."""
    peers = _rows(tables, "peer")
    reachable = {peer.get("name") for peer in peers if peer.get("address") or peer.get("url")}
    for kind in _LISTS:
        names = [row.get("name") for row in _rows(tables, kind)]
        for index, name in enumerate(names):
            if isinstance(name, str) and name in names[:index]:
                yield f"{kind}.{index}.name: a {kind} named {shown(name)} came before"
    yield from _tls_mistakes(_table(tables, "node"), _table(tables, "tls"), peers)
    for index, rule in enumerate(_rows(tables, "rule")):
        for key in ("deliver_to", "forward_originals"):
            wanted = rule.get(key)
            for name in wanted if isinstance(wanted, list) else []:
                if name not in {peer.get("name") for peer in peers}:
                    yield f"rule.{index}.{key}: there is no peer named {shown(name)}"
                elif name not in reachable:
                    yield f"rule.{index}.{key}: peer {shown(name)} has neither address nor url to send to"


def _tls_mistakes(
    node: Mapping[str, object], tls: Mapping[str, object], peers: list[dict[str, object]]
) -> Iterator[str]:
    """Name the settings with which no peer could connect, or a peer could not be reached."""
    if node.get("listen") == "" and not tls.get("listen"):
        yield "node.listen: is empty, and tls.listen too: nobody could connect"
    for index, peer in enumerate(peers):
        is_sent_to = peer.get("tls") is True
        if is_sent_to and not tls.get("ca"):
            yield f"peer.{index}.tls: needs tls.ca, which says whose certificates are trusted"
        if peer.get("fingerprints") or peer.get("certificate_names"):
            if peer.get("networks") and not tls.get("listen"):
                yield f"peer.{index}: may only come in with a certificate, and tls.listen is not set"
            if peer.get("address") and not is_sent_to:
                yield f"peer.{index}: has a certificate and an address; set tls = true, or remove one of them"


def _titles_never_called(settings: Settings) -> Iterator[str]:
    """Name the rules that no series can match, because the node has no such AE title."""
    for index, rule in enumerate(settings.rule):
        for condition in rule.match.conditions:
            wanted = [test.text for test in condition.tests if not test.excludes]
            fits = any(fnmatchcase(title, text) for title in settings.node.titles for text in wanted)
            if condition.key == CALLED and wanted and not fits:
                yield f"rule.{index}.match.{CALLED}: no AE title in node.ae_title or node.ae_titles fits"


def _table(tables: Mapping[str, object], name: str) -> dict[str, object]:
    table = tables.get(name)
    return table if isinstance(table, dict) else {}


def _rows(tables: Mapping[str, object], kind: str) -> list[dict[str, object]]:
    rows = tables.get(kind)
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
