"""Draw a picture file of a series before and after, side by side."""

from __future__ import annotations

import itertools
from pathlib import Path

from dicomnode import durable
from dicomnode.demo.measure import Measured
from dicomnode.imaging.picture import Panel, draw_panels, png_bytes


def draw(name: str, split: str, model: str, measured: Measured, out: Path) -> Path:
    """Draw one cut of the received, interpolated, derived and, where known, true volume; return the file."""
    thick_mm, thin_mm = measured.thick.slice_spacing_mm, measured.derived.slice_spacing_mm
    gain = "" if measured.gain_db is None else f", {measured.gain_db:+.2f} dB"
    panels = [
        Panel(title="received", volume=measured.thick, caption=f"{thick_mm:.2f} mm", shows_slices=True),
        Panel(title="interpolated", volume=measured.cubic, caption=f"{thin_mm:.2f} mm, cubic-dc"),
        Panel(title="derived", volume=measured.derived, caption=f"{thin_mm:.2f} mm, {model}{gain}"),
    ]
    if measured.truth is not None:
        panels.append(Panel(title="truth", volume=measured.truth, caption="what the thick slices were computed from"))
    image = draw_panels(panels, footer=f"{name} ({split}). Computed slices, not for primary diagnosis.")
    out.mkdir(parents=True, exist_ok=True)
    path = _free(out / f"before-after-{name.partition(',')[0]}.png")
    durable.write_file(path, [png_bytes(image)])
    return path.absolute()


def _free(path: Path) -> Path:
    """Return the path, or the first free one of ``path-2``, ``path-3`` …: no picture is ever written over."""
    numbered = (path.with_stem(f"{path.stem}-{number}") for number in itertools.count(2))
    return next(one for one in itertools.chain([path], numbered) if not one.exists())
