"""``dicomnode train`` trains a model on archived studies and writes a verified model directory."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import click

from dicomnode.cli import output
from dicomnode.cli.options import (
    all_options_but,
    config_option,
    device_option,
    features_file_option,
    features_sha256_option,
    json_option,
    refuse_given,
)
from dicomnode.cli.several import SeveralValues
from dicomnode.cli.studies import from_option, inventory_option, pull_first, studies_option, study_folders
from dicomnode.errors import InputError

if TYPE_CHECKING:
    from trainer.training.loop import Line
    from trainer.training.prepare import Request

INTERRUPTED = 130
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command(cls=SeveralValues, short_help="Train a model on archived studies.")
@studies_option
@from_option
@inventory_option
@click.option(
    "--validate",
    metavar="DIR…",
    multiple=True,
    type=FOLDER,
    help="Judge on the series in these folders; never train on them. Default: a fifth of the people, drawn at random.",
)
@click.option(
    "--recipe",
    metavar="NAME|FILE",
    default="thin",
    show_default=True,
    help="Train by the recipe of this name, or by a TOML file.",
)
@click.option(
    "--out",
    metavar="RUN",
    type=FOLDER,
    help="Write the run and its models into RUN, a new or empty folder. Required unless --dry-run is given.",
)
@click.option(
    "--steps",
    metavar="N[,N]",
    default="",
    help="Train for N steps in all, or for the given steps of each stage. Default: the recipe's steps.",
)
@click.option(
    "--minutes",
    metavar="M",
    type=click.FloatRange(min=0.1),
    help="Time each stage, then train for as many steps as take M minutes. Default: as --steps says.",
)
@click.option(
    "--pairs",
    type=click.Choice(["simulated", "real", "both"]),
    default="simulated",
    show_default=True,
    help="Learn from thick slices that are averaged from thin ones, from real pairs of a thick and a thin series, or "
    "from both.",
)
@click.option(
    "--pairing",
    type=click.Choice(["monotone", "paper"]),
    default="monotone",
    show_default=True,
    help="Pair real slices by position along the normal and within a limit, or by the rule of the paper.",
)
@click.option(
    "--allow-contrast",
    is_flag=True,
    help="Also pair series whose contrast differs; do not serve the model. Default: refuse such pairs.",
)
@click.option(
    "--in-plane",
    is_flag=True,
    help="Also learn from the rows and columns of thick series. Default: from thin slices only.",
)
@click.option(
    "--begin-with",
    metavar="NAME|DIR",
    help="Begin the first stage with the weights of this model. Default: random weights.",
)
@click.option(
    "--features",
    metavar="SPEC",
    help="Take the content loss at this layer, such as vgg19:relu3_4. Default: the layer of the recipe.",
)
@features_file_option
@features_sha256_option
@click.option("--name", help="Give the model this name on its card. Default: the name of the recipe.")
@click.option(
    "--licence", help="State this licence on the card. Default: what the licences of the training data allow."
)
@click.option(
    "--sharpness",
    metavar="SHARE",
    type=click.FloatRange(0.0, 1.0),
    default=None,
    help="State this default sharpness, 0 to 1, on the card of a model with two sets of weights, which an adversarial "
    "stage makes. Default: 0. `dicomnode evaluate --sharpness` says which is fit; --resume then states it.",
)
@device_option
@click.option(
    "--threads", metavar="N", type=click.IntRange(min=1), help="Use N threads of a CPU. Default: all of them."
)
@click.option(
    "--loaders",
    metavar="N",
    type=click.IntRange(min=1),
    help="Make the batches in N processes. Default: 1 for a CPU; for a GPU as many as there are processors less one.",
)
@click.option(
    "--seed",
    metavar="N",
    type=click.IntRange(min=0),
    default=1,
    show_default=True,
    help="Draw the split, the samples and the first weights with this seed.",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Only show what would be trained on and what would be left out and why; write nothing. Default: train.",
)
@click.option(
    "--plan-only", is_flag=True, help="Only write RUN/plan.json, for `python -m trainer RUN`. Default: also train."
)
@click.option("--tensorboard", is_flag=True, help="Also write RUN/board for TensorBoard. Default: do not.")
@click.option(
    "--resume", is_flag=True, help="Continue the run in --out with the plan that it has. Default: begin a new run."
)
@config_option
@json_option
def train(
    studies: tuple[str, ...], from_peer: str | None, inventory: Path | None, validate: tuple[Path, ...],
    recipe: str, out: Path | None,
    steps: str, minutes: float | None, pairs: str, pairing: str, allow_contrast: bool, in_plane: bool,
    begin_with: str | None, features: str | None, features_file: Path | None, features_sha256: str | None,
    name: str | None, licence: str | None, sharpness: float | None, device: str, threads: int | None,
    loaders: int | None, seed: int, dry_run: bool, plan_only: bool, tensorboard: bool, resume: bool,
    config: Path | None, as_json: bool,
) -> int:  # fmt: skip
    """Find thin series, or pairs of thick and thin series, in studies, and train a model on them.

    Ctrl-C stops after the current step, and --resume continues: the result is the same, bit for bit.
    """
    _refuse_without_effect(resume=resume, dry_run=dry_run, plan_only=plan_only, pairs=pairs)
    _refuse_without_trainer()
    from trainer.training import handoff
    from trainer.training import plan as plans
    from trainer.training import recipe as recipes

    if licence == "":
        raise InputError("The licence is empty; nothing was trained.", hint="Leave out --licence, or say one.")
    if resume:
        if out is None:
            raise InputError("No run was named to go on with.", hint="Name its folder with --out.")
        begun = plans.read(out).recipe
        handoff.refuse_name(begun, name)
        handoff.refuse_sharpness(begun, sharpness)
        return _go_on(out, device, threads, loaders, name, licence, sharpness, tensorboard=tensorboard, as_json=as_json)
    if not studies:
        raise InputError("No studies were named.", hint="Name folders with --studies.")
    chosen = recipes.load(recipe)
    handoff.refuse_name(chosen, name)
    handoff.refuse_sharpness(chosen, sharpness)
    from trainer.data.pairs import Pairing
    from trainer.training.plan import PairKind
    from trainer.training.prepare import Request

    if from_peer is not None:
        pull_first(studies, from_peer, config)
    request = Request(
        studies=tuple(study_folders(studies, config)), inventory=inventory, validate=validate, recipe=recipe,
        steps=_numbers(steps), minutes=minutes, seed=seed, pairs=PairKind(pairs), pairing=Pairing(pairing),
        allow_contrast=allow_contrast, in_plane=in_plane, begin_with=begin_with, features=features,
        features_file=features_file, features_sha256=features_sha256,
    )  # fmt: skip
    if dry_run:
        _show(request, device, as_json=as_json)
        return 0
    if out is None:
        raise InputError("No folder was named for the run.", hint="Name one with --out.")
    _plan(request, out, device, threads)
    try:
        if plan_only:
            _look_at_pixels(out)
            return 0
        return _go_on(out, device, threads, loaders, name, licence, sharpness, tensorboard=tensorboard, as_json=as_json)
    except InputError:  # a fault that only the pixels show
        plans.withdraw(out)
        raise


def _refuse_without_effect(*, resume: bool, dry_run: bool, plan_only: bool, pairs: str) -> None:
    """Refuse options that would have no effect in this run, before any file is read."""
    if resume:
        kept = (
            "resume",
            "out",
            "device",
            "threads",
            "loaders",
            "name",
            "licence",
            "sharpness",
            "tensorboard",
            "as_json",
        )
        why = "on a run that has begun: its plan holds what it was begun with; nothing was trained"
        refuse_given(all_options_but(*kept), why, "Leave it out, or begin a new run without --resume.")
        return
    if dry_run:
        refuse_given({"plan_only"}, "with --dry-run, which writes nothing", "Give one of the two.")
        return
    if plan_only:
        why = "with --plan-only, which makes no model; nothing was written"
        refuse_given(
            {"name", "licence", "sharpness", "loaders", "tensorboard", "as_json"},
            why,
            "Give it with --resume, which makes the model.",
        )
    if click.get_current_context().params["minutes"] is not None:
        refuse_given({"steps"}, "beside --minutes, which decides how many there are", "Give one of the two.")
    if pairs == "simulated":
        why = "on simulated pairs, which are made of one series each"
        refuse_given({"pairing", "allow_contrast"}, why, "Leave it out, or take --pairs real or both.")
    if pairs == "real":
        why = "with --pairs real: slices of a thick series have no real partner"
        refuse_given({"in_plane"}, why, "Leave it out, or take --pairs simulated or both.")


def _refuse_without_trainer() -> None:
    try:
        import trainer.training.prepare  # noqa: F401 (seconds; and whole only with the extra)
    except ModuleNotFoundError as exc:
        raise InputError(
            f"To train, the package {exc.name} is needed, which is not installed.",
            hint="Install the extra: pip install 'dicomnode[train]'.",
        ) from exc


def _numbers(text: str) -> tuple[int, ...]:
    if not text:
        return ()
    words = text.split(",")
    if not all(word.strip().isdecimal() for word in words) or not any(map(int, words)):
        raise InputError(
            f"--steps {text} is not understood.", hint="A number of steps, or several with commas between."
        )
    return tuple(map(int, words))


def _show(request: Request, device: str, *, as_json: bool) -> None:
    from dicomnode.generators.device import choose_device
    from trainer.data.survey import dry_run_lines
    from trainer.training.prepare import dry_run

    choose_device(device)
    told = dry_run(request)
    if as_json:
        output.print_json(told)
    else:
        output.say_lines("\n".join(dry_run_lines(told)))


def _plan(request: Request, out: Path, device: str, threads: int | None) -> None:
    import torch

    from dicomnode.generators.device import choose_device
    from trainer.training import plan as plans
    from trainer.training.prepare import prepare

    if threads is not None:
        torch.set_num_threads(threads)
    plans.refuse_used(out)
    plans.write(prepare(request, choose_device(device), report=_say), out)


def _look_at_pixels(run: Path) -> None:
    """Load features and training data once, so that the planned run does not fail for the lack of them later."""
    from trainer.data.sources import Split
    from trainer.training import batches, loop
    from trainer.training import plan as plans

    plan = plans.read(run)
    loop.check_features(plan)
    batches.load_material(plan, Split.TRAIN)


def _go_on(
    run: Path,
    device: str,
    threads: int | None,
    loaders: int | None,
    name: str | None,
    licence: str | None,
    sharpness: float | None,
    *,
    tensorboard: bool,
    as_json: bool,
) -> int:
    import torch

    from dicomnode.generators.device import choose_device
    from trainer.training import handoff, loop

    if threads is not None:
        torch.set_num_threads(threads)
    with ExitStack() as stack:
        shown = [stack.enter_context(_shown(quiet=as_json))]
        if tensorboard:
            from trainer.training.curves import tensorboard_curves

            shown.append(stack.enter_context(tensorboard_curves(run)))
        stop = stack.enter_context(_stop_on_interrupt())

        def report(line: Line) -> None:
            for show in shown:
                show(line)

        is_done = loop.train(run, report=report, stop=stop, device=choose_device(device), loaders=loaders)
    if not is_done:
        output.say(f"Interrupted; `dicomnode train --resume --out {run}` goes on.", err=True)
        return INTERRUPTED
    models = handoff.write_models(run, name=name, licence=licence, sharpness=sharpness, report=_say)
    if as_json:
        output.print_json(models)
    else:
        output.print_rows(models, {"name": "name", "folder": "folder", "digest": "digest"}, as_json=False, none="")
    return 0


@contextmanager
def _stop_on_interrupt() -> Iterator[Callable[[], bool]]:
    """Let the first Ctrl-C stop the run after the current step, and the second one end the program."""
    asked: list[int] = []
    before = signal.getsignal(signal.SIGINT)

    def ask(number: int, _frame: FrameType | None) -> None:
        asked.append(number)
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, ask)
    try:
        yield lambda: bool(asked)
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _shown(*, quiet: bool) -> Iterator[Callable[[Line], None]]:
    """Show progress as a bar on a terminal and as plain lines elsewhere."""
    import sys

    if quiet:
        yield lambda _line: None
    elif sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import Progress

        with Progress(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("begins", total=1.0)

            def update(line: Line) -> None:
                bar.update(task, description=_words(line), completed=line.step, total=line.steps)

            yield update
    else:
        yield lambda line: _say(f"{line.step} of {line.steps}: {_words(line)}")


def _words(line: Line) -> str:
    words = [line.stage, f"loss {line.loss:.4g}"]
    if line.validation_psnr is not None:
        words.append(f"validation {line.validation_psnr:.2f} dB")
    if line.accuracy is not None:
        words.append(f"discriminator right in {line.accuracy:.0%}")
    minutes = line.seconds_left / 60
    return ", ".join([*words, f"{line.images_per_s:.1f} patches/s", f"{minutes:.0f} min left"])


def _say(line: str) -> None:
    output.say(line, err=True)
