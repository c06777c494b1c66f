"""``dicomnode evaluate``: studies and models in; tables, figures and what could not be said out.

Volumes are judged one at a time: what stays in memory of each is its numbers and, where it is shown, its pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dicomnode.errors import InputError
from dicomnode.generators import model_dir
from dicomnode.generators.device import choose_device
from trainer.data.inventory import read_inventory
from trainer.data.pairs import SlicePairs, load_pairs, simulated_pairs
from trainer.data.partners import find_pairs
from trainer.data.scan import scan
from trainer.data.series import Form, Role, Series, describe
from trainer.data.sources import Source, Split
from trainer.data.volumes import volume_of
from trainer.features import Features
from trainer.judging.cases import Case, Selection, cases_of, is_thin, judged_sources, prepare
from trainer.judging.dial import DialRow, dial_rows
from trainer.judging.figures import Figure, FigureStyle, is_shown, pair_figure, reformat_figures
from trainer.judging.judge import Judged, Row, judge, progress_line
from trainer.judging.methods import BASELINE, Method, load_methods, thinned
from trainer.judging.paper_table import PairRow, judge_pairs, pair_line, thin_stacks
from trainer.judging.perception import Distance
from trainer.judging.perceptual import DISTS, LPIPS
from trainer.judging.probes import Probe, is_probed, probe
from trainer.judging.summary import ComparisonRow, MethodRow, SubjectRow, comparison_rows, method_rows, subject_rows

FloatArray = NDArray[np.float32]
Report = Callable[[str], None]

PREFERRED_RATIO = 4  # of the figures, the paper's table and the reader study, where it is among those asked for
NO_FEATURES = "feature distance: not computed, features not given"
NO_PERCEPTUAL = "{}: not computed, its weights not given"
SCANNED = (
    "The studies were scanned, not read from an inventory: whether a model was trained on one of them is not known."
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Request:
    """A request for an evaluation: what is to be judged, and how."""

    studies: tuple[Path, ...] = ()
    inventory: Path | None = None
    sources: tuple[Source, ...] = ()  # instead of both, by who knows them already
    models: tuple[str | Path, ...] = ()
    sharpness: tuple[float, ...] = ()  # at which models with two sets of weights are judged; (): as their cards say
    selection: Selection = Selection()  # noqa: RUF009 (frozen)
    device: str = "cpu"
    features: Features | None = None
    perceptual: Mapping[str, Distance] = field(default_factory=dict)
    with_paper_table: bool = False
    with_volumes: bool = True  # False: the paper's table alone
    allow_contrast: bool = False  # of real pairs: take those whose contrast differs
    with_probes: bool = False
    style: FigureStyle = FigureStyle.ONE_WINDOW
    seed: int = 0  # of the bootstrap


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodFacts:
    """The facts of a method, with the name by which rows mean it."""

    name: str
    kind: str
    digest: str
    ratios: tuple[int, int]
    is_model: bool
    is_projected: bool  # onto what was measured
    sharpness: float | None  # None: it does not have two sets of weights


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Every number, and what was not computed. This is the JSON document."""

    seed: int
    sources: tuple[tuple[str, str, Split, str], ...]  # label, subject, split, licence
    methods: tuple[MethodFacts, ...]
    features: str | None
    rows: tuple[Row, ...]
    subjects: tuple[SubjectRow, ...]
    estimates: tuple[MethodRow, ...]
    comparisons: tuple[ComparisonRow, ...]
    paper_table: tuple[PairRow, ...]
    probes: tuple[Probe, ...]
    dial: tuple[DialRow, ...]  # of models that were judged at sharpness 0 and at others
    notes: tuple[str, ...]  # what was not computed, and why


