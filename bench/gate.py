"""This bench counts the good series that the result gate holds, and the damaged ones that it lets pass.

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
finding holds it. The first table gives for each check the good series that comes nearest to the limit.

A damage (``tests/support/damages.py``) is done to the weights, to what the network made (before the projection, which
hides it from checks of averages), to the thin volume, or to the encoded files. The second table says of how many series
the damaged result is held, and by which checks. A damage with a star was not used when the limits were set. What is not
held is in the table like the rest; the limits are never set anew for it.

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
from dicomnode.imaging.judge import judge
from dicomnode.imaging.profile import choose_ratio, thin_grid
from dicomnode.imaging.verdict import Limits
from dicomnode.imaging.volume import Volume
from tests.support.damages import FILES, NETWORK, VOLUME, WEIGHTS, FloatArray, Raw
from tests.support.mr_series import mr_datasets, write_series
from trainer.data.inventory import OPEN_DATA, read_inventory
from trainer.data.sources import Source, Split
from trainer.data.volumes import volume_of
from trainer.judging import cases

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
    for source in read_inventory(options.inventory, options.studies):
        if options.subjects and not {source.label, source.subject} & set(options.subjects):
            continue
        volume = volume_of(source)
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


# The looks at results and files.


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


# The lines and tables that are printed.

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
    """Make a row for each check: its limit, and the good series that comes nearest to it."""
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
    """Make a row for each damage: on how many series it was held, by which checks, how far beyond, where not."""
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
    """The median of the figures that hold, in times the limit."""
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
    parser.add_argument("--inventory", type=Path, default=OPEN_DATA, metavar="FILE")
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
