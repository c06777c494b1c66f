"""``dicomnode model list|show|verify``: which models there are, what they say of themselves, and are they whole?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from dicomnode.cli import output
from dicomnode.cli.options import json_option

if TYPE_CHECKING:
    from dicomnode.generators.card import Card
    from dicomnode.generators.model_dir import ModelFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What ``model show`` prints; a model without weights has no card."""

    model: ModelFacts
    card: Card | None


@click.group(short_help="The models, and whether they are whole.")
def model() -> None:
    """The models that came with the node."""


@model.command("list")
@json_option
def list_models(as_json: bool) -> None:
    """List the models a rule may name."""
    from dicomnode.generators import model_dir

    facts = [model_dir.model_facts(name) for name in model_dir.model_names()]
    columns = {"name": "name", "kind": "kind", "ratios": "ratios", "digest": "digest", "default": "default"}
    output.print_rows(facts, columns, as_json=as_json, none="No models.")


@model.command()
@click.argument("name")
@json_option
def show(name: str, as_json: bool) -> None:
    """Show the card of model NAME: parameters, data, licence, intended use, where it fails, metrics."""
    from dicomnode.generators import model_dir

    facts = model_dir.model_facts(name)
    folder = model_dir.shipped_models().get(name)
    output.print_facts(Shown(model=facts, card=model_dir.read_card(folder) if folder else None), as_json=as_json)


@model.command()
@click.argument("name")
@json_option
def verify(name: str, as_json: bool) -> None:
    """Compare every file of model NAME with its digest."""
    from dicomnode.generators import model_dir

    output.print_facts(model_dir.model_facts(name), as_json=as_json)