def evaluate(request: Request, *, report: Report) -> tuple[Evaluation, tuple[Figure, ...]]:
    """Compute everything that was asked for; ``report`` gets a line for each method of each case.

    Raises InputError and ModelError before anything is computed: an empty folder, a damaged model, a model that was
    trained on a subject it is to be judged on.
    """
    choose_device(request.device)
    methods = load_methods(request.models, request.sharpness)
    notes: list[str] = []
    found, series = find_sources(request, note=notes.append)
    judged = judged_sources(found, request.selection)
    if request.inventory is not None:
        refuse_leaks(request.models, judged)
    notes.extend([SCANNED] if series else [])
    rows: list[Row] = []
    figures: list[Figure] = []
    probes: list[Probe] = []
    table = _PaperTable(request, methods, report)
    for one in judged_cases(request, judged, methods, report) if request.with_volumes else ():
        rows.extend(one.rows)
        if one.results:
            figures.extend(reformat_figures(one, methods, request.style))
        if request.with_paper_table and one.results and not one.case.is_rethickened:
            table.add(pairs_of_case(one.case), stacks=thin_stacks(one.results, methods))
        if request.with_probes and is_probed(one.case):
            report(f"{one.case.name}: probes")
            probes.extend(probe(methods, one.case, device=request.device))
    if request.with_paper_table:
        for pairs in real_pairs(request, judged, series, notes):
            table.add(pairs, stacks={})
        for case in () if request.with_volumes else table_cases(request, judged):
            stacks = dict(table_stacks(case, methods, request.device))
            table.add(pairs_of_case(case), stacks=thin_stacks(stacks, methods))
        figures.extend(table.figures)
    if not rows and not table.rows:
        raise InputError("No volume has slices enough to be judged.", hint="At least four thick slices are needed.")
    notes.extend(_not_computed(request, has_probes=bool(probes)))
    return _evaluation(request, judged, methods, rows, table.rows, probes, notes), tuple(figures)


def _not_computed(request: Request, *, has_probes: bool) -> Iterator[str]:
    """Say what was not computed, and why."""
    if request.with_paper_table and request.with_volumes and 0 not in request.selection.planes:
        yield "paper's table: no simulated pairs, which are of plane 0"
    if not request.with_volumes:
        yield "whole volumes: not judged, slices only"
    if request.with_probes and not has_probes:
        yield "probes: not computed, no case of plane 0 and ratio 4 with a thin truth, or no model"
    if request.features is None:
        yield NO_FEATURES
    yield from (NO_PERCEPTUAL.format(name.upper()) for name in (LPIPS, DISTS) if name not in request.perceptual)


def _evaluation(
    request: Request,
    judged: Sequence[Source],
    methods: Sequence[Method],
    rows: Sequence[Row],
    table: Sequence[PairRow],
    probes: Sequence[Probe],
    notes: Sequence[str],
) -> Evaluation:
    subjects = subject_rows(rows)
    return Evaluation(
        seed=request.seed,
        sources=tuple((source.label, source.subject, source.split, source.licence) for source in judged),
        methods=tuple(
            MethodFacts(
                name=method.name,
                kind=method.kind,
                digest=method.digest,
                ratios=method.ratios,
                is_model=method.is_model,
                is_projected=method.is_projected,
                sharpness=method.generator.sharpness,
            )
            for method in methods
        ),
        features=None if request.features is None else request.features.spec,
        rows=tuple(rows),
        subjects=tuple(subjects),
        estimates=tuple(method_rows(subjects, seed=request.seed)),
        comparisons=tuple(comparison_rows(subjects)),
        paper_table=tuple(table),
        probes=tuple(probes),
        dial=tuple(_dial(methods, rows, probes)),
        notes=tuple(notes),
    )


def _dial(methods: Sequence[Method], rows: Sequence[Row], probes: Sequence[Probe]) -> Iterator[DialRow]:
    turned: dict[str, dict[float, str]] = {}
    for method in methods:
        if method.generator.sharpness is not None and not method.is_twin:
            turned.setdefault(method.model, {})[method.generator.sharpness] = method.name
    for model, names in turned.items():
        if 0.0 in names:
            yield from dial_rows(model, names, rows, probes)


def find_sources(request: Request, *, note: Report) -> tuple[tuple[Source, ...], tuple[Series, ...]]:
    """Sources of an inventory, or scanned ones and what their headers tell; ``note`` gets lines on those not judged."""
    if request.sources:
        return request.sources, ()
    if request.inventory is not None:
        return read_inventory(request.inventory, request.studies, note=note), ()
    series = scan(request.studies, note=note)
    for one in series:
        if one.form is Form.ENHANCED:
            note(f"{one.source.label} is read from multi-frame (Enhanced MR) objects.")
    for one in series:
        if one.role is Role.UNUSABLE:
            note(f"not judged: {one.source.label}: {one.sentence}")
    usable = [replace(one.source, split=Split.UNSEEN) for one in series if one.role is not Role.UNUSABLE]
    return tuple(usable), series


def refuse_leaks(models: Sequence[str | Path], judged: Sequence[Source]) -> None:
    """InputError where a model's card names a subject to be judged on among those that it was trained on."""
    for model in models:
        folder = model_dir.shipped_models().get(str(model), Path(model))
        if not folder.is_dir():
            continue  # cubic-dc; that others are there was seen when they were loaded
        card = model_dir.read_card(folder)
        trained_on = {row.subject for row in card.data if row.split == "train"}
        if leaked := sorted(trained_on & {source.subject for source in judged}):
            raise InputError(
                f"Model {card.name} was trained on {leaked[0]}; judged on it, it would look better than it is.",
                hint="Leave the subject out with --subjects, or judge another model.",
            )


