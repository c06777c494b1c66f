"""The weights in the package: what the node serves is what was measured."""

from __future__ import annotations

import json

import pytest

from dicomnode.generators import model_dir
from dicomnode.imaging import metrics
from dicomnode.imaging.profile import thin_grid
from tests.support.shared import SAMPLES
from trainer.data import sources
from trainer.data.sources import Source, Split
from trainer.judging.cases import prepare

SUBJECT, PLANE, RATIO = "m2307_t2", 2, 4  # the other contrast; the plane of the volume that the sample's slices lie in


def shipped_rows() -> list[dict[str, object]]:
    """All rows of the shipped model's ``metrics.json``."""
    rows: list[dict[str, object]] = json.loads((model_dir.SHIPPED / "thin" / "metrics.json").read_text())["rows"]
    return rows


def gain(row: dict[str, object]) -> float:
    """Of one row, dB."""
    assert isinstance(row["model_gain"], float)
    return row["model_gain"]


def test_no_judged_series_fell_below_cubic_dc() -> None:
    rows = shipped_rows()
    assert {row["split"] for row in rows} == {"validation", "unseen"}
    assert all(gain(row) > 0 for row in rows)


def test_the_package_is_not_heavier_than_agreed() -> None:
    assert sum(path.stat().st_size for path in (model_dir.SHIPPED / "thin").iterdir()) <= 5 * 2**20


def test_the_served_model_gains_what_its_metrics_say() -> None:
    """By way of the generator that the node loads, in the precision that it serves in; on the sample's own volume."""
    paths = tuple(sorted((SAMPLES / "brain_m2307_t2" / "thin").iterdir()))
    source = Source(label=SUBJECT, subject=SUBJECT, split=Split.VALIDATION, licence="CC0", paths=paths)
    case = prepare(source, sources.load(source), plane=0, ratio=RATIO)
    thick = case.thick_volume()
    psnr = {}
    for name in ("cubic-dc", "thin"):
        generator = model_dir.load_generator(name)
        thin = generator.generate(thick, thin_grid(thick, RATIO), device="cpu").thin.voxels
        psnr[name] = metrics.psnr(thin, case.truth, case.mask)
    (row,) = (
        row
        for row in shipped_rows()
        if (row["subject"], row["plane"], row["ratio"], row["profile"]) == (SUBJECT, PLANE, RATIO, "box")
        and row["thickness_over_spacing"] == 1.0
    )
    assert psnr["thin"] - psnr["cubic-dc"] == pytest.approx(gain(row), abs=0.03)
