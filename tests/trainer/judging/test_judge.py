"""Judging one case: what the rows say of methods whose quality is known beforehand."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Self

import numpy as np
import pytest
from numpy.typing import NDArray
from skimage.metrics import peak_signal_noise_ratio

from dicomnode.generators.base import Generated, Progress, no_sharpness, thin_volume
from dicomnode.generators.thin import ThinNet
from dicomnode.imaging.profile import ProfileKind, ThinGrid
from dicomnode.imaging.volume import Volume
from tests.support.model_folders import write_thin
from tests.support.phantom_sources import phantom
from tests.trainer.judging.test_cases import SOURCE, volume_of
from trainer.judging.cases import Case, prepare
from trainer.judging.judge import Judged, Row, judge, progress_line
from trainer.judging.methods import Method, baselines, load_methods

RATIO = 3


@pytest.fixture(scope="module")
def case() -> Case:
    return prepare(SOURCE, volume_of(phantom(3, extent=49)), plane=1, ratio=RATIO)


@pytest.fixture(scope="module")
def judged(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Judged:
    """An untrained net beside the baselines on one phantom."""
    folder = write_thin(tmp_path_factory.mktemp("model") / "net", net=ThinNet(channels=8, blocks=1))
    return judge(case, load_methods([folder]), keep_results=True)


def row_of(judged: Judged, method: str) -> Row:
    (row,) = (row for row in judged.rows if row.method == method)
    return row


def test_an_untrained_net_is_cubic_dc(judged: Judged) -> None:
    net, base = row_of(judged, "small"), row_of(judged, "cubic-dc")
    assert net.gain == pytest.approx(0.0, abs=1e-3)
    assert net.scores.ssim == pytest.approx(base.scores.ssim, abs=1e-4)
    assert net.scores.residual < 0.02


def test_better_methods_come_out_better(judged: Judged) -> None:
    psnr = [row.scores.psnr for row in judged.rows if row.method != "small"]
    assert psnr == sorted(psnr), "nearest, linear, cubic, cubic-dc"
    haarpsi = {row.method: row.scores.haarpsi for row in judged.rows}
    assert haarpsi["cubic-dc"] > haarpsi["cubic"] > haarpsi["nearest"]
    widths = {row.method: row.scores.edge_width for row in judged.rows}
    assert widths["linear"] > widths["cubic-dc"] > judged.rows[0].case.truth_edge_width


def test_errors_in_raw_units_are_those_of_scikit_image(case: Case, judged: Judged) -> None:
    image = judged.results["linear"]
    found = row_of(judged, "linear").scores
    truth = case.truth.astype(np.float64)
    expected = peak_signal_noise_ratio(  # type: ignore[no-untyped-call]
        truth[case.mask], image.astype(np.float64)[case.mask], data_range=1.0
    )
    assert found.psnr == pytest.approx(expected, abs=1e-4)
    assert found.mse == pytest.approx(case.scale**2 * 10 ** (-expected / 10), rel=1e-4)
    sums = ((image - truth) ** 2).sum(axis=(1, 2)) * case.scale**2
    assert found.mse_table == pytest.approx(sums.mean() / image.shape[1], rel=1e-4)


def test_only_what_puts_the_measured_back_has_no_residual(judged: Judged) -> None:
    assert row_of(judged, "cubic-dc").scores.residual < 0.02 < row_of(judged, "cubic").scores.residual
    assert row_of(judged, "nearest").scores.residual < 1e-3, "the slices as they are average to themselves"


def test_the_ceiling_stands_beside_every_gain(judged: Judged) -> None:
    base, other = row_of(judged, "cubic-dc"), row_of(judged, "nearest")
    room = base.case.ceiling_psnr - base.scores.psnr
    assert other.ceiling_share == pytest.approx(other.gain / room)
    assert base.gain == 0.0


@dataclasses.dataclass(frozen=True, eq=False)
class Oracle:
    """Returns the truth."""

    truth: NDArray[np.float32]
    name: str = "truth"
    digest: str = ""
    consistency: bool = True
    sharpness: float | None = None

    def at(self, sharpness: float) -> Self:
        """Refuse."""
        raise no_sharpness(self.name, sharpness)

    def generate(self, thick: Volume, grid: ThinGrid, *, device: str, progress: Progress | None = None) -> Generated:
        """Whatever was asked."""
        del device, progress
        return Generated(thin=thin_volume(self.truth.copy(), thick, grid))


def test_the_truth_itself_gets_full_marks(case: Case) -> None:
    perfect = Method(name="truth", generator=Oracle(case.truth), kind="oracle", digest="")
    (found,) = (row.scores for row in judge(case, [*baselines(), perfect]).rows if row.method == "truth")
    assert found.psnr == math.inf
    assert (found.z_detail, found.gradient_error, found.mse) == (1.0, 0.0, 0.0)
    assert [found.ssim, found.haarpsi] == pytest.approx([1.0, 1.0], abs=1e-6)


def test_a_wrongly_assumed_profile_costs_consistency_nothing(case: Case) -> None:
    """The slices are Gaussian, a box is assumed: its averages are the slices all the same."""
    gaussian = dataclasses.replace(case, profile=ProfileKind.GAUSSIAN)
    row = row_of(judge(gaussian, baselines()), "cubic-dc")
    assert row.scores.residual < 0.02
    assert not row.case.is_nominal


def test_a_model_that_was_not_made_for_a_ratio_has_no_row(case: Case, tmp_path: Path) -> None:
    methods = load_methods([write_thin(tmp_path / "net", ratios=(4, 5))])
    assert "small" not in {row.method for row in judge(case, methods).rows}


def test_a_progress_line_names_the_case_the_method_and_the_gain(case: Case, judged: Judged) -> None:
    line = progress_line(case, row_of(judged, "cubic"))
    assert line.startswith("ball, plane 1, ratio 3: cubic ")
    assert f"({row_of(judged, 'cubic').gain:+.2f})" in line
