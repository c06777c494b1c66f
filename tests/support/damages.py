"""Known damages of a derived series, by name: the result gate is tried on them.

In: the weights of ``thin``, the output of its network, the thin volume or the encoded files, as copies that a damage
may write to, and the ratio. A star in a name says that the limits of the gate were set without this damage.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from dicomnode.generators.thin import ThinNet
from dicomnode.imaging.smoothing import gaussian

FloatArray = NDArray[np.float32]


# Damages of the weights: they change the network that they are given.


def random_weights(net: ThinNet, _ratio: int) -> None:
    """Replace the weights of each layer by noise of the same size."""
    generator = torch.Generator().manual_seed(1)
    for parameter in net.parameters():
        size = parameter.std() if parameter.numel() > 1 else 1.0
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * size)


def heads_of_another_ratio(net: ThinNet, ratio: int) -> None:
    """Give the ratio the last layer of another ratio."""
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
    """The output of the network before the projection."""

    thin: FloatArray  # (n·r, h, w), a copy that may be written to
    cubic: FloatArray  # (n·r, h, w), what it started from
    ratio: int
    scale: float

    @property
    def detail(self) -> FloatArray:
        """The difference that the network made to its start."""
        return self.thin - self.cubic

    @property
    def middle(self) -> slice:
        """The thin slices of one slab in the middle."""
        owner = len(self.thin) // self.ratio // 2
        return slice(owner * self.ratio, (owner + 1) * self.ratio)


def not_a_number(raw: Raw) -> FloatArray:
    """Make one voxel no number."""
    raw.thin[len(raw.thin) // 2, 3, 5] = np.nan
    return raw.thin


def axes_swapped(raw: Raw) -> FloatArray:
    """Exchange rows and columns in the largest square."""
    side = min(raw.thin.shape[1:])
    raw.thin[:, :side, :side] = raw.thin[:, :side, :side].transpose(0, 2, 1).copy()
    return raw.thin


def half_a_slab_further(raw: Raw) -> FloatArray:
    """Move all slices on by half a slab."""
    return np.roll(raw.thin, max(raw.ratio // 2, 1), axis=0)


def ten_times(raw: Raw) -> FloatArray:
    """Multiply all intensities by ten."""
    return raw.thin * np.float32(10)


def mirrored(raw: Raw) -> FloatArray:
    """Exchange left and right."""
    return np.ascontiguousarray(raw.thin[:, :, ::-1])


def slab_inverted(raw: Raw) -> FloatArray:
    """Invert the contrast of one slab."""
    slab = raw.thin[raw.middle]
    slab[...] = 2 * slab.mean() - slab
    return raw.thin


def slab_reversed(raw: Raw) -> FloatArray:
    """Reverse the order of the slices of one slab."""
    raw.thin[raw.middle] = raw.thin[raw.middle][::-1].copy()
    return raw.thin


def all_slabs_reversed(raw: Raw) -> FloatArray:
    """Reverse the order of the slices of each slab."""
    return raw.thin.reshape(-1, raw.ratio, *raw.thin.shape[1:])[:, ::-1].reshape(raw.thin.shape)


def slice_repeated(raw: Raw) -> FloatArray:
    """Fill one slab with its first slice."""
    raw.thin[raw.middle] = raw.thin[raw.middle][0].copy()
    return raw.thin


def slabs_exchanged(raw: Raw) -> FloatArray:
    """Exchange two neighbouring slabs."""
    start, stop = raw.middle.start, raw.middle.stop
    before, after = raw.thin[start - raw.ratio : start].copy(), raw.thin[start:stop].copy()
    raw.thin[start - raw.ratio : start], raw.thin[start:stop] = after, before
    return raw.thin


def detail_smoothed(raw: Raw) -> FloatArray:
    """Smooth the network's detail, slice by slice, by a Gaussian of two pixels."""
    for index, frame in enumerate(raw.detail):
        raw.thin[index] = raw.cubic[index] + gaussian(frame[None], sigma=2.0, radius=6)[0]
    return raw.thin


def detail_from_elsewhere(raw: Raw) -> FloatArray:
    """Give each slab the network's detail of the third slab before it."""
    return raw.cubic + np.roll(raw.detail, 3 * raw.ratio, axis=0)


def detail_tripled(raw: Raw) -> FloatArray:
    """Add the network's detail three times."""
    return raw.cubic + 3 * raw.detail


