"""The models of the rules: what ``check`` says of them, and what a start and a reload demand of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

from dicomnode.catalog import ModelCatalog, has_choice, is_fast_default
from dicomnode.checks.row import CheckRow, Mark
from dicomnode.errors import ModelError, NodeError, SettingsError
from dicomnode.generators.base import no_sharpness
from dicomnode.generators.model_dir import ModelFacts
from dicomnode.ledger.queries import open_reader
from dicomnode.ledger.values import ImportedModel
from dicomnode.ledger.views import ModelChoice
from dicomnode.rules import model_wanted
from dicomnode.settings.models import Settings
from dicomnode.settings.rules import RuleSettings


def check_models(settings: Settings) -> Iterator[CheckRow]:
    """Verify the files of each model that a rule asks for; show the model that rules get that name none."""
    catalog = catalog_of(settings)
    names = {model_wanted(rule) or catalog.default: rule for rule in reversed(settings.rule)}
    for name in sorted(names):
        rule = names[name]
        try:
            facts = catalog.verified(name)
            for rule in (one for one in settings.rule if (model_wanted(one) or catalog.default) == name):
                _refuse_sharpness(rule, facts)
        except ModelError as exc:
            sentence = f"Rule {rule.name} asks for it: {exc.sentence}"
            yield CheckRow(what=f"model {name}", mark=Mark.FAIL, sentence=sentence, hint=exc.hint)
        else:
            lowest, highest = facts.ratios
            dial = "" if facts.sharpness is None else f" sharpness {facts.sharpness:g} unless a rule says otherwise,"
            sentence = f"Kind {facts.kind}, ratios {lowest}–{highest},{dial} digest {facts.digest}: verified."
            yield CheckRow(what=f"model {name}", mark=Mark.OK, sentence=sentence)
    active, last = _models_of_ledger(settings)
    if is_choice_made(settings) and has_choice(active):
        sentence = last.sentence if last else "The service chooses the default model when it has started."
        yield CheckRow(what="model speed", mark=Mark.WARN if last and last.is_fast else Mark.OK, sentence=sentence)


def known_models(settings: Settings, catalog: ModelCatalog) -> dict[str | None, ModelFacts]:
    """Return the facts of every model that a rule names, and of the default under None; all files are verified."""
    models: dict[str | None, ModelFacts] = {None: catalog.verified(None)}
    for rule in settings.rule:
        wanted = model_wanted(rule)
        try:
            if wanted not in models:
                models[wanted] = catalog.verified(wanted)
            _refuse_sharpness(rule, models[wanted])
        except ModelError as exc:
            name = wanted or models[None].name
            raise SettingsError(
                f"Rule {rule.name} asks for model {name}, which cannot be used: {exc.sentence}", hint=exc.hint
            ) from exc
    return models


def _refuse_sharpness(rule: RuleSettings, facts: ModelFacts) -> None:
    """Raise ModelError where a rule chooses between two sets of weights and the model has one."""
    if rule.sharpness is not None and facts.sharpness is None:
        raise no_sharpness(facts.name, rule.sharpness)


def catalog_of(settings: Settings) -> ModelCatalog:
    """Return the catalog of a node, whose service may or may not run now."""
    active, last = _models_of_ledger(settings)
    is_fast = is_fast_default(settings.work.model_speed, last)
    return ModelCatalog(lambda: active, settings.node.data.absolute(), is_fast=is_fast)


def is_choice_made(settings: Settings) -> bool:
    """Tell whether the service chooses the default model by the time that it takes on this machine."""
    work = settings.work
    return (
        work.model_speed == "auto"
        and work.executor == "local"
        and any(model_wanted(rule) is None for rule in settings.rule)
    )


def _models_of_ledger(settings: Settings) -> tuple[dict[str, ImportedModel], ModelChoice | None]:
    """Return the active models, and the default one that the last start chose.

    There are none if the ledger does not exist or cannot be read: another line of the sheet says so.
    """
    try:
        with closing(open_reader(settings.ledger_url)) as reader:
            return reader.active_models(), reader.model_choice()
    except NodeError:
        return {}, None
