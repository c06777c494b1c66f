"""The before/after picture: patient directions, one scale, one window, and what stands where."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from dicomnode.imaging.picture import Cut, Panel, draw_panels, edge_letters, png_bytes, reformat
from dicomnode.imaging.volume import Volume
from tests.support.phantom import turned


def _volume(
    degrees: tuple[float, ...], row: tuple[float, ...], column: tuple[float, ...], shape: tuple[int, ...]
) -> Volume:
    row_direction, column_direction = turned(degrees, row, column)
    return Volume(
        voxels=np.zeros(shape, dtype=np.float32),
        origin_mm=np.zeros(3),
        row_direction=row_direction,
        column_direction=column_direction,
        slice_step_mm=np.cross(row_direction, column_direction) * 4.0,
        row_spacing_mm=1.5,
        column_spacing_mm=0.5,
        slice_thickness_mm=4.0,
    )


def _axial() -> Volume:
    return _volume((0, 0, 0), (1, 0, 0), (0, 1, 0), (10, 30, 60))


def _sagittal() -> Volume:
    return _volume((0, 0, 0), (0, 1, 0), (0, 0, -1), (10, 30, 60))


def _coronal() -> Volume:
    return _volume((0, 0, 0), (1, 0, 0), (0, 0, -1), (10, 30, 60))


@pytest.mark.parametrize(
    ("volume", "cut", "letters"),
    [
        (_axial(), Cut.COLUMN, "SIAP"),
        (_axial(), Cut.ROW, "SIRL"),
        (_sagittal(), Cut.COLUMN, "SIRL"),
        (_sagittal(), Cut.ROW, "APRL"),
        (_coronal(), Cut.COLUMN, "SIAP"),
        (_coronal(), Cut.ROW, "APRL"),
        (_volume((20, -10, 5), (1, 0, 0), (0, 1, 0), (10, 30, 60)), Cut.COLUMN, "SIAP"),
    ],
)
def test_a_reformat_is_turned_as_radiologists_look_at_it(volume: Volume, cut: Cut, letters: str) -> None:
    """Superior, else anterior, is up; the patient's left, else posterior, is at the right."""
    assert "".join(edge_letters(volume, cut)) == letters


@pytest.mark.parametrize("volume", [_axial(), _sagittal(), _coronal()], ids=["axial", "sagittal", "coronal"])
@pytest.mark.parametrize("cut", list(Cut))
def test_what_is_bright_lies_where_the_letters_say(volume: Volume, cut: Cut) -> None:
    """Every voxel gets its coordinate in the direction of a letter as its value: the picture must rise towards it."""
    axes = {"L": 0, "R": 0, "P": 1, "A": 1, "S": 2, "I": 2}
    index = np.stack(np.meshgrid(*map(np.arange, volume.voxels.shape), indexing="ij"), axis=-1)
    places = index @ volume.affine[:3, :3].T
    up, _, _, right = edge_letters(volume, cut)
    for letter, axis in ((up, 0), (right, 1)):
        sign = 1.0 if letter in "LPS" else -1.0
        values = (sign * places[..., axes[letter]]).astype(np.float32)
        picture = reformat(replace(volume, voxels=values), cut, 0.5, 1.0, shows_slices=False)
        towards = picture[::-1] if axis == 0 else picture.T
        assert (np.diff(towards, axis=0) >= 0).all()
        assert towards[-1].mean() > towards[0].mean()


def test_a_pixel_is_square_in_millimetres() -> None:
    assert reformat(_axial(), Cut.COLUMN, 0.5, 2.0, shows_slices=False).shape == (80, 90)  # 40 mm up, 45 mm across
    assert reformat(_axial(), Cut.ROW, 0.5, 2.0, shows_slices=True).shape == (80, 60)
    assert reformat(_sagittal(), Cut.ROW, 0.5, 2.0, shows_slices=True).shape == (60, 80)


def test_slices_are_shown_as_blocks_or_smoothly() -> None:
    voxels = np.zeros((10, 30, 60), dtype=np.float32)
    voxels[4] = 1.0
    volume = replace(_axial(), voxels=voxels)
    blocks = reformat(volume, Cut.COLUMN, 0.5, 2.0, shows_slices=True)
    assert set(np.unique(blocks)) == {0.0, 1.0}
    lines = np.flatnonzero(blocks[:, 0])
    assert (lines[0], len(lines)) == (80 - 5 * 8, 8)  # one spacing high, the fifth from below
    assert 0.0 < reformat(volume, Cut.COLUMN, 0.5, 2.0, shows_slices=False)[lines[0] - 1, 0] < 1.0


def test_a_picture_is_a_png_with_a_column_for_each_panel() -> None:
    rng = np.random.default_rng(1)
    voxels = np.zeros((10, 60, 80), dtype=np.float32)
    voxels[:, 15:45, 20:60] = rng.uniform(300, 900, (10, 30, 40))
    volume = replace(_axial(), voxels=voxels)
    panels = [Panel(title=str(k), caption="caption", volume=volume, shows_slices=k == 0) for k in range(3)]
    one, three = draw_panels(panels[:1]), draw_panels(panels, footer="Not for primary diagnosis.")
    assert three.width > 2.5 * one.width
    with Image.open(BytesIO(png_bytes(three))) as read:
        assert read.format == "PNG"
        assert read.size == three.size
        pixels = np.asarray(read.convert("L"))
    second, third = (pixels[80:, start : start + one.width // 2] for start in (three.width // 3, 2 * three.width // 3))
    assert second.std() > 10
    assert third.std() > 10


@pytest.mark.parametrize("value", [0.0, 7.0])
def test_an_empty_volume_makes_a_picture_too(value: float) -> None:
    volume = replace(_axial(), voxels=np.full((10, 30, 60), value, dtype=np.float32))
    assert draw_panels([Panel(title="nothing", volume=volume)]).height > 100