def detail_of_half_the_slabs(raw: Raw) -> FloatArray:
    """Leave each second slab as interpolation made it."""
    detail = raw.detail.reshape(-1, raw.ratio, *raw.thin.shape[1:])
    detail[::2] = 0
    return raw.cubic + detail.reshape(raw.thin.shape)


def moved_two_pixels(raw: Raw) -> FloatArray:
    """Move all slices by two pixels along the rows."""
    return np.roll(raw.thin, 2, axis=2)


def tiles_exchanged(raw: Raw) -> FloatArray:
    """Exchange two neighbouring tiles of 32 pixels, or of half a small slice, in the middle, in all slices."""
    side = min(32, *(extent // 2 for extent in raw.thin.shape[1:]))
    row, column = (extent // 2 - side for extent in raw.thin.shape[1:])
    left, right = (np.s_[:, row : row + side, start : start + side] for start in (column, column + side))
    one, other = raw.thin[left].copy(), raw.thin[right].copy()
    raw.thin[left], raw.thin[right] = other, one
    return raw.thin


def few_levels(raw: Raw) -> FloatArray:
    """Round the intensities to 64 levels of grey."""
    levels: FloatArray = np.rint(raw.thin * np.float32(64 / raw.scale)) * np.float32(raw.scale / 64)
    return levels


def blob_pasted(raw: Raw) -> FloatArray:
    """Add a disc of four pixels' radius and half the brightness of the series to one thin slice."""
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
    """Make one voxel no number."""
    thin[len(thin) // 2, 3, 5] = np.nan
    return thin


def offset(thin: FloatArray) -> FloatArray:
    """Add two percent of the range to each voxel."""
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
    """Exchange rows and columns in the largest square of each file."""
    for dataset in datasets:
        pixels = dataset.pixel_array.copy()
        side = min(pixels.shape)
        pixels[:side, :side] = pixels[:side, :side].T.copy()
        dataset.PixelData = pixels.tobytes()


def half_a_slice_further(datasets: list[Dataset], _ratio: int) -> None:
    """Move all positions by half a thin slice."""
    first, second = (np.array(dataset.ImagePositionPatient, dtype=float) for dataset in datasets[:2])
    for dataset in datasets:
        moved = np.array(dataset.ImagePositionPatient, dtype=float) + (second - first) / 2
        dataset.ImagePositionPatient = [f"{mm:.4f}" for mm in moved]


def another_slope(datasets: list[Dataset], _ratio: int) -> None:
    """Raise Rescale Slope by four percent."""
    for dataset in datasets:
        dataset.RescaleSlope = f"{1.04 * float(dataset.get('RescaleSlope', 1)):.8g}"


def ten_times_the_slope(datasets: list[Dataset], _ratio: int) -> None:
    """Multiply Rescale Slope by ten, as a misplaced decimal point would."""
    for dataset in datasets:
        dataset.RescaleSlope = f"{10 * float(dataset.get('RescaleSlope', 1)):.8g}"


def another_intercept(datasets: list[Dataset], _ratio: int) -> None:
    """Raise Rescale Intercept by three stored steps."""
    for dataset in datasets:
        slope = float(dataset.get("RescaleSlope", 1))
        dataset.RescaleIntercept = f"{float(dataset.get('RescaleIntercept', 0)) + 3 * slope:.8g}"


def name_of_another(datasets: list[Dataset], _ratio: int) -> None:
    """Write another patient's name into one instance."""
    datasets[len(datasets) // 2].PatientName = "Somebody^Else"


def slab_of_files_reversed(datasets: list[Dataset], ratio: int) -> None:
    """Reverse the order of the pixels of one slab's files; the positions stay."""
    start = len(datasets) // ratio // 2 * ratio
    slab = datasets[start : start + ratio]
    for dataset, pixels in zip(slab, [one.PixelData for one in slab][::-1], strict=True):
        dataset.PixelData = pixels


def one_file_mirrored(datasets: list[Dataset], _ratio: int) -> None:
    """Exchange left and right in one file."""
    dataset = datasets[len(datasets) // 2]
    dataset.PixelData = dataset.pixel_array[:, ::-1].tobytes()


def one_file_of_another_series(datasets: list[Dataset], _ratio: int) -> None:
    """Give one file another Series Instance UID."""
    datasets[len(datasets) // 2].SeriesInstanceUID = "1.2.3"


def one_file_missing(datasets: list[Dataset], _ratio: int) -> None:
    """Leave out one file from the middle."""
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
