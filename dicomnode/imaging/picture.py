"""Before and after in one picture: the same cut across the slices of several volumes, side by side.

One plane, one window, one scale in millimetres for all panels, so that nothing but the slices differs. Below each panel
the region with the most structure across the slices is magnified. Needs numpy and Pillow alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from dicomnode.imaging.volume import Vector, Volume

Picture = NDArray[np.float32]  # (vertical, horizontal) in display order, modality units

PANEL_PIXELS = 420  # the longer side of a panel: four of them fit a wide screen
INSET_MAGNIFICATION = 2.5
INSET_PIXELS = 190  # height of the magnified strip
NARROWEST_COLUMN = 230  # room for a title
MARGIN_PIXELS = 14
TITLE_PIXELS, CAPTION_PIXELS = 19, 14  # font heights
WINDOW_PERCENTILES = (1.0, 99.7)  # of the reference panel's cut: fat and vessels may saturate, tissue must not
BODY_LEVEL = 0.06  # of the window's top: what is above it is worth showing
BODY_MARGIN_MM = 6.0
BODY_LINE_SHARE = 0.02  # of a line has to be body: single noisy pixels do not make one
LONGEST_SHAPE = 2.2  # of a panel, long to short side; few sagittal slices would be a ribbon
BACKGROUND, INK, FAINT, MARK = (17, 18, 20), (240, 240, 240), (158, 160, 165), (255, 196, 60)


class Cut(StrEnum):
    """The planes across the slices, one of which is shown."""

    COLUMN = "column"  # fixed column: slices against rows; sagittal for an axial stack
    ROW = "row"  # fixed row: slices against columns; coronal for an axial stack


@dataclass(frozen=True, slots=True, kw_only=True)
class _Box:
    """A rectangle of a reformat, mm from its top left corner."""

    top: float
    left: float
    height: float
    width: float

    def of(self, picture: Picture, scale: float) -> Picture:
        """The part of a picture of so many pixels per mm."""
        left, top, right, bottom = self.in_pixels(scale)
        return picture[top:bottom, left:right]

    def in_pixels(self, scale: float) -> tuple[int, int, int, int]:
        """Left, top, right, bottom; boxes of one size give one number of pixels, wherever they lie."""
        left, top = round(self.left * scale), round(self.top * scale)
        return left, top, left + round(self.width * scale), top + round(self.height * scale)

    def moved(self, down: float, right: float) -> _Box:
        """The same rectangle elsewhere."""
        return replace(self, top=self.top + down, left=self.left + right)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Panel:
    """One volume of the picture. All volumes cover the same slab of the same patient."""

    title: str
    volume: Volume
    caption: str = ""
    shows_slices: bool = False  # every slice as a block of its spacing, as it was measured; smooth otherwise


def draw_panels(
    panels: Sequence[Panel], *, cut: Cut = Cut.COLUMN, at: float | None = None, footer: str = ""
) -> Image.Image:
    """The panels side by side; ``at`` is where the cut lies (0…1 of the field of view), the body's middle for None.

    The window is that of the last panel, which is the truth where there is one.
    """
    assert panels, "a picture shows something"
    reference = panels[-1].volume
    place = _body_middle(reference, cut) if at is None else at
    rough = reformat(reference, cut, place, 1.0, shows_slices=False)
    window = _window(rough)
    view = _body_box(rough, window)
    pixels_per_mm = PANEL_PIXELS / max(view.height, view.width)
    inset = _busiest(rough, view, pixels_per_mm, upright=_slices_are_vertical(reference, cut))
    letters = edge_letters(reference, cut)

    def shown(panel: Panel, box: _Box, scale: float) -> Image.Image:
        picture = reformat(panel.volume, cut, place, scale, shows_slices=panel.shows_slices)
        return _grey(box.of(picture, scale), window)

    columns = []
    for panel in panels:
        whole = shown(panel, view, pixels_per_mm)
        close = shown(panel, inset, pixels_per_mm * INSET_MAGNIFICATION)
        mark = inset.moved(-view.top, -view.left)
        columns.append(_column(panel, whole, close, mark.in_pixels(pixels_per_mm), letters))
    stated = f"{footer}  " if footer else ""
    scale = f"one window ({window[0]:.0f} to {window[1]:.0f}), one scale ({1 / pixels_per_mm:.2f} mm per pixel)"
    return _side_by_side(columns, f"{stated}All panels: {scale}.")


def png_bytes(image: Image.Image) -> bytes:
    """The picture as a file."""
    buffer = BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def reformat(volume: Volume, cut: Cut, at: float, pixels_per_mm: float, *, shows_slices: bool) -> Picture:
    """A plane across the slices on square pixels, turned as radiologists look at it.

    Superior is up; otherwise anterior is up. Left of the patient, or posterior, is at the right.
    """
    stack = volume.voxels
    lines = stack[:, :, _index(at, stack.shape[2])] if cut is Cut.COLUMN else stack[:, _index(at, stack.shape[1]), :]
    across_mm, along_mm = _axes_mm(volume, cut)
    wide = _resampled(lines, along_mm * pixels_per_mm, axis=1, nearest=False)
    plane = _resampled(wide, across_mm * pixels_per_mm, axis=0, nearest=shows_slices)
    vertical, horizontal = _axes(volume, cut)
    if not _slices_are_vertical(volume, cut):
        plane, vertical, horizontal = plane.T, horizontal, vertical
    # Row 0 is at the top: flip where the axis runs the way that belongs upwards.
    if _upward(vertical) > 0:
        plane = plane[::-1]
    if _rightward(horizontal) < 0:
        plane = plane[:, ::-1]
    return np.ascontiguousarray(plane)


def edge_letters(volume: Volume, cut: Cut) -> tuple[str, str, str, str]:
    """Patient directions at the top, bottom, left and right edge of a reformat."""
    vertical, horizontal = _axes(volume, cut)
    if not _slices_are_vertical(volume, cut):
        vertical, horizontal = horizontal, vertical
    up = vertical if _upward(vertical) > 0 else -vertical
    right = horizontal if _rightward(horizontal) > 0 else -horizontal
    return _letter(up), _letter(-up), _letter(-right), _letter(right)


def _letter(direction: Vector) -> str:
    axis = int(np.argmax(np.abs(direction)))
    return ("LR", "PA", "SI")[axis][0 if direction[axis] > 0 else 1]


def _axes(volume: Volume, cut: Cut) -> tuple[Vector, Vector]:
    """Patient directions in which the slices and the lines of a cut count up."""
    return volume.normal, volume.column_direction if cut is Cut.COLUMN else volume.row_direction


def _axes_mm(volume: Volume, cut: Cut) -> tuple[float, float]:
    """Lengths of the cut across and along the slices, outer edge to outer edge."""
    slices, rows, columns = volume.voxels.shape
    along_mm = rows * volume.row_spacing_mm if cut is Cut.COLUMN else columns * volume.column_spacing_mm
    return slices * volume.slice_spacing_mm, along_mm


def _slices_are_vertical(volume: Volume, cut: Cut) -> bool:
    """Does the axis across the slices belong upright? The one nearer to the body's long axis does, then A–P."""
    across, along = _axes(volume, cut)
    if max(abs(across[2]), abs(along[2])) >= 0.5:
        return bool(abs(across[2]) >= abs(along[2]))
    return bool(abs(across[1]) >= abs(along[1]))


