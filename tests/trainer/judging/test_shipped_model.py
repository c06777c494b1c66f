"""The weights in the package: what the node serves is what was measured."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dicomnode.generators import model_dir
from dicomnode.imaging import metrics
from dicomnode.imaging.profile import thin_grid
from tests.support.shared import SAMPLES
from trainer.data.sources import Source, Split
from trainer.data.volumes import volume_of
from trainer.judging.cases import prepare

SUBJECT, PLANE, RATIO = "m2307_t2", 2, 4  # the other contrast; the plane of the volume that the sample's slices lie in


def shipped_rows() -> list[dict[str, Any]]:
    """The shipped model's rows of its ``metrics.json``."""
    report = json.loads((model_dir.SHIPPED / "thin" / "metrics.json").read_text())
    return [row for row in report["rows"] if row["method"] == "thin"]


def probed(what: str) -> list[tuple[float, float]]:
    """(cubic-dc's, the model's) of every probe whose name begins so."""
    report = json.loads((model_dir.SHIPPED / "thin" / "metrics.json").read_text())
    return [(row["cubic_dc"], row["model"]) for row in report["probes"] if row["what"].startswith(what)]


def test_no_judged_series_fell_below_cubic_dc() -> None:
    rows = shipped_rows()
    assert {row["case"]["split"] for row in rows} == {"validation", "unseen"}
    assert len({row["case"]["label"] for row in rows}) == 17
    assert all(row["gain"] > 0 for row in rows)


def test_what_is_flat_stays_flat_and_what_rises_evenly_rises_evenly() -> None:
    assert max(model for _, model in probed("constant")) <= 0.002
    assert max(model for _, model in probed("ramp")) <= 0.005


def test_fewer_blobs_are_invented_than_by_interpolation() -> None:
    found = probed("blobs")
    assert len(found) == 6, "of each validation volume"
    assert all(model <= cubic_dc for cubic_dc, model in found)


def test_what_is_served_by_default_is_the_fidelity_set_for_no_sharpness_passed_the_rule() -> None:
    assert model_dir.read_card(model_dir.SHIPPED / "thin").sharpness == 0.0


def test_the_package_is_not_heavier_than_agreed() -> None:
    assert sum(path.stat().st_size for path in model_dir.SHIPPED.rglob("*") if path.is_file()) <= 14 * 2**20


def test_the_served_model_gains_what_its_metrics_say() -> None:
    """By way of the generator that the node loads, in the precision that it serves in; on the sample's own volume."""
    paths = tuple(sorted((SAMPLES / "brain_m2307_t2" / "thin").iterdir()))
    source = Source(label=SUBJECT, subject=SUBJECT, split=Split.VALIDATION, licence="CC0", paths=paths)
    case = prepare(source, volume_of(source), plane=0, ratio=RATIO)
    thick = case.thick_volume()
    psnr = {}
    for name in ("cubic-dc", "thin"):
        generator = model_dir.load_generator(name)
        thin = generator.generate(thick, thin_grid(thick, RATIO), device="cpu").thin.voxels
        psnr[name] = metrics.psnr(thin, case.truth, case.mask)
    (row,) = (
        row
        for row in shipped_rows()
        if (row["case"]["label"], row["case"]["plane"], row["case"]["ratio"], row["case"]["profile"])
        == (SUBJECT, PLANE, RATIO, "box")
        and row["case"]["thickness_over_spacing"] == 1.0
    )
    assert psnr["thin"] - psnr["cubic-dc"] == pytest.approx(row["gain"], abs=0.03)
