"""The result gate: is a derived series fit to leave the node? (docs/derived-objects.md#result-gate)

In go the thick volume, what a generator made of it, and the encoded files. Out come findings: each has a figure, its
limit, and one sentence for an operator. The gate changes no voxel and reads no settings. It decides nothing: the
pipeline hands the findings on, and the ledger holds the deliveries of a series with a finding beyond its limit.

Most figures are in units of the *step*, the rms difference of neighbouring thick slices. It grows with the contrast,
the anatomy and the noise of the series, and needs no knowledge of any of them. The limits were set on good series and
on generators that were spoilt on purpose (docs/derived-objects.md#result-gate).
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np
import pydicom
from numpy.typing import NDArray

from dicomnode.generators.base import Generated
from dicomnode.generators.cubic_dc import cubic_dc
from dicomnode.imaging.body import WINDOW, body_mask, body_scale, body_window
from dicomnode.imaging.frame import UNDECODABLE, stored_values
from dicomnode.imaging.headers import InstanceHeader, header_of
from dicomnode.imaging.metrics import Mask, noise_sigma
from dicomnode.imaging.profile import assumed_thickness_over_spacing, missing_from, profile_matrix
from dicomnode.imaging.stack import Stack
from dicomnode.imaging.volume import Volume

FloatArray = NDArray[np.float32]


class Check(StrEnum):
    """The checks of the gate, in the order in which they are made."""

    RANGE = "range"
    AVERAGES = "averages"
    PUT_BACK = "put_back"
    AMOUNT = "amount"
    SYMMETRY = "symmetry"
    LEAN = "lean"
    JUMP = "jump"
    GRAIN = "grain"
    EDGES = "edges"
    OWN_SLICES = "own_slices"
    PLACE = "place"
    HEADER = "header"
    VALUES = "values"
    ENCODED_AVERAGES = "encoded_averages"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One check of one derived series."""

    check: Check
    measured: float
    limit: float
    holds: bool  # is it beyond the limit?
    sentence: str  # with the figure and the limit


# A vessel that fills a quarter of a slab is diluted in the thick slice, so a thin one may be brighter. The sharpest
# good network went 13 % of the range beyond it.
RANGE_MARGIN: Final = 0.25  # of the range of the thick series
RANGE_SHARE: Final = 1e-4  # of the voxels: a single one may be a bright vessel

# The projection leaves about its λ, a thousandth, of what it puts back.
AVERAGES_LIMIT: Final = 0.02  # steps
# In any one thick slice. Networks put back up to 0.2 steps of clinical series and 0.34 of a phantom. In a series of
# pure noise they have to put back all of it, which is 0.7 steps: there the limit is twice the noise.
PUT_BACK_LIMIT: Final = 0.7  # steps
PUT_BACK_NOISE: Final = 2.0

# Of what was added to cubic-dc. The first figure of each line is the highest of good series, the sharpest weights
# among them; the second the lowest of random weights that the check holds.
AMOUNT_LIMIT: Final = 0.9  # steps, in the worst slab: 0.49, 1.4
SYMMETRY_LIMIT: Final = 1.5  # ratio of the finest detail at mirrored places in the slab: 1.23, 2.2
LEAN_LIMIT: Final = 0.18  # correlation, of heads for another ratio: 0.11, 0.22
JUMP_LIMIT: Final = 1.25  # of a thin slice to the next, in steps of the thick slices there: 0.96, 1.5
GRAIN_LIMIT: Final = 0.85  # finest share of the detail, white noise having 1: 0.76, 1.13
EDGES_LIMIT: Final = 0.1  # correlation with the edges, at least; 0.22 of good series, below 0.18 of random weights
NOTHING_ADDED: Final = 1e-3  # steps; less has no structure to judge

# A series that is unlike what the model was trained on is known by its own slices: merged two by two, and parted again
# by the model, they must not come out much worse than by interpolation. Of good series, the worst lost 0.32 dB (0.14 dB
# were gained with the shipped weights); a model whose detail has the wrong sign, or three times its size, lost 0.73 dB
# or more of each. The network sees a twentieth of the job's pixels once more.
OWN_SLICES_LIMIT: Final = 0.5  # dB below cubic-dc
OWN_SLICES_RATIO: Final = 2
OWN_SLICES_FEWEST: Final = 12  # six pairs; of five, a good series lost 0.4 dB by chance
OWN_SLICES_SHARE: Final = 0.1  # of the pixels of a slice; each second slice makes it a twentieth
OWN_SLICES_BORDER: Final = 12  # pixels: what lies beyond the part is unknown to the network, and alters it that far

