"""The paper's figure panels (low | models | high) as small pictures that stand inside an HTML file.

One grey window for all panels of a row, that of the truth, so that nothing but the method differs; below them the
absolute difference from the truth in a window of its own. The paper's figures stretched every panel by its own minimum
and maximum, which its authors took for "a different colouring"; that style is there to be recognised, and says so.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dicomnode.imaging.picture import Cut, edge_letters, reformat
from trainer.judging.cases import Case
from trainer.judging.judge import Judged
from trainer.judging.methods import BASELINE, Method
from trainer.judging.paper_table import PairPictures

Picture = NDArray[np.float32]  # (H, W), range 1 = the truth's scale

WINDOW_PERCENTILES = (1.0, 99.0)  # of the truth's picture
DIFFERENCE_SHARE = 0.25  # of the window's width is white in a difference map
PANEL_PIXELS = 260  # the longer side of a panel on the page
LOW, HIGH = "low", "high"
PLANE_NAMES = ("sagittal", "coronal", "axial")  # perpendicular to the patient's x, y and z


class FigureStyle(StrEnum):
    """The styles in which grey values are shown."""

    ONE_WINDOW = "one-window"
    PAPER = "paper"  # each panel stretched by itself


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """A picture with its title."""

    title: str
    uri: str  # data:image/png;base64,…
    width: int  # pixels on the page
    height: int
    caption: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """Rows of panels under one sentence."""

    title: str
    caption: str
    pictures: tuple[Panel, ...]
    differences: tuple[Panel, ...]


def is_shown(case: Case, ratio: int) -> bool:
    """One case for each volume: slices along its own axis, at one ratio; a re-thickened one has no other."""
    return case.is_nominal and case.plane == 0 and (case.is_rethickened or case.ratio == ratio)


def reformat_figures(judged: Judged, methods: Sequence[Method], style: FigureStyle) -> list[Figure]:
    """Both reformats across the slices, through the middle of the body."""
    case = judged.case
    shown = {method.name for method in methods if method.is_model or method.name == BASELINE}
    stacks = {LOW: judged.thick.voxels}
    stacks |= {name: image for name, image in judged.results.items() if name in shown}
    stacks[HIGH] = case.truth
    volumes = {name: case.placed(stack) for name, stack in stacks.items()}
    figures = []
    for cut in (Cut.ROW, Cut.COLUMN):
        normal = case.axes[1 if cut is Cut.ROW else 2]
        plane = PLANE_NAMES[int(np.argmax(np.abs(normal)))]
        pixels_per_mm = 1.0 / min(case.voxel_mm)
        pictures = {
            name: reformat(volume, cut, 0.5, pixels_per_mm, shows_slices=True) for name, volume in volumes.items()
        }
        letters = ", ".join(
            f"{letter} {place}"
            for place, letter in zip(
                ("at the top", "at the bottom", "left", "right"), edge_letters(volumes[HIGH], cut), strict=True
            )
        )
        title = f"{case.label}: {plane} reformat across the slices, ratio {case.ratio}"
        figures.append(figure(title, pictures, style, note=f"Slices are blocks of their spacing. {letters}."))
    return figures


def pair_figure(pictures: PairPictures, style: FigureStyle) -> Figure:
    """One slice pair as in the paper's Figures 3 and 4; of three outputs the middle one, neighbours beside it."""
    panels = {LOW: pictures.low, **pictures.results, HIGH: pictures.high}
    title = f"{pictures.subject}: one of the {pictures.origin} slice pairs"
    return figure(title, panels, style, note="In the plane of the slices; low is divided by its own scale.")


def figure(title: str, pictures: Mapping[str, Picture], style: FigureStyle, *, note: str) -> Figure:
    """Panels in the order of ``pictures``, of which ``HIGH`` is the truth; all of one shape."""
    high = pictures[HIGH]
    assert all(picture.shape == high.shape for picture in pictures.values()), title
    low_end, high_end = window(high)
    white = DIFFERENCE_SHARE * (high_end - low_end)
    if style is FigureStyle.PAPER:
        stated = "Paper style: each panel is stretched by its own minimum and maximum; greys cannot be compared"
    else:
        stated = f"One window for all panels: {low_end:.2f} to {high_end:.2f} of the truth's scale (its p1 to p99)"
    shown, differences = [], []
    for name, picture in pictures.items():
        ends = (float(picture.min()), float(picture.max())) if style is FigureStyle.PAPER else (low_end, high_end)
        caption = f"{ends[0]:.2f} to {ends[1]:.2f}" if style is FigureStyle.PAPER else ""
        shown.append(panel(name, picture, ends, caption=caption))
        if name != HIGH:
            difference = np.abs(picture - high)
            mean = f"mean {float(difference.mean()):.4f}"
            differences.append(panel(f"|{name} − high|", difference, (0.0, white), caption=mean))
    return Figure(
        title=title,
        caption=f"{stated}; differences: 0 to {white:.2f}. {note}",
        pictures=tuple(shown),
        differences=tuple(differences),
    )


def window(high: Picture) -> tuple[float, float]:
    """Grey window of the truth's picture; never empty."""
    low_end, high_end = (float(value) for value in np.percentile(high, WINDOW_PERCENTILES))
    return low_end, max(high_end, low_end + 1e-3)


def panel(title: str, picture: Picture, ends: tuple[float, float], *, caption: str) -> Panel:
    """A grey picture, magnified by the browser without smoothing."""
    low_end, high_end = ends
    grey = np.clip((picture - low_end) / max(high_end - low_end, 1e-6) * 255.0, 0, 255).astype(np.uint8)
    buffer = BytesIO()
    Image.fromarray(grey).save(buffer, format="PNG", optimize=True)
    height, width = grey.shape
    magnification = PANEL_PIXELS / max(height, width)
    return Panel(
        title=title,
        uri=f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}",
        width=max(round(width * magnification), 1),
        height=max(round(height * magnification), 1),
        caption=caption,
    )