def _upward(direction: Vector) -> float:
    """Positive where the direction points superior, or anterior if it runs in an axial plane."""
    return float(direction[2] if abs(direction[2]) >= 0.5 else -direction[1])


def _rightward(direction: Vector) -> float:
    """Positive where the direction points to the patient's left, or posterior in a sagittal plane."""
    return float(direction[0] if abs(direction[0]) >= abs(direction[1]) else direction[1])


def _index(share: float, length: int) -> int:
    return min(max(int(share * length), 0), length - 1)


def _resampled(plane: NDArray[np.float32], pixels: float, *, axis: int, nearest: bool) -> Picture:
    """Along one axis to so many pixels that tile the same length; linear between centres, flat beyond the end ones."""
    length = plane.shape[axis]
    count = max(round(pixels), 1)
    position = np.clip((np.arange(count) + 0.5) * length / count - 0.5, 0, length - 1)
    if nearest:
        blocks: Picture = plane.take(np.rint(position).astype(np.intp), axis=axis)
        return blocks
    below = np.floor(position).astype(np.intp)
    above = np.minimum(below + 1, length - 1)
    weight = (position - below).astype(np.float32)
    weight = weight[:, None] if axis == 0 else weight[None, :]
    mixed: Picture = plane.take(below, axis=axis) * (1 - weight) + plane.take(above, axis=axis) * weight
    return mixed


def _body_middle(volume: Volume, cut: Cut) -> float:
    """The signal's centre of mass along the axis that is cut, 0…1; the middle where there is no signal."""
    signal = volume.voxels.sum(axis=(0, 1) if cut is Cut.COLUMN else (0, 2), dtype=np.float64)
    signal = np.maximum(signal - signal.min(), 0.0)
    if not signal.sum():
        return 0.5
    return float(((np.arange(len(signal)) + 0.5) @ signal) / signal.sum() / len(signal))


def _window(picture: Picture) -> tuple[float, float]:
    low, high = (float(value) for value in np.percentile(picture, WINDOW_PERCENTILES))
    return (low, high) if high > low else (low, low + 1.0)


