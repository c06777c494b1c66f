"""What the result gate lets pass and what it holds: good series, and the same series spoilt in known ways.

    python bench/gate.py                          the two samples of the package, as received
    python bench/gate.py --studies DATA           the volumes of the inventory (trainer/data/open_data.toml)
    python bench/gate.py --part good              without the damages; --part damages: without the table of good series
    python bench/gate.py --subjects lumbar heart  some of them, by label or subject
    python bench/gate.py --ratios 4 --planes 0    of a thin volume: fewer thick series
    python bench/gate.py --middle 16 208          only so many slices and pixels each way, which takes far less time
    python bench/gate.py --toy                    a small part of one series, to see that it still runs
    python bench/gate.py --json                   a JSON object a line: each series, each damage of it, the summary
    python bench/gate.py --lines FILE…            the tables of lines that --json printed, of one run or of several

A good series is a thick one as it came, or a thin volume of the validation split that was averaged along each of its
axes and written as DICOM. Each is derived with the model and passes all checks of the gate, as in the pipeline; bar: no
finding holds it. The first table gives, of each check, the good series that comes nearest to the limit.

A damage is done to the weights, to what the network made (before the projection, which hides it from whoever looks at
averages alone), to the thin volume, or to the encoded files. The second table says of how many series the damaged
result is held, and by which checks. A damage with a star was not used when the limits were set. What is not held is in
the table like the rest; the limits are never set anew for it.

Needs the extra "train". The network runs on one thread, so that the machine stays free for other work.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import statistics
import sys
import tempfile
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # from a checkout that is not installed, too

from dicomnode.derivation import DerivationParameters
from dicomnode.derive.encode import derive
from dicomnode.derive.facts import DerivationPlan
from dicomnode.gate import own_slices
from dicomnode.gate.measure import is_number, look_at_volume
from dicomnode.gate.reread import Reread
from dicomnode.gate.rule import Check, Finding
from dicomnode.generators import model_dir, served
from dicomnode.generators.base import Generated
from dicomnode.generators.served import ServedNetwork
from dicomnode.generators.thin import ThinNet
from dicomnode.ids import AeTitle
from dicomnode.imaging import stack as stacks
from dicomnode.imaging.body import body_window
from dicomnode.imaging.frame import read_frames
from dicomnode.imaging.profile import choose_ratio, thin_grid
from dicomnode.imaging.smoothing import gaussian
from dicomnode.imaging.verdict import Limits, judge
from dicomnode.imaging.volume import Volume
from tests.support.mr_series import mr_datasets, write_series
from trainer.data import sources
from trainer.data.sources import Source, Split
from trainer.judging import cases

FloatArray = NDArray[np.float32]

ROOT = Path(__file__).resolve().parents[1]
SAMPLES = (
    ROOT / "dicomnode" / "samples" / "prostatex_t2_tra",
    ROOT / "dicomnode" / "samples" / "brain_m2307_t2" / "thick",
)
TOY_SIZE = (12, 96)  # slices, pixels each way
BRIGHTEST = 4095  # twelve bits, as a scanner stores
MOST_CHECKS, MOST_PASSED = 3, 2  # that the table names
NOT_A_NUMBER: Final = "number"  # what ``is_number`` says: the job is held, and nothing is encoded


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Series:
    """A good thick series, and how many thin slices each of its slices becomes."""

    name: str
    stack: stacks.Stack
    ratio: int


# The good series.


def samples() -> Iterator[Series]:
    """The samples of the package."""
    for folder in SAMPLES:
        yield received(folder.parent.name if folder.name == "thick" else folder.name, sorted(folder.glob("*.dcm")))


def middle(series: Series, slices: int, side: int) -> Series:
    """So many slices from the middle, and so many pixels each way around the middle of the body."""
    volume = series.stack.volume
    first = max(len(volume.voxels) - slices, 0) // 2
    rows, columns = body_window(volume.voxels, side)
    part = replace(volume, voxels=volume.voxels[first : first + slices, rows, columns])
    return written(series.name, part, series.ratio)


def of_inventory(options: argparse.Namespace) -> Iterator[Series]:
    """Thick series as they came, and the thin ones of the validation split made thick."""
    for source in sources.read_inventory(options.inventory, options.studies):
        if options.subjects and not {source.label, source.subject} & set(options.subjects):
            continue
        volume = sources.load(source)
        if not cases.is_thin(volume):
            yield thick(source, volume)
        elif source.split is Split.VALIDATION:
            selection = cases.Selection(planes=options.planes, ratios=options.ratios, mismatches=False)
            for case in cases.cases_of(source, volume, selection):
                yield written(f"{case.label} p{case.plane} r{case.ratio}", case.thick_volume(), case.ratio)


def thick(source: Source, volume: Volume) -> Series:
    """A thick series as it came; a NIfTI volume is written as DICOM first."""
    if not source.is_nifti:
        return received(source.label, source.paths)
    ratio = choose_ratio(volume.slice_spacing_mm, min(volume.row_spacing_mm, volume.column_spacing_mm))
    assert ratio is not None
    return written(source.label, volume, ratio)


def received(name: str, paths: Sequence[Path]) -> Series:
    """A series whose ratio the verdict of the node gives."""
    frames = read_frames(paths)
    verdict = judge(frames, Limits())
    assert verdict.ratio is not None, f"{name}: {verdict.sentence}"
    return Series(name=name, stack=stacks.load_volume(frames), ratio=verdict.ratio)


def written(name: str, volume: Volume, ratio: int) -> Series:
    """A volume as a series of DICOM files of twelve bits, read again."""
    brightest = float(volume.voxels.max())
    _, rows, columns = volume.voxels.shape
    datasets = mr_datasets(slices=len(volume.voxels), size=1, slice_spacing_mm=volume.slice_spacing_mm)
    for dataset, frame in zip(datasets, volume.voxels, strict=True):
        dataset.Rows, dataset.Columns = rows, columns
        dataset.PixelSpacing = [f"{mm:.6g}" for mm in (volume.row_spacing_mm, volume.column_spacing_mm)]
        dataset.ImagePositionPatient = [f"{float(mm):.8g}" for mm in dataset.ImagePositionPatient]
        dataset.SliceThickness = f"{volume.slice_thickness_mm:.6g}"
        dataset.PixelData = np.rint(frame.clip(min=0) * (BRIGHTEST / brightest)).astype("<u2").tobytes()
    with tempfile.TemporaryDirectory() as folder:
        stack = stacks.load_volume(read_frames(write_series(Path(folder), datasets)))
    return Series(name=name, stack=stack, ratio=ratio)


# What is looked at.


def made_by(series: Series, generator: ServedNetwork) -> Generated:
    """Derive the thin volume."""
    volume = series.stack.volume
    return generator.generate(volume, thin_grid(volume, series.ratio), device="cpu")


def look_at_result(series: Series, generator: ServedNetwork, made: Generated) -> list[Finding] | None:
    """Take the figures of the volume and of the trial; None: a voxel is no number."""
    if not is_number(made.thin):
        return None
    found = look_at_volume(series.stack.volume, made, consistency=generator.consistency)
    trial = own_slices.trial_of(series.stack.volume)
    if trial is not None:
        grid = thin_grid(trial.merged, own_slices.RATIO)
        found.append(own_slices.look_at_trial(trial, generator.generate(trial.merged, grid, device="cpu")))
    return found


def encoded(series: Series, thin: Volume, *, consistency: bool) -> list[bytes]:
    """The files of the derived series."""
    plan = DerivationPlan(
        parameters=DerivationParameters(rule="bench", model="bench", model_digest="0" * 64, ratio=series.ratio),
        model_kind="thin",
        namespace=uuid.uuid4(),
        ae_title=AeTitle("BENCH"),
        created_at=datetime.now(UTC),
    )
    return [file.content for file in derive(series.stack, thin, plan, consistency=consistency).files()]


def look_at_files(series: Series, thin: Volume, files: Sequence[bytes], *, consistency: bool) -> list[Finding]:
    """Take the figures of the files."""
    reread = Reread(series.stack, thin, consistency=consistency)
    for content in files:
        reread.add(content)
    return reread.findings()


class Remembered:
    """A network that runs once for each thick stack, and a damage that is done to a copy of what it made."""

    def __init__(self, network: ServedNetwork) -> None:
        self._network = network
        self._made: dict[tuple[object, ...], FloatArray] = {}

    def spoilt(self, spoil: Callable[[Raw], FloatArray] | None = None) -> ServedNetwork:
        """The generator with the damage between the network and the projection."""

        def refine(
            net: nn.Module, stack: served.Stack, device: torch.device, progress: Callable[[float], None]
        ) -> None:
            key = (stack.thick.shape, stack.ratio, float(stack.thick.sum(dtype=np.float64)))
            cubic = stack.thin.copy()
            if key not in self._made:
                self._network.refine(net, stack, device, progress)
                self._made[key] = stack.thin.copy()
            stack.thin[...] = self._made[key]
            if spoil is not None:
                stack.thin[...] = spoil(Raw(thin=stack.thin.copy(), cubic=cubic, ratio=stack.ratio, scale=stack.scale))

        return replace(self._network, refine=refine)


# Damages of the weights.


def random_weights(net: ThinNet, _ratio: int) -> None:
    """Noise of the same size in the place of each layer."""
    generator = torch.Generator().manual_seed(1)
    for parameter in net.parameters():
        size = parameter.std() if parameter.numel() > 1 else 1.0
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * size)


def heads_of_another_ratio(net: ThinNet, ratio: int) -> None:
    """The last layer of the ratio is that of another one."""
    other = ratio + 1 if str(ratio + 1) in net.tails else ratio - 1
    given = dict(net.tails[str(other)].named_parameters())
    for name, parameter in net.tails[str(ratio)].named_parameters():
        parameter.copy_(given[name][torch.arange(len(parameter)) % len(given[name])])


WEIGHTS: dict[str, Callable[[ThinNet, int], None]] = {
    "random weights": random_weights,
    "weights of another ratio": heads_of_another_ratio,
}


# Damages of what the network made.


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Raw:
    """What the network made, before the projection."""

    thin: FloatArray  # (n·r, h, w), a copy that may be written to
    cubic: FloatArray  # (n·r, h, w), what it started from
    ratio: int
    scale: float

    @property
    def detail(self) -> FloatArray:
        """What the network added."""
        return self.thin - self.cubic

    @property
    def middle(self) -> slice:
        """The thin slices of a slab in the middle."""
        owner = len(self.thin) // self.ratio // 2
        return slice(owner * self.ratio, (owner + 1) * self.ratio)


def not_a_number(raw: Raw) -> FloatArray:
    """One voxel."""
    raw.thin[len(raw.thin) // 2, 3, 5] = np.nan
    return raw.thin


def axes_swapped(raw: Raw) -> FloatArray:
    """Rows for columns, in the largest square."""
    side = min(raw.thin.shape[1:])
    raw.thin[:, :side, :side] = raw.thin[:, :side, :side].transpose(0, 2, 1).copy()
    return raw.thin


def half_a_slab_further(raw: Raw) -> FloatArray:
    """All slices."""
    return np.roll(raw.thin, max(raw.ratio // 2, 1), axis=0)


def ten_times(raw: Raw) -> FloatArray:
    """All intensities."""
    return raw.thin * np.float32(10)


def mirrored(raw: Raw) -> FloatArray:
    """Left for right."""
    return np.ascontiguousarray(raw.thin[:, :, ::-1])


def slab_inverted(raw: Raw) -> FloatArray:
    """The contrast of one slab."""
    slab = raw.thin[raw.middle]
    slab[...] = 2 * slab.mean() - slab
    return raw.thin


def slab_reversed(raw: Raw) -> FloatArray:
    """The slices of one slab."""
    raw.thin[raw.middle] = raw.thin[raw.middle][::-1].copy()
    return raw.thin


def all_slabs_reversed(raw: Raw) -> FloatArray:
    """The slices of each slab."""
    return raw.thin.reshape(-1, raw.ratio, *raw.thin.shape[1:])[:, ::-1].reshape(raw.thin.shape)


def slice_repeated(raw: Raw) -> FloatArray:
    """One slab holds its first slice, as often as it has slices."""
    raw.thin[raw.middle] = raw.thin[raw.middle][0].copy()
    return raw.thin


def slabs_exchanged(raw: Raw) -> FloatArray:
    """Two neighbouring slabs."""
    start, stop = raw.middle.start, raw.middle.stop
    before, after = raw.thin[start - raw.ratio : start].copy(), raw.thin[start:stop].copy()
    raw.thin[start - raw.ratio : start], raw.thin[start:stop] = after, before
    return raw.thin


def detail_smoothed(raw: Raw) -> FloatArray:
    """What was added, slice by slice, by a Gaussian of two pixels."""
    for index, frame in enumerate(raw.detail):
        raw.thin[index] = raw.cubic[index] + gaussian(frame[None], sigma=2.0, radius=6)[0]
    return raw.thin


def detail_from_elsewhere(raw: Raw) -> FloatArray:
    """What was added to a slab is that of the third one before it."""
    return raw.cubic + np.roll(raw.detail, 3 * raw.ratio, axis=0)


def detail_tripled(raw: Raw) -> FloatArray:
    """What was added, three times."""
    return raw.cubic + 3 * raw.detail


def detail_of_half_the_slabs(raw: Raw) -> FloatArray:
    """Each second slab is left as interpolation made it."""
    detail = raw.detail.reshape(-1, raw.ratio, *raw.thin.shape[1:])
    detail[::2] = 0
    return raw.cubic + detail.reshape(raw.thin.shape)


def moved_two_pixels(raw: Raw) -> FloatArray:
    """All slices, along the rows."""
    return np.roll(raw.thin, 2, axis=2)


def tiles_exchanged(raw: Raw) -> FloatArray:
    """Two neighbouring tiles of 32 pixels in the middle, in all slices."""
    row, column = (extent // 2 - 32 for extent in raw.thin.shape[1:])
    left, right = (np.s_[:, row : row + 32, start : start + 32] for start in (column, column + 32))
    one, other = raw.thin[left].copy(), raw.thin[right].copy()
    raw.thin[left], raw.thin[right] = other, one
    return raw.thin


def few_levels(raw: Raw) -> FloatArray:
    """Sixty-four levels of grey."""
    levels: FloatArray = np.rint(raw.thin * np.float32(64 / raw.scale)) * np.float32(raw.scale / 64)
    return levels


def blob_pasted(raw: Raw) -> FloatArray:
    """A disc of four pixels' radius and half the brightness of the series, in one thin slice."""
    rows, columns = np.ogrid[: raw.thin.shape[1], : raw.thin.shape[2]]
    disc = (rows - raw.thin.shape[1] // 2) ** 2 + (columns - raw.thin.shape[2] // 2) ** 2 <= 4**2
    raw.thin[raw.middle.start + 1][disc] += np.float32(raw.scale / 2)
    return raw.thin


NETWORK: dict[str, Callable[[Raw], FloatArray]] = {
    "a voxel that is no number": not_a_number,
    "rows and columns exchanged": axes_swapped,
    "half a slab further": half_a_slab_further,
    "ten times the intensities": ten_times,
    "left and right exchanged": mirrored,
    "one slab inverted": slab_inverted,
    "what was added, tripled": detail_tripled,
    "one slab in reverse order *": slab_reversed,
    "each slab in reverse order *": all_slabs_reversed,
    "one slice for a whole slab *": slice_repeated,
    "two slabs exchanged *": slabs_exchanged,
    "what was added, smoothed *": detail_smoothed,
    "what was added, from elsewhere *": detail_from_elsewhere,
    "each second slab left out *": detail_of_half_the_slabs,
    "all moved by two pixels *": moved_two_pixels,
    "two tiles exchanged *": tiles_exchanged,
    "64 levels of grey *": few_levels,
    "a blob in one slice *": blob_pasted,
}


# Damages of the thin volume, after the projection. Each is given a copy that it may write to.


def one_not_a_number(thin: FloatArray) -> FloatArray:
    """One voxel."""
    thin[len(thin) // 2, 3, 5] = np.nan
    return thin


def offset(thin: FloatArray) -> FloatArray:
    """Two percent of the range, on each voxel."""
    return thin + np.float32(0.02 * float(np.ptp(thin)))


VOLUME: dict[str, Callable[[FloatArray], FloatArray]] = {
    "a voxel that is no number": one_not_a_number,
    "ten times the intensities": lambda thin: thin * np.float32(10),
    "two thin slices further": lambda thin: np.roll(thin, 2, axis=0),
    "all intensities offset *": offset,
    "upside down *": lambda thin: thin[:, ::-1],
}


# Damages of the files.


def pixels_transposed(datasets: list[Dataset], _ratio: int) -> None:
    """Rows for columns, in the largest square."""
    for dataset in datasets:
        pixels = dataset.pixel_array.copy()
        side = min(pixels.shape)
        pixels[:side, :side] = pixels[:side, :side].T.copy()
        dataset.PixelData = pixels.tobytes()


def half_a_slice_further(datasets: list[Dataset], _ratio: int) -> None:
    """All positions."""
    first, second = (np.array(dataset.ImagePositionPatient, dtype=float) for dataset in datasets[:2])
    for dataset in datasets:
        moved = np.array(dataset.ImagePositionPatient, dtype=float) + (second - first) / 2
        dataset.ImagePositionPatient = [f"{mm:.4f}" for mm in moved]


def another_slope(datasets: list[Dataset], _ratio: int) -> None:
    """Four percent more."""
    for dataset in datasets:
        dataset.RescaleSlope = f"{1.04 * float(dataset.get('RescaleSlope', 1)):.8g}"


def ten_times_the_slope(datasets: list[Dataset], _ratio: int) -> None:
    """A decimal point in the wrong place."""
    for dataset in datasets:
        dataset.RescaleSlope = f"{10 * float(dataset.get('RescaleSlope', 1)):.8g}"


def another_intercept(datasets: list[Dataset], _ratio: int) -> None:
    """Three stored steps."""
    for dataset in datasets:
        slope = float(dataset.get("RescaleSlope", 1))
        dataset.RescaleIntercept = f"{float(dataset.get('RescaleIntercept', 0)) + 3 * slope:.8g}"


def name_of_another(datasets: list[Dataset], _ratio: int) -> None:
    """In one instance."""
    datasets[len(datasets) // 2].PatientName = "Somebody^Else"


def slab_of_files_reversed(datasets: list[Dataset], ratio: int) -> None:
    """The pixels of one slab's files; the positions stay."""
    start = len(datasets) // ratio // 2 * ratio
    slab = datasets[start : start + ratio]
    for dataset, pixels in zip(slab, [one.PixelData for one in slab][::-1], strict=True):
        dataset.PixelData = pixels


def one_file_mirrored(datasets: list[Dataset], _ratio: int) -> None:
    """Left for right."""
    dataset = datasets[len(datasets) // 2]
    dataset.PixelData = dataset.pixel_array[:, ::-1].tobytes()


def one_file_of_another_series(datasets: list[Dataset], _ratio: int) -> None:
    """By its Series Instance UID."""
    datasets[len(datasets) // 2].SeriesInstanceUID = "1.2.3"


def one_file_missing(datasets: list[Dataset], _ratio: int) -> None:
    """From the middle."""
    del datasets[len(datasets) // 2]


FILES: dict[str, Callable[[list[Dataset], int], None]] = {
    "rows and columns of the pixels exchanged": pixels_transposed,
    "half a slice further": half_a_slice_further,
    "Rescale Slope 4 % higher": another_slope,
    "Rescale Slope ten times as high": ten_times_the_slope,
    "Rescale Intercept three steps higher *": another_intercept,
    "the patient's name of another in one file *": name_of_another,
    "the pixels of one slab in reverse order *": slab_of_files_reversed,
    "the pixels of one file mirrored *": one_file_mirrored,
    "one file of another series *": one_file_of_another_series,
    "one file missing": one_file_missing,
}


# The two parts.


def good(series: Series, remembered: Remembered) -> list[Finding]:
    """All findings of a good series."""
    generator = remembered.spoilt()
    made = made_by(series, generator)
    found = look_at_result(series, generator, made)
    assert found is not None, f"{series.name}: the model made a voxel that is no number"
    files = encoded(series, made.thin, consistency=generator.consistency)
    return [*found, *look_at_files(series, made.thin, files, consistency=generator.consistency)]


def damaged(
    series: Series, network: ServedNetwork, remembered: Remembered
) -> Iterator[tuple[str, list[Finding] | None]]:
    """Each damage, with its findings; None: a voxel is no number."""
    for name, spoil_net in WEIGHTS.items():
        net = copy.deepcopy(network.net)
        assert isinstance(net, ThinNet)
        with torch.no_grad():
            spoil_net(net, series.ratio)
        generator = replace(network, net=net)
        yield f"weights: {name}", look_at_result(series, generator, made_by(series, generator))
    for name, spoil_raw in NETWORK.items():
        generator = remembered.spoilt(spoil_raw)
        yield f"network: {name}", look_at_result(series, generator, made_by(series, generator))
    generator = remembered.spoilt()
    made = made_by(series, generator)
    for name, spoil in VOLUME.items():
        voxels = np.ascontiguousarray(spoil(made.thin.voxels.copy()))
        spoilt = replace(made, thin=replace(made.thin, voxels=voxels))
        yield f"volume: {name}", look_at_result(series, generator, spoilt)
    files = encoded(series, made.thin, consistency=generator.consistency)
    for name, spoil_files in FILES.items():
        datasets: list[Dataset] = [dcmread(BytesIO(content)) for content in files]
        spoil_files(datasets, series.ratio)
        contents = list(map(_content, datasets))
        yield f"files: {name}", look_at_files(series, made.thin, contents, consistency=generator.consistency)


def _content(dataset: Dataset) -> bytes:
    buffer = BytesIO()
    dataset.save_as(buffer)
    return buffer.getvalue()


# What is printed.

Line = dict[str, Any]


def line_of(part: str, series: Series, found: Sequence[Finding] | None, damage: str | None = None) -> Line:
    """One series, or one damage of it."""
    return {
        "part": part,
        "series": series.name,
        "ratio": series.ratio,
        "slices": len(series.stack.volume.voxels),
        **({} if damage is None else {"damage": damage}),
        "held_by": [NOT_A_NUMBER] if found is None else [str(one.check) for one in found if one.holds],
        "figures": [asdict(one.figure) for one in found or ()],
    }


def table_of_good(lines: Sequence[Line]) -> Iterator[str]:
    """Of each check: the limit, and the good series that comes nearest to it."""
    yield "| check | limit | judged | nearest figure | share of the limit | in |"
    yield "|---|---|---|---|---|---|"
    for check in Check:
        judged = [(one, line["series"]) for line in lines for one in line["figures"] if one["check"] == check]
        if judged:
            nearest, name = max(judged, key=lambda pair: (_share(pair[0]), pair[0]["measured"] or 0.0))
            least = "at least " if nearest["is_least"] else ""
            yield (
                f"| `{check}` | {least}{nearest['limit']:.3g} | {len(judged)} | {nearest['measured']:.3g} "
                f"| {_share(nearest):.0%} | {name} |"
            )


def table_of_damages(lines: Sequence[Line]) -> Iterator[str]:
    """Of each damage: on how many series it was held, by which checks, how far beyond a limit, and where it passed."""
    yield "| damage | held | by (series; median of times the limit) | passed on (nearest to its limit) |"
    yield "|---|---|---|---|"
    of_damage: defaultdict[str, list[Line]] = defaultdict(list)
    for line in lines:
        of_damage[line["damage"]].append(line)
    for damage, done in of_damage.items():
        passed = [line for line in done if not line["held_by"]]
        held_by = Counter(check for line in done for check in line["held_by"])
        by = "; ".join(f"`{check}` {count}{_times(done, check)}" for check, count in held_by.most_common(MOST_CHECKS))
        where = [(line["series"], max(line["figures"], key=_share)) for line in passed]
        told = "; ".join(f"{name} (`{one['check']}` {_share(one):.0%})" for name, one in where[:MOST_PASSED])
        more = f" and {len(where) - MOST_PASSED} more" if len(where) > MOST_PASSED else ""
        yield f"| {damage} | {len(done) - len(passed)} of {len(done)} | {by} | {told}{more} |"


def _times(done: Sequence[Line], check: str) -> str:
    """How many times the limit the figures are that hold, in the middle."""
    shares = [one["share"] for line in done for one in line["figures"] if one["check"] == check and one["holds"]]
    finite = [share for share in shares if share is not None]
    return f", {statistics.median(finite):.3g} ×" if finite else ""


def _share(figure: dict[str, Any]) -> float:
    return math.inf if figure["share"] is None else float(figure["share"])


def measured(options: argparse.Namespace) -> Iterator[Line]:
    """Each series and each damage of it."""
    network = model_dir.load_generator(options.model)
    assert isinstance(network, ServedNetwork), "cubic-dc has no network to spoil"
    for whole in of_inventory(options) if options.studies else islice(samples(), 1 if options.toy else None):
        series = middle(whole, *options.middle) if options.middle else whole
        remembered = Remembered(network)
        if options.part != "damages":
            yield line_of("good", series, good(series, remembered))
        for damage, found in damaged(series, network, remembered) if options.part != "good" else ():
            yield line_of("damage", series, found, damage)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=Path, nargs="+", default=[], metavar="DIR")
    parser.add_argument("--inventory", type=Path, default=sources.OPEN_DATA, metavar="FILE")
    parser.add_argument("--part", choices=["good", "damages", "both"], default="both")
    parser.add_argument("--subjects", nargs="+", default=[], metavar="NAME")
    parser.add_argument("--ratios", type=int, nargs="+", default=cases.VALIDATION_RATIOS)
    parser.add_argument("--planes", type=int, nargs="+", default=cases.PLANES)
    parser.add_argument("--middle", type=int, nargs=2, metavar=("SLICES", "PIXELS"))
    parser.add_argument("--model", default=model_dir.default_model())
    parser.add_argument("--lines", type=Path, nargs="+", default=[], metavar="FILE")
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.toy:
        options.middle = TOY_SIZE
    torch.set_num_threads(1)
    kept = (json.loads(text) for path in options.lines for text in path.read_text().splitlines())
    lines: dict[str, list[Line]] = {"good": [], "damage": []}
    for line in (one for one in kept if "part" in one) if options.lines else measured(options):
        lines[line["part"]].append(line)
        if options.json:
            print(json.dumps(line), flush=True)
        else:
            done = f"{line['series']}: {line.get('damage', 'good')}"
            print(f"{done}: {', '.join(line['held_by']) or 'passed'}", file=sys.stderr, flush=True)
    false_holds = [line["series"] for line in lines["good"] if line["held_by"]]
    summary = {
        "bench": "gate",
        "good_series": len(lines["good"]),
        "false_holds": len(false_holds),
        "bar": "0 false holds",
        "damages": len(lines["damage"]),
        "held": sum(bool(line["held_by"]) for line in lines["damage"]),
    }
    if options.json:
        print(json.dumps(summary))
        return
    for table in (table_of_good(lines["good"]), table_of_damages(lines["damage"])):
        print("\n".join(table), end="\n\n")
    print(
        f"{summary['false_holds']} of {summary['good_series']} good series held (bar 0)"
        f"{': ' + ', '.join(false_holds) if false_holds else ''}; "
        f"{summary['held']} of {summary['damages']} damaged results held"
    )


if __name__ == "__main__":
    main()
