"""The lines that go into a model's card."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dicomnode.imaging.profile import ProfileKind
from tests.trainer.judging.test_summary import row
from trainer.judging.card_metrics import card_metrics
from trainer.judging.evaluate import Evaluation
from trainer.judging.probes import Probe
from trainer.judging.summary import subject_rows


def test_a_card_says_gains_by_subject_what_a_wrong_profile_costs_and_the_probes() -> None:
    rows = [row("a", "cubic-dc", 20.0), row("a", "net", 21.0), row("a", "net", 23.0, ratio=5), row("b", "net", 27.0)]
    rows += [row("a", "net", 20.5, profile=ProfileKind.GAUSSIAN), row("b", "cubic-dc", 20.0)]
    rows += [row("c", "cubic-dc", 20.0, is_rethickened=True), row("c", "net", 22.0, is_rethickened=True, label="c/1")]
    probe = Probe(what="constant 0.5: largest deviation", label="made", method="net", cubic_dc=0.0, model=0.002)
    evaluation = Evaluation(
        seed=0, sources=(), methods=(), features=None, rows=tuple(rows), subjects=tuple(subject_rows(rows)),
        estimates=(), comparisons=(), paper_table=(), dial=(), probes=(probe, replace(probe, method="other")), notes=(),
    )  # fmt: skip
    found = {(metric.volume, metric.measure): metric.value for metric in card_metrics(evaluation, "net")}
    over = "ratios 3 to 5, one plane"
    assert found["a", f"PSNR gain over cubic-dc, dB, mean of {over}"] == pytest.approx(2.0)
    assert found["a", f"PSNR gain over cubic-dc, dB, smallest of {over}"] == 1.0
    assert found["b", "PSNR gain over cubic-dc, dB, mean of ratio 3, one plane"] == 7.0
    assert found["c/1", "PSNR gain over cubic-dc, dB, own slices re-thickened by 2 (never trained on)"] == 2.0
    assert found["made", "constant 0.5: largest deviation (cubic-dc: 0.000)"] == 0.002
    (profile,) = (value for (_, measure), value in found.items() if "gaussian of 1 × spacing" in measure)
    assert profile == 0.5
    assert sum(volume == "made" for volume, _ in found) == 1, "probes of other methods stay out"
