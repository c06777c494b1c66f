"""What the documentation promises to list, it lists: keys, commands, options, exit codes, rooms, reasons."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from pydantic import BaseModel

from dicomnode import errors, settings
from dicomnode.cli.main import cli
from dicomnode.generators.card import DataRow, MetricRow, SRResNetCard, SRResNetParameters, ThinCard, ThinParameters
from dicomnode.imaging import verdict

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"


def _text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def _keys() -> Iterator[tuple[str, object]]:
    defaults = settings.parse({})
    for name in sorted(set(settings.Settings.model_fields) - {"peer", "rule"}):
        yield from ((f"{name}.{key}", value) for key, value in getattr(defaults, name).model_dump().items())
    yield from ((f"peer.{key}", None) for key in settings.PeerSettings.model_fields)
    yield from ((f"rule.{key}", None) for key in settings.RuleSettings.model_fields)


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
def test_every_command_that_reads_settings_takes_config_and_every_one_but_serve_json(path: str) -> None:
    options = {name for parameter in COMMANDS[path].params for name in parameter.opts}
    reads_none = {"dicomnode demo", "dicomnode infer", "dicomnode evaluate"}
    assert "--config" in options or path in reads_none
    assert "--json" in options or path == "dicomnode serve"


def test_every_exit_code_stands_in_the_command_page() -> None:
    rows = dict(re.findall(r"^\| (\d+) \| (.*?) \|", _text("docs/cli.md"), re.MULTILINE))
    family = {error.exit_code for error in errors.NodeError.__subclasses__()}
    assert set(map(int, rows)) == family | {0, 1, 130}


def test_every_reason_for_keeping_a_series_stands_in_the_operations_page() -> None:
    page = _text("docs/operations.md")
    assert [reason for reason in verdict.VerdictReason if f"`{reason.value}`" not in page] == []


def test_the_rooms_are_the_same_in_readme_and_architecture_contract() -> None:
    contract = tomllib.loads(_text("pyproject.toml"))["tool"]["importlinter"]["contracts"][0]
    rooms = {room.strip("() ") for layer in contract["layers"] for room in layer.split("|") if "(" not in room}
    table = _text("README.md").partition("## Rooms")[2].partition("\n## ")[0]
    named = {name.removesuffix(".py").removesuffix("/") for name in re.findall(r"`([\w./]+)`", table)}
    assert rooms - {"__main__"} <= named, rooms - named


@pytest.mark.parametrize(
    "page", sorted(str(path.relative_to(ROOT)) for path in [*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
)
def test_every_relative_link_leads_somewhere(page: str) -> None:
    for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", _text(page)):
        assert ((ROOT / page).parent / target).exists(), target


@pytest.mark.parametrize("card", [ThinCard, SRResNetCard])
def test_every_key_of_a_model_card_stands_in_the_models_page(card: type[BaseModel]) -> None:
    page = _text("docs/models.md")
    keys = set(card.model_fields) | set(DataRow.model_fields) | set(MetricRow.model_fields)
    keys |= set(ThinParameters.model_fields) | set(SRResNetParameters.model_fields)
    assert [key for key in keys if not re.search(rf"`[^`\n]*\b{key}\b[^`\n]*`", page)] == []


def test_the_decisions_are_numbered_without_a_gap() -> None:
    numbers = sorted(int(path.name[:4]) for path in (DOCS / "decisions").glob("*.md"))
    assert numbers == list(range(1, len(numbers) + 1))