def _body_box(picture: Picture, window: tuple[float, float]) -> _Box:
    """The box of body and margin in a picture with one pixel per mm; long shapes are cut about their middle."""
    body = picture > window[0] + BODY_LEVEL * (window[1] - window[0])
    sides = []
    for axis in (1, 0):
        lines = np.flatnonzero(body.mean(axis=axis) > BODY_LINE_SHARE)
        length = float(picture.shape[1 - axis])
        first, last = (lines[0], lines[-1] + 1) if len(lines) else (0, length)
        sides.append((max(first - BODY_MARGIN_MM, 0.0), min(last + BODY_MARGIN_MM, length)))
    (top, height), (left, width) = ((first, last - first) for first, last in sides)
    limit = LONGEST_SHAPE * min(height, width)
    top, height = (top + (height - limit) / 2, limit) if height > limit else (top, height)
    left, width = (left + (width - limit) / 2, limit) if width > limit else (left, width)
    return _Box(top=top, left=left, height=height, width=width)


def _busiest(picture: Picture, view: _Box, pixels_per_mm: float, *, upright: bool) -> _Box:
    """The box whose values change most across the slices; magnified it is as wide as its panel."""
    seen = view.of(picture, 1.0)
    width = view.width / INSET_MAGNIFICATION
    height = min(INSET_PIXELS / INSET_MAGNIFICATION / pixels_per_mm, view.height)
    change = np.abs(np.diff(seen, axis=0 if upright else 1)).astype(np.float64)
    change = np.minimum(change, np.percentile(change, 99.0))  # one bright edge of skin is no structure
    total = np.pad(change.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    rows, columns = min(int(height), change.shape[0]), min(int(width), change.shape[1])
    sums = total[rows:, columns:] - total[:-rows, columns:] - total[rows:, :-columns] + total[:-rows, :-columns]
    top, left = (float(k) for k in np.unravel_index(np.argmax(sums), sums.shape))
    inside = min(top, view.height - height), min(left, view.width - width)
    return _Box(top=view.top + inside[0], left=view.left + inside[1], height=height, width=width)


def _grey(picture: Picture, window: tuple[float, float]) -> Image.Image:
    low, high = window
    grey = np.clip((picture - low) / (high - low) * 255.0, 0, 255).astype(np.uint8)
    return Image.fromarray(grey).convert("RGB")


def _column(
    panel: Panel,
    whole: Image.Image,
    close: Image.Image,
    mark: tuple[int, int, int, int],
    letters: tuple[str, str, str, str],
) -> Image.Image:
    """Title, caption, reformat with marked box, and the box magnified."""
    header = TITLE_PIXELS + CAPTION_PIXELS + MARGIN_PIXELS
    below = header + whole.height + MARGIN_PIXELS
    width = max(whole.width, close.width, NARROWEST_COLUMN)
    column = Image.new("RGB", (width, below + close.height), BACKGROUND)
    draw = ImageDraw.Draw(column)
    draw.text((0, 0), panel.title, fill=INK, font=_font(TITLE_PIXELS))
    draw.text((0, TITLE_PIXELS + 4), panel.caption, fill=FAINT, font=_font(CAPTION_PIXELS))
    column.paste(whole, (0, header))
    column.paste(close, (0, below))
    left, top, right, bottom = mark
    draw.rectangle((left, header + top, right - 1, header + bottom - 1), outline=MARK)
    draw.rectangle((0, below, close.width - 1, below + close.height - 1), outline=MARK)
    _write_letters(draw, letters, (0, header, whole.width, header + whole.height))
    return column


def _write_letters(draw: ImageDraw.ImageDraw, letters: tuple[str, str, str, str], box: tuple[int, ...]) -> None:
    left, top, right, bottom = box
    middle, centre, gap = (left + right) // 2, (top + bottom) // 2, 5
    places = (((middle, top + gap), "mt"), ((middle, bottom - gap), "mb"), ((left + gap, centre), "lm"))
    for letter, (place, anchor) in zip(letters, (*places, ((right - gap, centre), "rm")), strict=True):
        draw.text(
            place, letter, fill=INK, font=_font(CAPTION_PIXELS), anchor=anchor, stroke_width=2, stroke_fill=BACKGROUND
        )


def _side_by_side(columns: Sequence[Image.Image], footer: str) -> Image.Image:
    font = _font(CAPTION_PIXELS)
    width = sum(column.width for column in columns) + MARGIN_PIXELS * (len(columns) + 1)
    width = max(width, round(font.getlength(footer)) + 2 * MARGIN_PIXELS)
    height = columns[0].height + CAPTION_PIXELS + 3 * MARGIN_PIXELS
    sheet = Image.new("RGB", (width, height), BACKGROUND)
    left = MARGIN_PIXELS
    for column in columns:
        sheet.paste(column, (left, MARGIN_PIXELS))
        left += column.width + MARGIN_PIXELS
    ImageDraw.Draw(sheet).text((MARGIN_PIXELS, height - MARGIN_PIXELS - CAPTION_PIXELS), footer, fill=FAINT, font=font)
    return sheet


def _font(height: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(height)