# Below these, the figures of the detail are chance.
SMALLEST_WINDOW: Final = 64  # pixels each way
FEWEST_SLICES: Final = 4
FEWEST_VOXELS: Final = 20_000  # of thick body
FEWEST_PIXELS: Final = 100  # of body in a thin slice, for a correlation

POSITION_LIMIT_MM: Final = 0.01  # coordinates are written to 1e-4 mm; a shift that matters is a tenth of a slice
FORM_TOLERANCE: Final = 1e-4  # of a direction cosine, and of a spacing as a share of it
REREAD_ROWS: Final = 4  # every fourth row of a file is compared: encoding goes wrong in whole slices, or not at all
# Values are rounded to half a stored step, and what the projection left missing is put back with them. A column of a
# slab that reaches below the least value of the source, or above what the words hold, is not compared: what is cut off
# there moves its other voxels.
VALUES_LIMIT: Final = 0.01  # steps of the series, beyond half a stored step
STORED_LIMIT: Final = 1.0  # stored steps between an average of decoded thin slices and the thick slice


def is_number(thin: Volume) -> bool:
    """Are all voxels finite numbers? A volume with others cannot be encoded."""
    return all(math.isfinite(float(frame.sum(dtype=np.float64))) for frame in thin.voxels)


def look_at_volume(thick: Volume, made: Generated, *, consistency: bool) -> list[Finding]:
    """Check what a generator made of ``thick``, before it is encoded.

    ``consistency``: does the generator promise that the thin slices average to the thick ones?
    """
    ratio, thickness = len(made.thin.voxels) // len(thick.voxels), assumed_thickness_over_spacing(thick)
    findings = [_range(thick, made.thin)]
    if consistency:
        findings.append(_averages(made.thin, thick, ratio))
    scene = _scene_of(thick)
    if scene is None:
        return findings
    thin = made.thin.voxels[:, scene.rows, scene.columns]
    missing = missing_from(thin, scene.thick, ratio, thickness) if made.missing is None else made.missing
    findings.append(_put_back(missing, scene))
    detail = cubic_dc(scene.thick, ratio, thickness)
    np.subtract(thin, detail, out=detail)  # in place: a window is as large as the whole of a small series
    if max(map(_rms, detail)) > NOTHING_ADDED * scene.step:
        findings += _of_detail(detail, thin, missing, ratio, scene)
    return findings


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trial:
    """A part of a series whose slices are known: ``merged`` holds the means of two neighbours each."""

    merged: Volume
    slices: FloatArray  # (2·n, h, w), the ones that were merged


def trial_of(thick: Volume) -> Trial | None:
    """Merge the slices of a part of ``thick`` two by two; None where the series is too small for it."""
    pairs, pixels = len(thick.voxels) // 2, thick.voxels[0].size
    side = min(int(math.sqrt(OWN_SLICES_SHARE * pixels)), WINDOW)
    if 2 * pairs < OWN_SLICES_FEWEST or side < SMALLEST_WINDOW or side > min(thick.voxels.shape[1:]):
        return None
    rows, columns = body_window(thick.voxels, side)
    slices = thick.voxels[: 2 * pairs, rows, columns]
    merged = replace(
        thick,
        voxels=(slices[::2] + slices[1::2]) / np.float32(2),
        origin_mm=thick.origin_mm + thick.slice_step_mm / 2,  # the part lies elsewhere, which no generator sees
        slice_step_mm=2 * thick.slice_step_mm,
        slice_thickness_mm=thick.slice_spacing_mm + thick.slice_thickness_mm,
    )
    return Trial(merged=merged, slices=slices)


def look_at_trial(trial: Trial, made: Generated) -> Finding:
    """Compare the slices that a generator made of merged ones, and interpolation, with those that were measured."""
    cubic = cubic_dc(trial.merged.voxels, OWN_SLICES_RATIO, assumed_thickness_over_spacing(trial.merged))
    inner = np.s_[:, OWN_SLICES_BORDER:-OWN_SLICES_BORDER, OWN_SLICES_BORDER:-OWN_SLICES_BORDER]
    error, of_cubic = (_rms((thin - trial.slices)[inner]) for thin in (made.thin.voxels, cubic))
    return _finding(
        Check.OWN_SLICES,
        20 * math.log10(error / of_cubic) if min(error, of_cubic) > 0 else 0.0,
        OWN_SLICES_LIMIT,
        "of the series' own slices, merged two by two, the model brings back less than interpolation, by {} dB "
        "(limit {})",
    )


