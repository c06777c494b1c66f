"""The steps from a folder of instances to a derived series: verdict → stack → generator → gate → encoded files → gate.

The worker's child and ``infer`` share it. It reads no settings, ledger or network; the generator and the place of
the files are handed in. A series that may not be processed comes back as its verdict, not as an exception.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import partial
from pathlib import Path

from dicomnode.derive.encode import Derivation, DerivedFile, derive, derive_spread
from dicomnode.derive.facts import DerivationPlan
from dicomnode.errors import InputError, ModelError
from dicomnode.gate import own_slices
from dicomnode.gate.measure import is_number, look_at_volume
from dicomnode.gate.reread import Reread
from dicomnode.gate.rule import Finding
from dicomnode.generators.base import Generated, Generator
from dicomnode.generators.spread import Spread, deviation_of, spread_of
from dicomnode.imaging.frame import read_frames
from dicomnode.imaging.judge import judge
from dicomnode.imaging.profile import RATIO_LIMITS, thin_grid
from dicomnode.imaging.stack import load_volume
from dicomnode.imaging.studies import HINT, list_files, passed_over_lines
from dicomnode.imaging.verdict import Limits, Verdict
from dicomnode.imaging.volume import Volume


class Stage(StrEnum):
    """The stages of a run whose time is measured, in order."""

    READ = "read"
    GENERATE = "generate"
    COMPARE = "compare"  # only where the uncertainty is asked for
    CHECK = "check"
    DERIVE = "derive"
    WRITE = "write"


Progress = Callable[[str, float], None]  # called with the stage and the share of it that is done
Write = Callable[[DerivedFile], None]  # keeps one file; it is called once for each instance, by Instance Number


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """One derived instance that the callback has kept."""

    instance_number: int
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineResult:
    """The result for one series; without a derived series if the verdict is to keep it."""

    verdict: Verdict
    series_uid: str | None = None
    ratio: int | None = None
    instances: tuple[Written, ...] = ()
    network_share: float | None = None  # share of the pixels that a network ran on; None: there was no network
    notes: tuple[str, ...] = ()  # of verdict and derivation
    findings: tuple[Finding, ...] = ()  # of the result gate
    spread: Spread | None = None  # None unless the parameters ask for the uncertainty
    stages: Mapping[str, float] = field(default_factory=dict)  # seconds

    @property
    def objections(self) -> tuple[str, ...]:
        """The findings beyond their limits, in sentences. With any, an operator has to release the series."""
        return tuple(finding.sentence for finding in self.findings if finding.holds)


def run_pipeline(
    paths: Sequence[Path],
    *,
    generator: Generator,
    plan: DerivationPlan,
    ratios: tuple[int, int] = RATIO_LIMITS,
    device: str,
    write: Write,
    write_spread: Write | None = None,
    digests: Mapping[Path, str] | None = None,
    progress: Progress | None = None,
) -> PipelineResult:
    """Judge one series and, where the verdict says so, derive it.

    ``ratios``: the lowest and the highest that the model can make.
    ``write_spread``: keeps the files of a second series, of the spread, where the parameters ask for the uncertainty.
    ``digests``: SHA-256 of the source datasets where they are known. Raises InputError when a slice cannot be decoded,
    and whatever the generator or ``write`` raise.
    """
    tell = progress or (lambda _stage, _share: None)
    watch = _Watch()
    with watch(Stage.READ):
        frames = read_frames(paths)
        verdict = judge(frames, Limits.of(plan.parameters, ratios))
        if not verdict.process:
            return PipelineResult(verdict=verdict, notes=verdict.notes, stages=watch.seconds)
        stack = load_volume(frames, digests=digests)
        tell(Stage.READ, 1.0)
    ratio = plan.parameters.ratio or verdict.ratio
    assert ratio is not None, "a verdict to process has a ratio"
    if (wanted := plan.parameters.sharpness) is not None:
        generator = generator.at(wanted)
    # The model's digest pins the sharpness of the card; the derived objects state the number itself.
    plan = replace(plan, parameters=replace(plan.parameters, sharpness=generator.sharpness))
    with watch(Stage.GENERATE):
        grid = thin_grid(stack.volume, ratio)
        made = generator.generate(stack.volume, grid, device=device, progress=lambda share: tell(Stage.GENERATE, share))
    spread = deviation = None
    if plan.parameters.uncertainty:
        with watch(Stage.COMPARE):
            tell_share = partial(tell, Stage.COMPARE)
            deviation = deviation_of(generator, stack.volume, grid, device=device, progress=tell_share)
            spread = spread_of(deviation, stack.volume)
            if write_spread is None:
                deviation = None  # as large as the thin stack
    with watch(Stage.CHECK):
        findings = _look_at(made, stack.volume, generator, is_tried=ratios[0] <= own_slices.RATIO, device=device)
        reread = Reread(stack, made.thin, consistency=generator.consistency, patient=plan.patient)
    tell(Stage.DERIVE, 0.0)
    with watch(Stage.DERIVE):
        derivation = derive(stack, made.thin, plan, consistency=generator.consistency)
    written = _write_all(derivation, write, reread, watch, tell)
    if deviation is not None and write_spread is not None:
        with watch(Stage.WRITE):
            for file in derive_spread(stack, deviation, plan).files():
                write_spread(file)
    return PipelineResult(
        verdict=verdict,
        series_uid=derivation.series_uid,
        ratio=ratio,
        instances=written,
        notes=(*verdict.notes, *derivation.notes, *([spread.sentence] if spread is not None else [])),
        spread=spread,
        network_share=made.network_share,
        findings=(*findings, *reread.findings()),
        stages=watch.seconds,
    )


def _look_at(made: Generated, thick: Volume, generator: Generator, *, is_tried: bool, device: str) -> list[Finding]:
    """Take the figures of the result gate that need no file. ``is_tried``: also those of the model on own slices.

    Raises ModelError where the model made voxels that are no numbers.
    """
    if not is_number(made.thin):
        raise ModelError(f"Model {generator.name} made voxels that are no numbers. Nothing was derived.")
    findings = look_at_volume(thick, made, consistency=generator.consistency)
    if is_tried and (trial := own_slices.trial_of(thick)) is not None:
        grid = thin_grid(trial.merged, own_slices.RATIO)
        findings.append(own_slices.look_at_trial(trial, generator.generate(trial.merged, grid, device=device)))
    return findings


def _write_all(
    derivation: Derivation, write: Write, reread: Reread, watch: _Watch, tell: Progress
) -> tuple[Written, ...]:
    """Encode, write and read again one file after the other."""
    written = []
    files = derivation.files()
    for _ in range(derivation.count):
        with watch(Stage.DERIVE):
            file = next(files)
        with watch(Stage.WRITE):
            write(file)
        with watch(Stage.CHECK):
            reread.add(file.content)
        written.append(_written(file))
        tell(Stage.WRITE, len(written) / derivation.count)
    return tuple(written)


def series_in(*places: Path, note: Callable[[str], None] = lambda _: None) -> dict[str, list[Path]]:
    """Find the images among files and below folders, by Series Instance UID, in order of their names, copies once.

    ``note`` is called for every file that was passed over. Raises InputError where a series may not be used whatever
    the verdict on its images would be: one of them breaks off, or two share a SOP Instance UID.
    """
    listed = list_files(places)
    for line in passed_over_lines({**listed.passed_over, **dict.fromkeys(listed.nifti, "a NIfTI file, not DICOM")}):
        note(line)
    for series in listed.series:
        if series.fault:
            raise InputError(f"The series cannot be used: {series.fault}", hint=HINT)
    return {series.series_uid: list(series.paths) for series in listed.series}


def _written(file: DerivedFile) -> Written:
    return Written(
        instance_number=file.instance_number,
        sop_class_uid=file.sop_class_uid,
        sop_instance_uid=file.sop_instance_uid,
        transfer_syntax_uid=file.transfer_syntax_uid,
        sha256=file.sha256,
        size_bytes=file.size_bytes,
    )


class _Watch:
    """A stopwatch: the seconds of each stage, summed over all its stretches."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: Stage) -> Iterator[None]:
        begun = time.monotonic()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.monotonic() - begun
