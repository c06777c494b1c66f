"""The models that this node may use: those that came with it, and those that an operator imported.

A rule names a model. It gets the active imported model of that name, else the one that came with the node. The model
can change from one verdict to the next; a planned job keeps the digest that it was planned with. An imported model is
copied into the data folder, and its row is written last: there is no row without its files.

A rule that names no model gets ``thin``, or ``thin-fast`` where an operator or the measured time of ``thin`` on this
machine says so. A rule that names a model gets that one, whatever was measured.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from pathlib import Path

from dicomnode.errors import InputError, ModelError, StorageError
from dicomnode.generators import model_dir, pace
from dicomnode.generators.kinds import Kind, is_compared_only
from dicomnode.generators.model_dir import ModelFacts
from dicomnode.ledger.facades.models import Models
from dicomnode.ledger.states import ModelState
from dicomnode.ledger.values import ImportedModel, ModelId
from dicomnode.ledger.views import ModelChoice, ModelRow
from dicomnode.settings.cluster import ModelSpeed

ASK_THE_LIST = "`dicomnode model list` shows them with their digests."


class Origin(StrEnum):
    """The ways in which a model comes to this node."""

    SHIPPED = "shipped"  # with the package; ``cubic-dc`` among them
    IMPORTED = "imported"
    FOLDER = "folder"  # a model directory that somebody looks at; it is not a model of the node


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelLine:
    """A line of ``model list``."""

    name: str
    kind: str
    ratios: tuple[int, int]
    digest: str
    origin: Origin
    state: str | None  # None unless it was imported
    active: bool  # rules that name it get it
    default: bool  # rules that name no model get it
    imported_at: datetime | None
    id: int | None  # in the ledger; None unless it was imported


class NotChosenYet(Exception):
    """The default model is still being chosen by measuring; a verdict that needs it has to wait for some seconds."""


class ModelCatalog:
    """The models that rules get at each verdict. Used by one thread; ``choose`` may be called by another."""

    def __init__(self, active: Callable[[], Mapping[str, ImportedModel]], data: Path, *, is_fast: bool = False) -> None:
        """``is_fast``: rules that name no model get the fast one, where there is one."""
        self._active = active
        self._data = data
        self._is_fast = is_fast
        self._is_choosing = False
        self._why = ""  # why the fast model is the default, where this catalog chose it
        self._shipped: dict[str, ModelFacts] = {}  # verified once; the worker does it again before each job

    @property
    def default(self) -> str:
        """Return the name of the model that rules get that name none."""
        return model_dir.default_model(self._active(), is_fast=self._is_fast)

    def begin_choice(self) -> ModelFacts | None:
        """Return the model whose time on this machine decides the default. None: there is nothing to choose.

        From here to ``choose``, ``model_of`` raises NotChosenYet for rules that name no model. Raises ModelError where
        the files of one of the two are not whole.
        """
        if not has_choice(self._active()):
            return None
        self.verified(model_dir.FAST_DEFAULT)
        facts = self.verified(model_dir.LEARNED_DEFAULT)
        self._is_choosing = True
        return facts

    def choose(self, reference_s: float | None) -> ModelChoice:
        """Choose the default by the seconds of that model for the reference series; None: not timed, so it stays."""
        better, fast = model_dir.LEARNED_DEFAULT, model_dir.FAST_DEFAULT
        is_late = reference_s is not None and reference_s > pace.LATE_S
        if reference_s is None:
            sentence = f"Model {better} could not be timed; rules that name no model get it."
        elif is_late:
            sentence = (
                f"Model {better} would take {_spoken(reference_s)} for {pace.REFERENCE} on this machine, longer than "
                f"{_spoken(pace.LATE_S)}; rules that name no model get {fast}."
            )
        else:
            sentence = (
                f"Model {better} takes {_spoken(reference_s)} for {pace.REFERENCE} on this machine; rules that name no "
                "model get it."
            )
        self._why = sentence if is_late else ""
        self._is_fast, self._is_choosing = is_late, False  # last: from here on the other thread goes on
        return ModelChoice(is_fast=is_late, sentence=sentence)

    def model_of(self, name: str | None) -> ModelFacts:
        """Return the facts of the model that a rule with this ``model`` gets; None: a rule that names none.

        Raises ModelError where there is no such model, NotChosenYet while the default is being chosen by measuring.
        """
        if name is None and self._is_choosing:
            raise NotChosenYet
        active = self._active()
        default = model_dir.default_model(active, is_fast=self._is_fast)
        wanted = name or default
        why = self._why if name is None and wanted == model_dir.FAST_DEFAULT else ""
        imported = active.get(wanted)
        if imported is not None:
            return ModelFacts(
                name=imported.name, kind=_kind(imported), digest=imported.digest, ratios=imported.ratios,
                default=wanted == default, why=why,
            )  # fmt: skip
        if wanted not in self._shipped:
            facts = model_dir.model_facts(wanted)
            refuse_evaluate_only(facts)
            self._shipped[wanted] = facts
        return replace(self._shipped[wanted], default=wanted == default, why=why)

    def verified(self, name: str | None) -> ModelFacts:
        """Return the same facts, read from the model's files after all of them were compared with their digests."""
        known = self.model_of(name)
        facts, _ = model_dir.pinned_model(known.name, known.digest, self._data)
        return replace(facts, default=known.default, why=known.why)