class Reread:
    """Reads the encoded files again, one by one and in any order, and compares them with the source.

    What is expected is computed here from the source alone, and not by the code that wrote the files.
    """

    def __init__(self, stack: Stack, thin: Volume, *, consistency: bool) -> None:
        self._stack = stack
        self._thin = thin
        self._consistency = consistency
        self._ratio = len(thin.voxels) // len(stack.volume.voxels)
        thickness = assumed_thickness_over_spacing(stack.volume)
        self._weights = profile_matrix(1, self._ratio, thickness_over_spacing=thickness)[0]
        self._identity = dict(stack.headers[0].identity)
        self._numbers: dict[int, int | None] = {}  # place along the normal → Instance Number
        self._misplaced_mm = 0.0
        self._wrong: set[str] = set()  # names of attributes
        self._squares = 0.0
        self._voxels = 0
        self._slabs: dict[int, _Slab] = {}
        self._average_off = 0.0  # stored steps
        self._series: set[str] = set()
        self._instances: set[str] = set()

    def add(self, content: bytes) -> None:
        """Look at one whole Part 10 file."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they quote values
            dataset = pydicom.dcmread(io.BytesIO(content))
        try:
            stored = stored_values(dataset)
        except UNDECODABLE:
            self._wrong.add("Pixel Data")
            return
        header = header_of(dataset, Path())
        index = self._place(header)
        self._compare(header)
        if index is None or stored.shape != self._thin.voxels.shape[1:]:
            return
        slope = 1.0 if header.rescale_slope is None else header.rescale_slope
        values = stored[::REREAD_ROWS].astype(np.float64) * slope + (header.rescale_intercept or 0.0)
        owner, phase = divmod(index, self._ratio)
        brightest = slope * self._stack.format.highest + (header.rescale_intercept or 0.0)
        slab = self._slabs.get(owner) or self._slabs.setdefault(owner, self._begun(owner, brightest))
        difference = np.abs(values - self._thin.voxels[index, ::REREAD_ROWS])[slab.within]
        self._squares += float(np.square(np.maximum(difference - slope / 2, 0.0)).sum())
        self._voxels += difference.size
        slab.add(phase, self._weights[phase] * values)
        if len(slab.phases) == self._ratio:
            self._average_off = max(self._average_off, self._off(owner, slab) / slope)
            del self._slabs[owner]

    def findings(self) -> list[Finding]:
        """Say what all files together show."""
        self._compare_series()
        wrong = sorted(self._wrong)
        step = _step_of(self._stack.volume)
        off = math.sqrt(self._squares / max(self._voxels, 1))
        return [
            _finding(
                Check.PLACE,
                self._misplaced_mm,
                POSITION_LIMIT_MM,
                "an encoded slice lies {} mm from its place between the thick slices (limit {})",
            ),
            _finding(
                Check.HEADER,
                len(wrong),
                0,
                "{} attributes of the encoded files are not what the source implies (limit {})"
                + (f": {', '.join(wrong)}" if wrong else ""),
            ),
            _finding(
                Check.VALUES,
                _in_steps(off, step),
                VALUES_LIMIT,
                "the decoded files differ from the computed slices by {} of the difference between neighbouring "
                "thick slices (limit {})",
            ),
            _finding(
                Check.ENCODED_AVERAGES,
                self._average_off,
                STORED_LIMIT,
                "an average of decoded thin slices is {} stored steps from the thick slice (limit {})",
            ),
        ]

    def _place(self, header: InstanceHeader) -> int | None:
        """Return which thin slice lies nearest to the file's position; None where the file states none."""
        thick = self._stack.volume
        if header.position_mm is None:
            self._wrong.add("Image Position (Patient)")
            return None
        step_mm = thick.slice_step_mm / self._ratio
        first_mm = thick.origin_mm - thick.slice_step_mm / 2 + step_mm / 2  # the slab begins half a spacing before
        position_mm = np.array(header.position_mm)
        index = round(float((position_mm - first_mm) @ step_mm / (step_mm @ step_mm)))
        index = min(max(index, 0), len(self._thin.voxels) - 1)
        self._misplaced_mm = max(self._misplaced_mm, float(np.linalg.norm(position_mm - first_mm - index * step_mm)))
        if index in self._numbers:
            self._wrong.add("Image Position (Patient)")
            return None
        self._numbers[index] = header.instance_number
        return index

    def _compare(self, header: InstanceHeader) -> None:
        """Note every attribute that says another thing than the source implies."""
        thick, source = self._stack.volume, self._stack.headers[0]
        directions = (*thick.row_direction, *thick.column_direction)
        spacing_mm = thick.slice_spacing_mm / self._ratio
        stated = dict(header.identity)
        self._wrong |= {name for name, value in stated.items() if self._identity.get(name) != value}
        self._wrong |= {
            name
            for name, is_right in {
                "Patient ID": header.canonical("PatientID") == source.canonical("PatientID"),
                "Study Instance UID": header.study_uid == source.study_uid,
                "Frame of Reference UID": header.frame_of_reference_uid == source.frame_of_reference_uid,
                "Image Type": header.image_type[:1] == ("DERIVED",),
                "Image Orientation (Patient)": _is_near(header.orientation, directions, FORM_TOLERANCE),
                "Pixel Spacing": _is_near(
                    header.pixel_spacing_mm,
                    (thick.row_spacing_mm, thick.column_spacing_mm),
                    FORM_TOLERANCE * thick.row_spacing_mm,
                ),
                "Slice Thickness": _is_near(
                    None if header.slice_thickness_mm is None else (header.slice_thickness_mm,),
                    (spacing_mm,),
                    FORM_TOLERANCE * spacing_mm,
                ),
                "Rows": header.rows == thick.voxels.shape[1],
                "Columns": header.columns == thick.voxels.shape[2],
            }.items()
            if not is_right
        }
        self._series.add(header.series_uid)
        self._instances.add(header.sop_instance_uid)

    def _compare_series(self) -> None:
        """Note what only all files together show: one series of its own, a slice at each place, numbers in order."""
        count = len(self._thin.voxels)
        if len(self._series) != 1 or self._stack.headers[0].series_uid in self._series:
            self._wrong.add("Series Instance UID")
        if len(self._instances) != count or self._instances & {one.sop_instance_uid for one in self._stack.headers}:
            self._wrong.add("SOP Instance UID")
        rising = [self._numbers.get(index) for index in range(count)][:: self._stack.number_direction]
        if rising != list(range(1, count + 1)):
            self._wrong.add("Instance Number")

    def _begun(self, owner: int, brightest: float) -> _Slab:
        padding = self._stack.padding
        thin = self._thin.voxels[owner * self._ratio : (owner + 1) * self._ratio, ::REREAD_ROWS]
        shown = np.ones(thin.shape[1:], dtype=np.bool_) if padding is None else ~padding[owner, ::REREAD_ROWS]
        fitting = (thin >= np.float32(self._stack.minimum)) & (thin <= np.float32(brightest))
        return _Slab(shown=shown, within=shown & fitting.all(axis=0))

    def _off(self, owner: int, slab: _Slab) -> float:
        """Largest difference of a slab's average from the thick slice, or from the generator's own average."""
        if self._consistency:
            expected, compared = self._stack.measured(owner)[::REREAD_ROWS], slab.shown
        else:
            thin = self._thin.voxels[owner * self._ratio : (owner + 1) * self._ratio, ::REREAD_ROWS]
            expected, compared = np.tensordot(self._weights, thin.astype(np.float64), axes=1), slab.within
        return float(np.abs(slab.total - expected).max(where=compared, initial=0.0))


