"""The documentation lists what the code has (keys, commands, options, exit codes, rooms, reasons); links lead there."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
import pytest

from dicomnode import errors
from dicomnode.cli.main import cli
from dicomnode.imaging import verdict
from dicomnode.settings.load import parse
from dicomnode.settings.models import Settings
from dicomnode.settings.peers import PeerSettings
from dicomnode.settings.rules import RuleSettings

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
FOLDERS = ("dicomnode", "trainer", "tests", "bench", "migrations", "etc", "docs")
TEXTS = [*ROOT.glob("*.*"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*"))]
TEXTS = sorted(path for path in TEXTS if path.suffix in {".py", ".md", ".toml"} and path != Path(__file__))


def _text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def _section(name: str, heading: str) -> str:
    return _text(name).partition(f"## {heading}\n")[2].partition("\n## ")[0]


@cache
def _slugs(page: Path) -> set[str]:
    """The anchors of a page's headings, by GitHub's rule: lower case, blanks as hyphens, no other punctuation."""
    slugs: set[str] = set()
    without_code = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for heading in re.findall(r"^#+ (.*)$", without_code, re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
        same = sum(1 for other in slugs if re.fullmatch(rf"{re.escape(slug)}(-\d+)?", other))
        slugs.add(f"{slug}-{same}" if same else slug)
    return slugs


def _keys() -> Iterator[tuple[str, object]]:
    defaults = parse({})
    for name in sorted(set(Settings.model_fields) - {"peer", "rule"}):
        yield from ((f"{name}.{key}", value) for key, value in getattr(defaults, name).model_dump().items())
    yield from ((f"peer.{key}", None) for key in PeerSettings.model_fields)
    yield from ((f"rule.{key}", None) for key in RuleSettings.model_fields)


def _commands(group: click.Group, path: str = "dicomnode") -> Iterator[tuple[str, click.Command]]:
    ctx = click.Context(group)
    for name in group.list_commands(ctx):
        command = group.get_command(ctx, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from _commands(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


COMMANDS = dict(_commands(cli))


@pytest.mark.parametrize(("key", "default"), list(_keys()))
def test_every_key_stands_in_the_settings_page_with_its_default(key: str, default: object) -> None:
    rows = [line for line in _text("docs/settings.md").splitlines() if line.startswith(f"| `{key}` |")]
    assert len(rows) == 1
    if default is not None:
        shown = rows[0].split("|")[2].strip().strip("`").strip('"')
        if isinstance(default, tuple):
            assert json.loads(shown) == list(default)
        elif isinstance(default, bool):
            assert shown == str(default).lower()
        else:
            assert shown.removeprefix("./") == (f"{default:g}" if isinstance(default, float) else str(default))


def test_the_settings_page_names_no_key_that_does_not_exist() -> None:
    named = set(re.findall(r"^\| `(\w+\.\w+)`", _text("docs/settings.md"), re.MULTILINE))
    assert named == {key for key, _ in _keys()}


@pytest.mark.parametrize("path", COMMANDS)
def test_every_command_and_each_of_its_options_stands_in_the_command_page(path: str) -> None:
    page = _text("docs/cli.md")
    match = re.search(rf"^### `{path}.*?(?=^### |^## |\Z)", page, re.MULTILINE | re.DOTALL)
    assert match, f"no heading for {path}"
    common = {"--config", "--json"}
    for parameter in COMMANDS[path].params:
        if isinstance(parameter, click.Option):
            assert common.intersection(parameter.opts) or parameter.opts[0] in match[0], parameter.opts
        else:
            assert parameter.human_readable_name.upper().rstrip("…S") in match[0].upper()


@pytest.mark.parametrize("path", COMMANDS)
def test_the_command_page_says_of_each_option_what_help_says(path: str) -> None:
    page = " ".join(_text("docs/cli.md").split())
    for option in COMMANDS[path].params:
        if isinstance(option, click.Option) and not {"--config", "--json"}.intersection(option.opts):
            assert option.help, option.opts
            default = f" Default: {option.default}." if option.show_default else ""
            assert f"{option.help}{default}" in page, option.opts


@pytest.mark.parametrize("path", COMMANDS)
def test_every_command_says_what_it_does(path: str) -> None:
    assert COMMANDS[path].help
    assert COMMANDS[path].short_help


@pytest.mark.parametrize("path", COMMANDS)
def test_every_command_that_reads_settings_takes_config_and_every_one_but_services_json(path: str) -> None:
    options = {name for parameter in COMMANDS[path].params for name in parameter.opts}
    reads_none = {"dicomnode demo", "dicomnode infer", "dicomnode evaluate"}
    assert "--config" in options or path in reads_none
    assert "--json" in options or path in {
        "dicomnode serve",
        "dicomnode web",
        "dicomnode worker",
        "dicomnode scheduler",
    }


def test_every_exit_code_stands_in_the_command_page() -> None:
    rows = dict(re.findall(r"^\| (\d+) \| (.*?) \|", _text("docs/cli.md"), re.MULTILINE))
    family = {error.exit_code for error in errors.NodeError.__subclasses__()}
    assert set(map(int, rows)) == family | {0, 1, 130}


def test_every_reason_for_keeping_a_series_stands_in_the_operations_page() -> None:
    page = _text("docs/operations.md")
    assert [reason for reason in verdict.VerdictReason if f"`{reason.value}`" not in page] == []


def test_the_rooms_of_readme_are_those_of_the_tree_and_of_the_contract() -> None:
    package = ROOT / "dicomnode"
    files = {path.name for path in package.glob("*.py")} - {"__init__.py", "__main__.py"}
    tree = files | {f"{path.parent.name}/" for path in package.glob("*/__init__.py")}
    rows = re.findall(r"^\| (`.*?) \|", _section("README.md", "Rooms"), re.MULTILINE)
    named = [name for row in rows for name in re.findall(r"`([\w./]+)`", row)]
    assert len(named) == len(set(named))
    assert set(named) == tree | {"trainer/"}

    contract = tomllib.loads(_text("pyproject.toml"))["tool"]["importlinter"]["contracts"][0]
    layers = {room.strip() for layer in contract["layers"] for room in layer.split("|") if "(" not in room}
    assert layers - {"__main__"} == {name.removesuffix(".py").removesuffix("/") for name in tree}


def test_the_files_that_readme_tells_a_newcomer_to_read_are_there() -> None:
    listed = re.search(r"^To read the node in one go: (.*?)\.$", _text("README.md"), re.MULTILINE | re.DOTALL)
    assert listed is not None
    names = re.findall(r"`([\w./]+)`", listed[1])
    assert names
    assert [name for name in names if not (ROOT / "dicomnode" / name).is_file()] == []


def test_the_table_of_pages_is_the_folder_of_pages() -> None:
    named = re.findall(r"^\| \[[\w./-]+\]\(([\w./-]+)\)", _text("docs/README.md"), re.MULTILINE)
    pages = {path.name for path in DOCS.glob("*.md")} - {"README.md"}
    assert sorted(named) == sorted(pages | {"decisions/"})


@pytest.mark.parametrize("page", [str(path.relative_to(ROOT)) for path in PAGES])
def test_every_relative_link_leads_somewhere(page: str) -> None:
    for target, heading in re.findall(r"\]\((?!https?:|mailto:)([^)#\s]*)(?:#([^)\s]+))?\)", _text(page)):
        path = (ROOT / page).parent / target if target else ROOT / page
        assert path.exists(), target
        assert not heading or heading in _slugs(path), f"{target}#{heading}"


def test_every_heading_that_code_names_is_there() -> None:
    named = {
        (str(path.relative_to(ROOT)), page, heading)
        for path in TEXTS
        for page, heading in re.findall(r"\b(docs/[\w/-]+\.md)(?:#([\w-]+))?", path.read_text("utf-8"))
    }
    missing = [
        f"{file}: {page}#{heading}"
        for file, page, heading in sorted(named)
        if not (ROOT / page).is_file() or (heading and heading not in _slugs(ROOT / page))
    ]
    assert missing == []


def test_the_decisions_are_numbered_without_a_gap() -> None:
    numbers = sorted(int(path.name[:4]) for path in (DOCS / "decisions").glob("*.md"))
    assert numbers == list(range(1, len(numbers) + 1))


def test_whatever_is_cited_can_be_found_by_a_stranger() -> None:
    """A section number belongs to a part of the standard or to a paper; what this project says stands in docs/."""
    known = r"(?:PS3\.\d+|\(paper,|\d{4},|\d{4}\.\d{4,5},|R3GAN,) §"
    found = []
    for path in TEXTS:
        text = path.read_text("utf-8")
        foreign = re.findall(r"[^\n]{0,40}§", re.sub(known, "", text))
        # A document by a name in capitals: its section, or its paragraph as "5.4" behind the name.
        foreign += re.findall(r"\b(?!PDDL|DICOM)[A-Z]{4,} (?:section \d|\d\.\d(?!\d*\s?mm\b))[^\n]{0,40}", text)
        found += [f"{path.relative_to(ROOT)}: {words.strip()}" for words in foreign]
    assert found == []