def has_choice(active: Collection[str]) -> bool:
    """Tell whether rules that name no model get one of two. ``active``: names of the imported models that rules get."""
    names = (model_dir.LEARNED_DEFAULT, model_dir.FAST_DEFAULT)
    return tuple(model_dir.default_model(active, is_fast=is_fast) for is_fast in (False, True)) == names


def is_fast_default(speed: ModelSpeed, last: ModelChoice | None) -> bool:
    """Tell whether rules that name no model get the fast one. ``last``: the choice at the last start of the service."""
    return speed == "fast" or (speed == "auto" and last is not None and last.is_fast)


def refuse_evaluate_only(facts: ModelFacts) -> None:
    """Raise ModelError for a kind of model that is only for comparison, not for deriving for a PACS."""
    if is_compared_only(facts.kind):
        raise ModelError(
            f"Model {facts.name} is of the kind {facts.kind}, which is there for `dicomnode evaluate` only.",
            hint="Name a model of another kind.",
        )


def model_lines(imported: Sequence[ModelRow], *, is_fast: bool = False) -> list[ModelLine]:
    """List every model of the node: those that came with it, their files just verified, then the imported ones.

    ``is_fast``: rules that name no model get the fast one, where there is one.
    """
    active = {row.name for row in imported if row.state == ModelState.ACTIVE}
    default = model_dir.default_model(active, is_fast=is_fast)
    lines = []
    for name in model_dir.model_names():
        facts = model_dir.model_facts(name)
        is_active = name not in active and not is_compared_only(facts.kind)
        lines.append(_line(facts, Origin.SHIPPED, active=is_active, default=is_active and name == default))
    for row in imported:
        is_active = row.state == ModelState.ACTIVE
        lines.append(
            ModelLine(
                name=row.name, kind=row.kind, ratios=row.ratios, digest=row.digest, origin=Origin.IMPORTED,
                state=row.state, active=is_active, default=is_active and row.name == default,
                imported_at=row.imported_at, id=row.id,
            )
        )  # fmt: skip
    return lines


def find_model(lines: Sequence[ModelLine], wanted: str) -> ModelLine:
    """Find the model for ``NAME``, ``NAME@DIGEST-PREFIX`` or a folder; among several of one name, the active one.

    Raises ModelError where none or more than one fits.
    """
    if "/" in wanted:
        return _line(model_dir.model_facts(Path(wanted)), Origin.FOLDER, active=False, default=False)
    name, at, prefix = wanted.partition("@")
    named = [line for line in lines if line.name == name]
    if not named:
        known = ", ".join(dict.fromkeys(line.name for line in lines))
        raise ModelError(f"There is no model named {name}.", hint=f"Use one of {known}, or the path of a folder.")
    meant = [line for line in named if line.digest.startswith(prefix)] if at else named
    if not at:
        meant = [line for line in named if line.active] or named
    # A model that came with the node may be imported as well: the very same model, twice in the catalog.
    if len(digests := {line.digest for line in meant}) != 1:
        raise _not_one(wanted, len(digests), [line.digest for line in named])
    return max(meant, key=lambda line: line.active)


def find_imported(rows: Sequence[ModelRow], wanted: str) -> ModelRow:
    """Find the imported model for ``NAME`` or ``NAME@DIGEST-PREFIX``. Raises ModelError where not exactly one fits."""
    name, _, prefix = wanted.partition("@")
    named = [row for row in rows if row.name == name]
    if not named:
        hint = "`dicomnode model import DIR` comes first."
        if name in model_dir.model_names():
            hint += f" What came with the node is what rules get until then; `model rollback {name}` goes back to it."
        raise ModelError(f"No model named {name} was imported.", hint=hint)
    meant = [row for row in named if row.digest.startswith(prefix)]
    if len(meant) != 1:
        raise _not_one(wanted, len(meant), [row.digest for row in named])
    return meant[0]


