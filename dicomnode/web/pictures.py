"""Pictures of a derived series beside its source: PNG files, made in memory when they are asked for.

In: the archived files of both series. Out: one plane of the received volume, of the derived one, or of the difference
between the average of the derived slices and the received ones, on square pixels and in one window. Nothing is written
to a disk. The two volumes that were shown last stay in memory until others are asked for, or their files are gone.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dicomnode.archive.store import Archive
from dicomnode.errors import InputError
from dicomnode.imaging.frame import read_frames
from dicomnode.imaging.picture import Cut, edge_letters, png_bytes, reformat
from dicomnode.imaging.profile import assumed_thickness_over_spacing, missing_from
from dicomnode.imaging.stack import load_volume
from dicomnode.imaging.volume import Volume
from dicomnode.ledger.views import InstanceLine

LONGEST_PIXELS: Final = 640
MOST_VOXELS: Final = 150_000_000  # of the derived volume: 600 MB in memory
WINDOW_PERCENTILES: Final = (1.0, 99.7)
DIFFERENCE_SHARE: Final = 0.01  # of the window: such a difference has its full colour
LESS: Final = np.array((64, 132, 255), dtype=np.float32)  # colours where the average lacks, or adds, signal
MORE: Final = np.array((255, 150, 40), dtype=np.float32)

Grey = NDArray[np.float32]


class Plane(StrEnum):
    """The planes that can be shown; the first two lie across the slices."""

    COLUMN = "column"
    ROW = "row"
    SLICE = "slice"


class What(StrEnum):
    """The volumes that can be shown."""

    BEFORE = "before"
    AFTER = "after"
    DIFFERENCE = "difference"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pair:
    """A received volume and the one that was derived from it."""

    thick: Volume
    thin: Volume
    difference: Volume  # average of the derived slices minus the received one, on the grid of the received
    window: tuple[float, float]

    @property
    def ratio(self) -> int:
        """The number of derived slices for each received one."""
        return len(self.thin.voxels) // len(self.thick.voxels)

    @property
    def largest(self) -> float:
        """The largest difference, as a share of the window."""
        low, high = self.window
        return float(np.abs(self.difference.voxels).max()) / (high - low)


class Pictures:
    """The pictures of one node's archive. Safe to use from many threads, one of which works at a time."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._lock = threading.Lock()
        self._last: tuple[tuple[str, ...], Pair] | None = None  # the pair that was shown last, and its files

    def pair(self, received: Sequence[InstanceLine], derived: Sequence[InstanceLine]) -> Pair:
        """Read both volumes. Raises InputError where they do not fit or are too large, StorageError for a lost file."""
        files = tuple(one.file for one in (*received, *derived))
        with self._lock:
            if self._last is None or self._last[0] != files or not self._archive.has(files[0]):
                self._last = None  # released before the next is read: memory is for one
                self._last = (files, self._read(received, derived))
            return self._last[1]

    def png(self, pair: Pair, what: What, plane: Plane, place: int) -> bytes:
        """Draw one picture; ``place``: position of the plane, in percent of the volume."""
        with self._lock:
            return _png(pair, what, plane, place)

    def _read(self, received: Sequence[InstanceLine], derived: Sequence[InstanceLine]) -> Pair:
        thick = self._volume(received)
        if thick.voxels.size * max(len(derived) // max(len(received), 1), 1) > MOST_VOXELS:
            raise InputError("The series is too large to be shown here.", hint="A viewer at the PACS shows it.")
        thin = self._volume(derived)
        ratio, left_over = divmod(len(thin.voxels), len(thick.voxels))
        if left_over or not ratio or thin.voxels.shape[1:] != thick.voxels.shape[1:]:
            raise InputError("The two series do not lie on one grid, so they cannot be compared here.")
        missing = missing_from(thin.voxels, thick.voxels, ratio, assumed_thickness_over_spacing(thick))
        low, high = (float(value) for value in np.percentile(thick.voxels, WINDOW_PERCENTILES))
        return Pair(
            thick=thick,
            thin=thin,
            difference=replace(thick, voxels=-missing),
            window=(low, high) if high > low else (low, low + 1.0),
        )

    def _volume(self, files: Sequence[InstanceLine]) -> Volume:
        paths = {self._archive.path(one.file): one.sha256 for one in files}
        return load_volume(read_frames(list(paths)), digests=paths).volume


def letters(pair: Pair, plane: Plane) -> str:
    """Name the directions of the patient at the edges of a plane across the slices; empty for a plane in the slices."""
    if plane is Plane.SLICE:
        return ""
    top, bottom, left, right = edge_letters(pair.thick, Cut(plane))
    return f"{top} above, {bottom} below, {left} at the left, {right} at the right"


def _png(pair: Pair, what: What, plane: Plane, place: int) -> bytes:
    volume = {What.BEFORE: pair.thick, What.AFTER: pair.thin, What.DIFFERENCE: pair.difference}[what]
    picture = _cut(volume, plane, place, shows_slices=what is not What.AFTER)
    low, high = pair.window
    if what is What.DIFFERENCE:
        share = np.clip(picture / (DIFFERENCE_SHARE * (high - low)), -1.0, 1.0)[..., None]
        colours = (np.where(share < 0, LESS, MORE) * np.abs(share)).astype(np.uint8)
        return png_bytes(Image.fromarray(colours, "RGB"))
    grey = np.clip((picture - low) / (high - low) * 255.0, 0, 255).astype(np.uint8)
    return png_bytes(Image.fromarray(grey))


def _cut(volume: Volume, plane: Plane, place: int, *, shows_slices: bool) -> Grey:
    """Cut a plane on square pixels. With ``shows_slices``, each slice is a block of its spacing, as it was measured."""
    slices, rows, columns = volume.voxels.shape
    sides_mm = (rows * volume.row_spacing_mm, columns * volume.column_spacing_mm, slices * volume.slice_spacing_mm)
    across = {Plane.COLUMN: (0, 2), Plane.ROW: (1, 2), Plane.SLICE: (0, 1)}[plane]
    pixels_per_mm = LONGEST_PIXELS / max(sides_mm[side] for side in across)
    at = min(max(place, 0), 100) / 100
    if plane is not Plane.SLICE:
        return reformat(volume, Cut(plane), at, pixels_per_mm, shows_slices=shows_slices)
    frame = Image.fromarray(volume.voxels[min(int(at * slices), slices - 1)])
    size = (max(round(sides_mm[1] * pixels_per_mm), 1), max(round(sides_mm[0] * pixels_per_mm), 1))
    return np.asarray(frame.resize(size, Image.Resampling.BILINEAR), dtype=np.float32)