def judged_cases(
    request: Request, judged: Sequence[Source], methods: Sequence[Method], report: Report
) -> Iterator[Judged]:
    """Case after case; results are kept of those that are shown."""
    ratio = preferred_ratio(request.selection)
    for source in judged:
        for case in cases_of(source, volume_of(source), request.selection):
            one = judge(
                case,
                methods,
                device=request.device,
                features=request.features,
                perceptual=request.perceptual,
                keep_results=is_shown(case, ratio),
            )
            for row in one.rows:
                report(progress_line(case, row))
            yield one


def preferred_ratio(selection: Selection) -> int:
    """The one ratio of whatever shows only one."""
    return PREFERRED_RATIO if PREFERRED_RATIO in selection.ratios else selection.ratios[len(selection.ratios) // 2]


class _PaperTable:
    """Grows patient by patient, so that one is in memory at a time."""

    def __init__(self, request: Request, methods: Sequence[Method], report: Report) -> None:
        self.request, self.methods, self.report = request, methods, report
        self.rows: list[PairRow] = []
        self.figures: list[Figure] = []

    def add(self, pairs: SlicePairs, stacks: Mapping[str, FloatArray]) -> None:
        rows, pictures = judge_pairs(pairs, self.methods, stacks=stacks, device=self.request.device)
        for row in rows:
            self.report(pair_line(row))
        self.rows.extend(rows)
        self.figures.append(pair_figure(pictures, self.request.style))


def table_cases(request: Request, judged: Sequence[Source]) -> Iterator[Case]:
    """One case of each thin volume, where no volumes are judged."""
    for source in judged:
        volume = volume_of(source)
        if is_thin(volume):
            yield prepare(source, volume, plane=0, ratio=preferred_ratio(request.selection))


def table_stacks(case: Case, methods: Sequence[Method], device: str) -> Iterator[tuple[str, FloatArray]]:
    """The stacks on which the table shows methods that have no slice network: slices would take the longest."""
    cheap = [method for method in methods if method.network is None or not method.network.is_of_slices]
    for method, stack in thinned(cheap, case.thick_volume(), case.ratio, device=device):
        yield method.name, stack


def pairs_of_case(case: Case) -> SlicePairs:
    """The pairs of the case's own slices, thick and thin, matched by place."""
    raw = case.truth * np.float32(case.scale)
    return simulated_pairs(raw, case.subject, plane=0, ratio=case.ratio, scale=case.scale)


def real_pairs(
    request: Request, judged: Sequence[Source], series: Sequence[Series], notes: list[str]
) -> Iterator[SlicePairs]:
    """The real pairs among the sources; the reasons why others are none go to ``notes``."""
    known = [one for one in series if one.source.label in {source.label for source in judged}]
    known = known or [describe(source) for source in judged if not source.is_nifti]
    table = find_pairs(known, allow_contrast=request.allow_contrast)
    notes.extend(f"no pair: {' and '.join(no.labels)}: {no.sentence}" for no in table.rejections)
    for pair in table.pairs:
        yield load_pairs(pair.thick.source, pair.thin.source, matches=pair.matches, registration=pair.registration)


def study_cases(request: Request, *, report: Report) -> Iterator[tuple[Case, dict[str, FloatArray]]]:
    """The cases of a reader study: one of each volume, and what every method makes of each."""
    choose_device(request.device)
    methods = load_methods(request.models)
    found, _ = find_sources(request, note=report)
    judged = judged_sources(found, request.selection)
    if request.inventory is not None:
        refuse_leaks(request.models, judged)
    ratio = preferred_ratio(request.selection)
    one_plane = replace(request.selection, planes=(0,), ratios=(ratio,), mismatches=False)
    for source in judged:
        for case in cases_of(source, volume_of(source), one_plane):
            shown = [
                method for method in methods if method.name == BASELINE or (method.is_model and not method.is_twin)
            ]
            unable = [method.name for method in shown if not method.serves(case.ratio)]
            if unable:
                raise InputError(
                    f"Model {unable[0]} was not made for ratio {case.ratio}; readers would see it on some cases only.",
                    hint="Leave the model or the case out, or name another ratio.",
                )
            report(f"{case.name}: panels for readers")
            thick = case.thick_volume()
            yield case, {method.name: method.thin(thick, case.ratio, device=request.device) for method in shown}