def folder_of(line: ModelLine, data: Path, wanted: str) -> Path | None:
    """Return the directory of a model; None for one without weights."""
    match line.origin:
        case Origin.FOLDER:
            return Path(wanted)
        case Origin.IMPORTED:
            return model_dir.imported_folder(data, line.name, line.digest)
        case Origin.SHIPPED:
            return model_dir.shipped_models().get(line.name)


def import_model(folder: Path, *, data: Path, models: Models, by: str) -> tuple[ImportedModel, bool]:
    """Verify a model directory, load its weights once, copy it and write its row; False: it was imported before.

    Importing it again puts its files back where they were altered or lost. It is not active. Raises ModelError for
    what is no whole model of a kind that rules may use, StorageError where the copy cannot be kept.
    """
    facts = model_dir.model_facts(folder)
    if facts.name == Kind.CUBIC_DC:
        raise ModelError(f"The name {facts.name} is taken by a method that needs no weights; nothing was imported.")
    refuse_evaluate_only(facts)
    model_dir.load_generator(folder)  # raises where the weights do not fit the network that the card describes
    target = model_dir.imported_folder(data, facts.name, facts.digest)
    try:
        if not _is_whole(target, facts.digest):
            copied = model_dir.copy_model(folder, target)
            if copied != facts.digest:
                raise ModelError(f"The files of {folder} changed while they were copied; nothing was imported.")
    except OSError as exc:
        raise StorageError(
            f"Model {facts.name} could not be copied to {target}: {exc.strerror}; nothing was imported.",
            hint="Run the command as the node's user, and see that there is room on the disk.",
        ) from exc
    imported = ImportedModel(name=facts.name, digest=facts.digest, kind=facts.kind, ratios=facts.ratios)
    number, is_new = models.take_in(imported, by)
    return replace(imported, id=number), is_new


def activate(row: ModelRow, *, data: Path, models: Models, by: str) -> bool:
    """Compare the model's files, then let rules get it from the next verdict on. False: it was active already."""
    model_dir.pinned_model(row.name, row.digest, data)
    return models.activate(ModelId(row.id), by)


def roll_back(name: str, *, rules: Sequence[str], data: Path, models: Models, by: str) -> ModelFacts | None:
    """Undo the last activation of a name; return the model that rules get now, None: no model of that name is left.

    Its files are compared first. ``rules``: the rules that name this model. Raises InputError where they would be left
    without one.
    """
    to, facts = models.before_active(name), None
    if to is not None:
        facts, _ = model_dir.pinned_model(to.name, to.digest, data)
    elif name in model_dir.shipped_models():
        facts = model_dir.model_facts(name)
    elif rules and name in models.active():
        raise InputError(
            f"Rule {rules[0]} asks for model {name}, and no other of that name would be left; nothing was rolled back.",
            hint="Import and activate another model of that name, or let the rule name another.",
        )
    models.roll_back(name, by, to=to.id if to else None)
    return facts


def _not_one(wanted: str, meant: int, digests: Sequence[str]) -> ModelError:
    name = wanted.partition("@")[0]
    there = ", ".join(f"{name}@{digest[: model_dir.DIGEST_DIGITS]}" for digest in dict.fromkeys(digests))
    how_many = f"{meant} models" if meant else "no model"
    return ModelError(f"{wanted} means {how_many}; of that name there are {there}.", hint=ASK_THE_LIST)


def _is_whole(folder: Path, digest: str) -> bool:
    if not folder.is_dir():
        return False
    try:
        return model_dir.verify(folder) == digest
    except ModelError:
        return False


def _kind(imported: ImportedModel) -> Kind:
    try:
        return Kind(imported.kind)
    except ValueError as exc:
        raise ModelError(
            f"Model {imported.name} is of the kind {imported.kind}, which this version does not know.",
            hint="Install the newer dicomnode again, or `dicomnode model rollback`.",
        ) from exc


def _spoken(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.1f} min"


def _line(facts: ModelFacts, origin: Origin, *, active: bool, default: bool) -> ModelLine:
    return ModelLine(
        name=facts.name, kind=facts.kind, ratios=facts.ratios, digest=facts.digest, origin=origin, state=None,
        active=active, default=default, imported_at=None, id=None,
    )  # fmt: skip
