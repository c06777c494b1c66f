"""``dicomnode evaluate`` measures how near methods come to the truth on studies that no model was trained on."""

from __future__ import annotations

from pathlib import Path
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
    kept,
    new_folder,
    refuse_given,
)
from dicomnode.cli.several import SeveralValues
from dicomnode.cli.studies import inventory_option, studies_option, study_folders
from dicomnode.errors import InputError

if TYPE_CHECKING:
    from trainer.features import Features
    from trainer.judging.cases import Selection
    from trainer.judging.evaluate import Request
    from trainer.judging.perception import Distance

UNDONE = "nothing was judged"
STUDY_TITLE = "Image quality of reformatted MR series"  # names no method: readers see it
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
NEW_FILE = click.Path(dir_okay=False, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command(cls=SeveralValues, short_help="Measure models on studies whose truth is known.")
@studies_option
@inventory_option
@click.option(
    "--model",
    "models",
    metavar="NAME|DIR…",
    multiple=True,
    help="Judge these models: names that came with the node, or model directories. Default: the interpolations alone.",
)
@click.option(
    "--sharpness",
    metavar="S,S",
    default=None,
    help="Judge models with two sets of weights at these sharpnesses, 0 to 1; with 0 among them the report says which "
    "is fit to be the default. Default: the sharpness of each card.",
)
@click.option(
    "--out",
    metavar="FOLDER",
    type=FOLDER,
    help="Write report.json and report.html into FOLDER, which is new or empty. Default: print the tables only.",
)
@click.option(
    "--subjects", metavar="WORD…", multiple=True, help="Judge only on these subjects or labels. Default: on all."
)
@click.option(
    "--planes",
    metavar="N,N",
    default="0,1,2",
    show_default=True,
    help="Take thick slices along these axes: 0 across the slices, 1 rows, 2 columns.",
)
@click.option(
    "--ratios", metavar="N,N", default="3,4,5", show_default=True, help="Make so many thin slices of each thick one."
)
@click.option(
    "--nominal",
    is_flag=True,
    help="Leave out cases whose true slice profile is not the box that methods assume. Default: judge on these too.",
)
@click.option(
    "--paper-table",
    is_flag=True,
    help="Also judge slice by slice, as Table 1 of the paper does. Default: whole volumes only.",
)
@click.option(
    "--slices-only",
    is_flag=True,
    help="Judge slice by slice only, which takes minutes without a GPU. Default: whole volumes.",
)
@click.option(
    "--allow-contrast",
    is_flag=True,
    help="Judge slice by slice also on real pairs whose contrast differs. Default: leave these out.",
)
@click.option(
    "--probes",
    is_flag=True,
    help="Also judge on a constant, a ramp, noise, and lesions that are put into a head. Default: do not.",
)
@click.option(
    "--features",
    metavar="SPEC",
    help="Also compute the distance of features at this layer, such as vgg19:relu3_4. Default: do not.",
)
@features_file_option
@features_sha256_option
@click.option(
    "--perceptual-file",
    metavar="FILE",
    type=FILE,
    help="Also compute LPIPS and DISTS with the weights in this safetensors file. Default: do not.",
)
@click.option(
    "--perceptual-sha256",
    metavar="HEX",
    help="Refuse the perceptual file unless its SHA-256 is HEX. Required with the file.",
)
@click.option(
    "--figure-style",
    type=click.Choice(["one-window", "paper"]),
    default="one-window",
    show_default=True,
    help="Draw all panels of a figure in one window, or stretch each panel by itself as the paper does.",
)
@click.option(
    "--reader-study",
    metavar="PAGE.html",
    type=NEW_FILE,
    help="Write a page for blinded readers and its key instead of a report. Default: judge and report.",
)
@click.option(
    "--reader-scores",
    metavar="FILE…",
    multiple=True,
    type=FILE,
    help="Only print the scores in these answer files of readers. The key, PAGE.html.key.json, is one of the files or "
    "lies beside them. Default: judge and report.",
)
@device_option
@click.option(
    "--seed",
    metavar="N",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Draw the bootstrap and the order of the reader study with this seed.",
)
@config_option
@json_option
def evaluate(
    studies: tuple[str, ...], inventory: Path | None, models: tuple[str, ...], sharpness: str | None, out: Path | None,
    subjects: tuple[str, ...], planes: str, ratios: str, nominal: bool, paper_table: bool, slices_only: bool,
    allow_contrast: bool, probes: bool, features: str | None, features_file: Path | None, features_sha256: str | None,
    perceptual_file: Path | None, perceptual_sha256: str | None, figure_style: str, reader_study: Path | None,
    reader_scores: tuple[Path, ...], device: str, seed: int, config: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Measure models beside nearest, linear, cubic and cubic-dc on volumes whose thin slices are known.

    With --reader-study the command writes a page for blinded readers instead; with --reader-scores it counts their
    answers.
    """
    _refuse_without_effect(
        scores=bool(reader_scores), study=reader_study is not None, table_only=slices_only,
        table=paper_table or slices_only, writes=out is not None,
    )  # fmt: skip
    if reader_scores:
        _print_scores(reader_scores, as_json=as_json)
        return
    if not studies:
        raise InputError("No studies were named.", hint="Name folders with --studies.")
    if out is not None:
        new_folder(out, UNDONE)
    _refuse_without_trainer()
    from trainer.judging.evaluate import Request
    from trainer.judging.figures import FigureStyle

    request = Request(
        studies=tuple(study_folders(studies, config)), inventory=inventory, models=models,
        sharpness=_shares(sharpness),
        selection=_selection(planes, ratios, subjects, nominal=nominal), device=device,
        features=_features(features, features_file, features_sha256),
        perceptual=_perceptual(perceptual_file, perceptual_sha256),
        with_paper_table=paper_table or slices_only, with_volumes=not slices_only, allow_contrast=allow_contrast,
        with_probes=probes, style=FigureStyle(figure_style), seed=seed,
    )  # fmt: skip
    if reader_study is not None:
        _write_study(request, reader_study)
    else:
        _judge(request, out, as_json=as_json)


def _refuse_without_effect(*, scores: bool, study: bool, table_only: bool, table: bool, writes: bool) -> None:
    """Refuse options that would have no effect in this run, before any file is read."""
    leave_out = "Leave it out."
    if scores:
        refuse_given(all_options_but("reader_scores", "as_json"), "with --reader-scores", leave_out)
        return
    if study:
        kept = ("studies", "inventory", "models", "subjects", "ratios", "reader_study", "device", "seed", "config")
        refuse_given(all_options_but(*kept), "with --reader-study, which writes its page alone", leave_out)
        return
    if table_only:
        whole = {"planes", "nominal", "probes", "features", "features_file", "features_sha256", "seed"}
        whole |= {"perceptual_file", "perceptual_sha256"}
        refuse_given(whole, "with --slices-only, which judges no whole volumes", leave_out)
    if not table:
        hint = "Leave it out, or give --paper-table or --slices-only."
        refuse_given({"allow_contrast"}, "without the paper's table, which alone has real pairs", hint)
    if not writes:
        refuse_given(
            {"figure_style"}, "without --out, which the figures are written to", "Leave it out, or give --out."
        )


def _refuse_without_trainer() -> None:
    try:
        import trainer.judging.report  # noqa: F401 (seconds; and whole only with the extra)
    except ModuleNotFoundError as exc:
        raise InputError(
            f"To judge models the package {exc.name} is needed, which is not installed.",
            hint="Install the extra: pip install 'dicomnode[train]'.",
        ) from exc


def _selection(planes: str, ratios: str, subjects: tuple[str, ...], *, nominal: bool) -> Selection:
    from dicomnode.imaging.profile import RATIO_LIMITS
    from trainer.judging.cases import PLANES, Selection

    lowest, highest = RATIO_LIMITS
    return Selection(
        planes=_numbers("planes", planes, range(len(PLANES))),
        ratios=_numbers("ratios", ratios, range(lowest, highest + 1)),
        subjects=subjects,
        mismatches=not nominal,
    )


def _shares(text: str | None) -> tuple[float, ...]:
    """Parse ``0,0.35,0.5``."""
    try:
        shares = tuple(dict.fromkeys(float(word) for word in text.split(","))) if text is not None else ()
    except ValueError:
        shares = (-1.0,)
    if not all(0.0 <= share <= 1.0 for share in shares):
        raise InputError(f"--sharpness {text} is not understood.", hint="Numbers from 0 to 1 with commas between.")
    return shares


def _features(spec: str | None, file: Path | None, sha256: str | None) -> Features | None:
    if spec is None:
        if file is not None or sha256 is not None:
            raise InputError("A features file was given, but no --features to say which layer.")
        return None
    from trainer import features

    return features.load(spec, file=file, sha256=sha256)


def _perceptual(file: Path | None, sha256: str | None) -> dict[str, Distance]:
    if file is None:
        if sha256 is not None:
            raise InputError("The sha256 of a file for LPIPS and DISTS was given, but no file.")
        return {}
    from trainer.judging import perceptual

    return perceptual.load(file, sha256)


def _numbers(option: str, text: str, allowed: range) -> tuple[int, ...]:
    """Parse ``3,4,5``. Raises InputError, which names the allowed numbers."""
    numbers = tuple(dict.fromkeys(int(word) if word.strip().isdecimal() else -1 for word in text.split(",")))
    if not all(number in allowed for number in numbers):
        raise InputError(
            f"--{option} {text} is not understood.",
            hint=f"Numbers from {allowed.start} to {allowed.stop - 1} with commas between.",
        )
    return numbers


def _judge(request: Request, out: Path | None, *, as_json: bool) -> None:
    from trainer.judging import report
    from trainer.judging.evaluate import evaluate as judge

    evaluation, figures = judge(request, report=_say)
    if out is not None:
        with kept(out, "no report was written"):
            report.write_report(new_folder(out, "no report was written"), evaluation, figures)
    output.say_lines(report.to_json(evaluation).rstrip() if as_json else "\n".join(report.lines(evaluation)))


def _write_study(request: Request, page: Path) -> None:
    from trainer.judging.evaluate import study_cases
    from trainer.readers import study

    study.refuse_taken(page)
    panels = []
    for case, results in study_cases(request, report=_say):
        shape = {case.label: case.voxel_mm}
        panels += study.panels_from([(case.label, case.truth, results)], voxel_mm=shape)
    with kept(page, "no study was written"):
        page.parent.mkdir(parents=True, exist_ok=True)
        study.write_page(page, panels, seed=request.seed, title=STUDY_TITLE)
    output.say(f"{page}: {len(panels)} panels; keep {study.key_path(page).name} away from readers.")


def _print_scores(files: tuple[Path, ...], *, as_json: bool) -> None:
    _refuse_without_trainer()
    from trainer.readers import scores

    answers, key = scores.find_key(files)
    found = scores.read_scores(answers, key)
    if as_json:
        output.print_json(found)
    else:
        output.say_lines("\n".join(scores.score_lines(found)))


def _say(line: str) -> None:
    output.say(line, err=True)
