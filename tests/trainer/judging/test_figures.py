"""Pictures of the report: the window, the style that says so, and which way is up."""

from __future__ import annotations

import base64
from io import BytesIO

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.support.phantom_sources import phantom
from tests.trainer.judging.test_cases import SOURCE, volume_of
from trainer.judging.cases import prepare
from trainer.judging.figures import HIGH, LOW, FigureStyle, Panel, figure, is_shown, reformat_figures
from trainer.judging.judge import judge
from trainer.judging.methods import baselines


def pixels(panel: Panel) -> NDArray[np.uint8]:
    """What a browser would show."""
    kind, _, content = panel.uri.partition(",")
    assert kind == "data:image/png;base64"
    return np.asarray(Image.open(BytesIO(base64.b64decode(content))))


@pytest.fixture
def pictures() -> dict[str, NDArray[np.float32]]:
    """The truth is a ramp 0…1, low is half of it."""
    high = np.linspace(0, 1, 400, dtype=np.float32).reshape(20, 20)
    return {LOW: high * np.float32(0.5), HIGH: high}


def test_all_panels_share_the_window_of_the_truth(pictures: dict[str, NDArray[np.float32]]) -> None:
    made = figure("one", pictures, FigureStyle.ONE_WINDOW, note="")
    low, high = (pixels(panel) for panel in made.pictures)
    assert (high.min(), high.max()) == (0, 255)
    assert low.max() == pytest.approx(255 * (0.5 - 0.01) / 0.98, abs=1)
    assert "One window for all panels" in made.caption
    (difference,) = made.differences
    assert difference.title == "|low − high|"
    assert difference.caption == "mean 0.2500"
    assert pixels(difference).max() == 255, "half the range is beyond the window of differences"


def test_the_paper_style_stretches_every_panel_and_says_so(pictures: dict[str, NDArray[np.float32]]) -> None:
    made = figure("one", pictures, FigureStyle.PAPER, note="")
    low, high = (pixels(panel) for panel in made.pictures)
    np.testing.assert_array_equal(low, high)  # a difference of brightness is hidden, which is the trouble with it
    assert "each panel is stretched" in made.caption
    assert [panel.caption for panel in made.pictures] == ["0.00 to 0.50", "0.00 to 1.00"]


def test_a_picture_without_contrast_is_no_division_by_zero() -> None:
    empty = np.zeros((5, 8), dtype=np.float32)
    for style in FigureStyle:
        made = figure("empty", {LOW: empty, HIGH: empty}, style, note="")
        assert pixels(made.pictures[0]).max() == 0


def test_a_volume_is_shown_across_its_slices_named_by_the_patient() -> None:
    """Sagittal slices, 1 mm; taken along their own axis the reformats are coronal and axial."""
    voxels = phantom(3, extent=49)
    voxels[:, :20] = 0  # no head above: the phantom's bottom half
    case = prepare(SOURCE, volume_of(voxels), plane=0, ratio=4)
    assert is_shown(case, 4)
    assert not is_shown(case, 3)
    judged = judge(case, baselines(), keep_results=True)
    axial, coronal = reformat_figures(judged, baselines(), FigureStyle.ONE_WINDOW)
    assert "axial reformat" in axial.title
    assert "coronal reformat" in coronal.title
    assert "A at the top" in axial.caption
    assert "S at the top" in coronal.caption
    assert [panel.title for panel in coronal.pictures] == [LOW, "cubic-dc", HIGH]
    assert len({pixels(panel).shape for panel in coronal.pictures}) == 1