@dataclass(slots=True, kw_only=True, eq=False)
class _Slab:
    """The sum of the decoded thin slices of one thick slice, as far as they have come."""

    shown: Mask  # (h, w): no padding
    within: Mask  # (h, w): no padding, and no thin voxel that has to be cut off
    phases: set[int] = field(default_factory=set)
    total: NDArray[np.float64] | float = 0.0

    def add(self, phase: int, weighted: NDArray[np.float64]) -> None:
        """Add one slice."""
        self.phases.add(phase)
        self.total = self.total + weighted


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Scene:
    """The window of a thick series in which its figures are measured, and the units of these figures."""

    rows: slice  # of the window
    columns: slice
    thick: FloatArray  # (n, h, w) within the window
    mask: Mask  # (n, h, w): body
    step: float
    steps: NDArray[np.float64]  # (n - 1,) of each pair of neighbours, within the window
    noise: float


def _scene_of(thick: Volume) -> _Scene | None:
    """Find the window around the middle of the body; None where the series is too small to say anything of it."""
    rows, columns = body_window(thick.voxels)
    inside = thick.voxels[:, rows, columns]
    if len(inside) < FEWEST_SLICES or min(inside.shape[1:]) < SMALLEST_WINDOW:
        return None
    mask = body_mask(inside / np.float32(body_scale(inside)))
    steps = np.array([_rms(after - before) for before, after in pairwise(inside)])
    step = _rms(steps)
    if np.count_nonzero(mask) < FEWEST_VOXELS or step == 0:
        return None
    return _Scene(
        rows=rows,
        columns=columns,
        thick=inside,
        mask=mask,
        step=step,
        steps=steps,
        noise=noise_sigma(inside, mask),
    )


