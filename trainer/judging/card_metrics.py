"""Sum up an evaluation for a model's card: a few lines that can be read alone."""

from __future__ import annotations

from collections.abc import Iterator

from dicomnode.generators.card import MetricRow
from trainer.judging.evaluate import Evaluation
from trainer.judging.judge import Row
from trainer.judging.methods import BASELINE
from trainer.judging.summary import SubjectRow

DIGITS = 4


def card_metrics(evaluation: Evaluation, method: str) -> tuple[MetricRow, ...]:
    """One method's gains for each subject, what a wrongly assumed profile costs, and its probes."""
    subjects = [row for row in evaluation.subjects if row.method == method]
    base = {(row.group, row.subject): row for row in evaluation.subjects if row.method == BASELINE}
    rows = [row for row in evaluation.rows if row.method == method]
    found: list[MetricRow] = []
    for subject in subjects:
        found.extend(_of_subject(subject, base[subject.group, subject.subject], rows))
    found.extend(_of_profile(row) for row in rows if not row.case.is_nominal)
    for one in evaluation.probes:
        if one.method == method:
            found.append(_metric(one.label, f"{one.what} (cubic-dc: {one.cubic_dc:.3f})", one.model))
    return tuple(found)


def _of_subject(subject: SubjectRow, base: SubjectRow, rows: list[Row]) -> Iterator[MetricRow]:
    own = [row for row in rows if (row.case.group, row.case.subject) == (subject.group, subject.subject)]
    nominal = [row for row in own if row.case.is_nominal]
    if nominal[0].case.is_rethickened:
        yield from (
            _metric(
                row.case.label, "PSNR gain over cubic-dc, dB, own slices re-thickened by 2 (never trained on)", row.gain
            )
            for row in nominal
        )
        return
    ratios = sorted({row.case.ratio for row in nominal})
    planes = len({row.case.plane for row in nominal})
    span = f"ratio {ratios[0]}" if len(ratios) == 1 else f"ratios {ratios[0]} to {ratios[-1]}"
    over = f"{span}, {'one plane' if planes == 1 else f'{planes} planes'}"
    gain, haarpsi, of_base = subject.means["gain"], subject.means["haarpsi"], base.means["haarpsi"]
    assert gain is not None
    yield _metric(subject.subject, f"PSNR gain over cubic-dc, dB, mean of {over}", gain)
    yield _metric(subject.subject, f"PSNR gain over cubic-dc, dB, smallest of {over}", subject.smallest_gain)
    if haarpsi is not None and of_base is not None:
        yield _metric(subject.subject, f"HaarPSI gain over cubic-dc, mean of {over}", haarpsi - of_base)
    blobs, interpolated = subject.means["blobs"], base.means["blobs"]
    assert blobs is not None
    assert interpolated is not None
    yield _metric(subject.subject, f"blobs not in the truth, mean of {over} (cubic-dc: {interpolated:.3f})", blobs)


def _of_profile(row: Row) -> MetricRow:
    profile = f"{row.case.profile} of {row.case.thickness_over_spacing:g} × spacing"
    measure = f"PSNR gain over cubic-dc, dB, ratio {row.case.ratio}, one plane, true profile {profile}, box assumed"
    return _metric(row.case.label, measure, row.gain)


def _metric(volume: str, measure: str, value: float) -> MetricRow:
    return MetricRow(volume=volume, measure=measure, value=round(value, DIGITS))
