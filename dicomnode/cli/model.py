"""``dicomnode model`` lists, verifies and imports models, and chooses the one that rules get under a name."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dicomnode.cli import output
from dicomnode.cli.options import config_option, json_option, load_settings, operator, writer

if TYPE_CHECKING:
    from dicomnode.catalog import ModelLine
    from dicomnode.generators.card import Card
    from dicomnode.ledger.views import EventLine, ModelChoice, ModelRow
    from dicomnode.settings.models import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """The output of ``model show``. A model without weights has no card; one that was not imported has no events."""

    model: ModelLine
    card: Card | None
    events: tuple[EventLine, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed:
    """The output of ``import``, ``activate`` and ``rollback``. After a rollback to no model there is no digest."""

    name: str
    digest: str | None
    changed: bool  # False: the model was in that state already
    done: str


@click.group(short_help="List, verify and import models; choose which one rules get.")
def model() -> None:
    """List, verify and import models, and choose the one that rules get under a name."""


@model.command("list", short_help="List the models, and which one rules get.")
@config_option
@json_option
def list_models(config: Path | None, as_json: bool) -> None:
    """List the models that came with the node and those that were imported.

    A rule that names a model gets the active one of that name.
    """
    lines = _lines(load_settings(config))
    columns = {name: name for name in ("name", "kind", "ratios", "digest", "origin", "active", "default")}
    output.print_rows(lines, columns, as_json=as_json, none="No models.")


@model.command(short_help="Show the card of a model.")
@click.argument("name", metavar="NAME[@DIGEST]")
@config_option
@json_option
def show(name: str, config: Path | None, as_json: bool) -> None:
    """Show the card of a model: parameters, data, licence, intended use, where it fails, and metrics.

    NAME is a name that `model list` shows, with the first digits of a digest if several have it, or the path of a model
    directory.
    """
    settings = load_settings(config)
    from dicomnode import catalog
    from dicomnode.generators import model_dir

    line = catalog.find_model(_lines(settings), name)
    folder = catalog.folder_of(line, settings.node.data.absolute(), name)
    card = model_dir.read_card(folder) if folder else None
    output.print_facts(Shown(model=line, card=card, events=_history(settings, line)), as_json=as_json)


@model.command(short_help="Compare the files of a model with their digests.")
@click.argument("name", metavar="NAME[@DIGEST]")
@config_option
@json_option
def verify(name: str, config: Path | None, as_json: bool) -> None:
    """Compare every file of a model with its digest.

    If a file differs, the command names the first one and ends with exit code 2.

    NAME is a name that `model list` shows, or the path of a model directory.
    """
    settings = load_settings(config)
    from dicomnode import catalog
    from dicomnode.generators import model_dir

    line = catalog.find_model(_lines(settings), name)
    if line.origin is catalog.Origin.IMPORTED:
        model_dir.pinned_model(line.name, line.digest, settings.node.data.absolute())
    output.print_facts(line, as_json=as_json)


@model.command("import", short_help="Copy a model directory into the data folder.")
@click.argument("folder", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))
@config_option
@json_option
def import_model(folder: Path, config: Path | None, as_json: bool) -> None:
    """Verify the model directory DIR, load its weights once, and copy it into the data folder.

    No rule gets the model until `model activate`.
    """
    settings = load_settings(config)
    from dicomnode import catalog

    with writer(config) as ledger:
        imported, is_new = catalog.import_model(
            folder, data=settings.node.data.absolute(), models=ledger.models, by=operator()
        )
    done = "is imported; it is not active yet" if is_new else "was imported before; its files are whole"
    _print_changed(imported.name, imported.digest, is_new, done, as_json=as_json)


@model.command(short_help="Let rules use an imported model.")
@click.argument("name", metavar="NAME[@DIGEST]")
@config_option
@json_option
def activate(name: str, config: Path | None, as_json: bool) -> None:
    """Let rules that name NAME use this imported model, from the next verdict on.

    Jobs that are planned already keep their model.
    """
    settings = load_settings(config)
    from dicomnode import catalog

    with writer(config) as ledger:
        row = catalog.find_imported(_imported(settings), name)
        is_new = catalog.activate(row, data=settings.node.data.absolute(), models=ledger.models, by=operator())
    done = "is what rules get under this name from now on" if is_new else "was active already"
    _print_changed(row.name, row.digest, is_new, done, as_json=as_json)


@model.command(short_help="Go back to the model that was active before.")
@click.argument("name")
@config_option
@json_option
def rollback(name: str, config: Path | None, as_json: bool) -> None:
    """Let rules that name NAME use the imported model that was active before this one.

    After the first imported model, they use the one that came with the node.
    """
    settings = load_settings(config)
    from dicomnode import catalog

    with writer(config) as ledger:
        facts = catalog.roll_back(
            name,
            rules=[rule.name for rule in settings.rule if rule.model == name],
            data=settings.node.data.absolute(),
            models=ledger.models,
            by=operator(),
        )
    done = "is what rules get under this name again" if facts else "is not known any more: no other is active"
    _print_changed(name, facts.digest if facts else None, True, done, as_json=as_json)


def _lines(settings: Settings) -> list[ModelLine]:
    from dicomnode.catalog import is_fast_default, model_lines

    imported, last = _of_ledger(settings)
    return model_lines(imported, is_fast=is_fast_default(settings.work.model_speed, last))


def _imported(settings: Settings) -> list[ModelRow]:
    return _of_ledger(settings)[0]


def _of_ledger(settings: Settings) -> tuple[list[ModelRow], ModelChoice | None]:
    """Read the imported models, and the default one that the last start chose; none if there is no ledger yet."""
    from dicomnode.ledger.engine import ledger_path
    from dicomnode.ledger.queries import open_reader

    if not ledger_path(settings.ledger_url).is_file():
        return [], None
    with closing(open_reader(settings.ledger_url)) as reader:
        return reader.imported_models(), reader.model_choice()


def _history(settings: Settings, line: ModelLine) -> tuple[EventLine, ...]:
    from dicomnode.ledger.queries import open_reader

    if line.id is None:
        return ()
    with closing(open_reader(settings.ledger_url)) as reader:
        return reader.model_history(line.id)


def _print_changed(name: str, digest: str | None, changed: bool, done: str, *, as_json: bool) -> None:
    if as_json:
        output.print_facts(Changed(name=name, digest=digest, changed=changed, done=done), as_json=True)
    else:
        output.say(f"Model {name}{f' ({digest})' if digest else ''} {done}.")