def _range(thick: Volume, thin: Volume) -> Finding:
    lowest, highest = float(thick.voxels.min()), float(thick.voxels.max())
    margin = RANGE_MARGIN * (highest - lowest)
    low, high = np.float32(lowest - margin), np.float32(highest + margin)
    outside = sum(
        int(np.count_nonzero((frame < low) | (frame > high)))
        for frame in thin.voxels
        if frame.min() < low or frame.max() > high
    )
    return _finding(
        Check.RANGE,
        outside / thin.voxels.size,
        RANGE_SHARE,
        f"{{}} of the thin voxels lie outside the range of the thick series by more than {RANGE_MARGIN:.0%} of it "
        "(limit {})",
    )


def _averages(thin: Volume, thick: Volume, ratio: int) -> Finding:
    thickness, step = assumed_thickness_over_spacing(thick), _step_of(thick)
    left = [
        _rms(missing_from(thin.voxels[owner * ratio : (owner + 1) * ratio], thick.voxels[[owner]], ratio, thickness))
        for owner in range(len(thick.voxels))
    ]
    return _finding(
        Check.AVERAGES,
        _in_steps(max(left), step),
        AVERAGES_LIMIT,
        "the thin slices of a slab average to another image than the thick slice, by {} of the difference between "
        "neighbouring thick slices (limit {})",
    )


def _put_back(missing: FloatArray, scene: _Scene) -> Finding:
    return _finding(
        Check.PUT_BACK,
        max(map(_rms, missing)) / scene.step,
        max(PUT_BACK_LIMIT, PUT_BACK_NOISE * scene.noise / scene.step),
        "before the projection, the thin slices of a slab missed the thick slice by {} of the difference between "
        "neighbouring thick slices (limit {})",
    )


def _of_detail(detail: FloatArray, thin: FloatArray, missing: FloatArray, ratio: int, scene: _Scene) -> list[Finding]:
    """Check what the generator added to cubic interpolation, within the window."""
    near = np.maximum(_nearest(scene.steps), scene.step / 2)  # slices that hold nothing differ by nothing
    of_slab = np.array([_rms(slab) for slab in detail.reshape(len(near), -1)])
    jumps = np.array([_rms(after - before) for before, after in pairwise(thin)])
    return [
        _finding(
            Check.AMOUNT,
            float((of_slab / near).max()),
            AMOUNT_LIMIT,
            "the detail added to cubic interpolation is as large as {} of the difference between neighbouring thick "
            "slices (limit {})",
        ),
        _symmetry(detail, ratio, scene.mask),
        _lean(detail, missing, ratio, scene.mask),
        _finding(
            Check.JUMP,
            float((jumps / np.repeat(near, ratio)[:-1]).max()),
            JUMP_LIMIT,
            "a thin slice differs from the next one by {} of the difference between the thick slices there (limit {})",
        ),
        _grain(detail, ratio, scene.mask),
        _edges(detail, thin, ratio, scene.mask),
    ]


def _symmetry(detail: FloatArray, ratio: int, mask: Mask) -> Finding:
    """Compare the finest detail at each place in a slab with that at the mirrored place.

    A slab has no upper and lower side, so on average over a series the two hold the same amount.
    """
    medians = [float(np.median(np.abs(_finest(detail[phase::ratio])[mask[:, 1:, 1:]]))) for phase in range(ratio)]
    least = max(medians) * 1e-6
    return _finding(
        Check.SYMMETRY,
        max(one / max(other, least) for one, other in zip(medians, reversed(medians), strict=True)) if least else 1.0,
        SYMMETRY_LIMIT,
        "the finest added detail at two mirrored places in the slabs differs by a factor of {} (limit {})",
    )


def _lean(detail: FloatArray, missing: FloatArray, ratio: int, mask: Mask) -> Finding:
    """Correlate what the projection put back with the difference of the detail between the ends of the slab.

    Detail that was made for other places in the slab than those where it was put leaves its average off to one side.
    """
    slabs = detail.reshape(-1, ratio, *detail.shape[1:])
    half = ratio // 2
    difference = slabs[:, ratio - half :].sum(axis=1) - slabs[:, :half].sum(axis=1)
    one, other = missing[mask], difference[mask]
    measured = abs(float(np.corrcoef(one, other)[0, 1])) if one.any() and other.any() else 0.0
    return _finding(
        Check.LEAN,
        measured,
        LEAN_LIMIT,
        "what the projection put back follows the detail at the ends of the slabs with a correlation of {} (limit {})",
    )


def _grain(detail: FloatArray, ratio: int, mask: Mask) -> Finding:
    """Measure how much of the added detail is of the size of a pixel, at the worst place in the slabs."""
    shares = []
    for phase in range(ratio):
        of_phase = detail[phase::ratio]
        whole = _rms(of_phase[mask])
        shares.append(_rms(_finest(of_phase)[mask[:, 1:, 1:]]) / whole if whole > 0 else 0.0)
    return _finding(
        Check.GRAIN,
        max(shares),
        GRAIN_LIMIT,
        "the added detail is as fine-grained as noise: {} (noise has 1, limit {})",
    )


def _edges(detail: FloatArray, thin: FloatArray, ratio: int, mask: Mask) -> Finding:
    """Measure whether detail was added where the anatomy has edges: the median correlation over the thin slices."""
    correlations = []
    for index in range(1, len(thin) - 1):
        inside = mask[index // ratio]
        added = np.abs(detail[index][inside])
        if added.size >= FEWEST_PIXELS and added.any():
            before, cubic, after = thin[index - 1 : index + 2] - detail[index - 1 : index + 2]
            down, along = np.gradient(cubic)
            across = (after - before) / 2
            edges = np.sqrt(down**2 + along**2 + across**2)[inside]
            correlations.append(float(np.corrcoef(added, edges)[0, 1]))
    measured = float(np.median(correlations)) if correlations else 1.0
    return Finding(
        check=Check.EDGES,
        measured=measured,
        limit=EDGES_LIMIT,
        holds=not measured >= EDGES_LIMIT,
        sentence=f"the added detail follows the edges of the anatomy with a correlation of {measured:.3g} "
        f"(limit {EDGES_LIMIT:g})",
    )


def _finest(frames: FloatArray) -> FloatArray:
    """Detail of the size of a pixel, of frames (N, H, W): one σ of white noise comes out as one σ."""
    across = frames[:, :, 1:] - frames[:, :, :-1]
    finest: FloatArray = (across[:, 1:] - across[:, :-1]) * np.float32(0.5)
    return finest


def _nearest(steps: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n,) for each slice: the larger one of the differences to its neighbours (n - 1,)."""
    nearest: NDArray[np.float64] = np.maximum(np.append(steps[:1], steps), np.append(steps, steps[-1:]))
    return nearest


def _step_of(thick: Volume) -> float:
    """Rms difference of neighbouring thick slices."""
    squares = [_rms(after - before) ** 2 for before, after in pairwise(thick.voxels)]
    return math.sqrt(sum(squares) / len(squares)) if squares else 0.0


def _rms(values: NDArray[np.float32] | NDArray[np.float64]) -> float:
    return math.sqrt(float(np.mean(np.square(values)))) if values.size else 0.0


def _in_steps(figure: float, step: float) -> float:
    """A figure in units of the step. In a series of equal slices every difference counts."""
    if step > 0:
        return figure / step
    return math.inf if figure > 0 else 0.0


def _is_near(stated: Sequence[float] | None, expected: Sequence[float], tolerance: float) -> bool:
    return stated is not None and bool(np.abs(np.subtract(stated, expected)).max() <= tolerance)


def _finding(check: Check, measured: float, limit: float, sentence: str) -> Finding:
    """Fill ``measured`` and ``limit`` into a sentence. What is no number is beyond every limit."""
    return Finding(
        check=check,
        measured=measured,
        limit=limit,
        holds=not measured <= limit,
        sentence=sentence.format(f"{measured:.3g}", f"{limit:.3g}"),
    )
