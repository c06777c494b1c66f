"""The tables of a report as text cells, made once and shown by terminal and page alike.

A number that is missing is a dash, never a zero. Words are our own and the inventory's labels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from trainer.judging.dial import default_sharpness
from trainer.judging.evaluate import Evaluation
from trainer.judging.methods import BASELINE
from trainer.judging.summary import MEASURES, MethodRow, SubjectRow

DASH = "–"
DIGITS = {
    "psnr": 2, "gain": 2, "worst_phase_psnr": 2, "ssim": 4, "haarpsi": 4, "feature_distance": 4, "lpips": 4,
    "dists": 4, "gradient_error": 4, "z_detail": 3, "edge_width": 2, "noise_spread": 3, "residual": 3,
    "blobs": 1, "ceiling_share": 3,
}  # fmt: skip
SHORT = {
    "psnr": "PSNR dB", "gain": "gain dB", "worst_phase_psnr": "worst phase dB", "ssim": "SSIM", "haarpsi": "HaarPSI",
    "feature_distance": "features", "lpips": "LPIPS", "dists": "DISTS", "mse": "MSE raw²", "mse_table": "table MSE",
    "gradient_error": "z-gradient", "z_detail": "z-detail", "edge_width": "edge", "noise_spread": "noise spread",
    "residual": "residual σ", "blobs": "blobs", "ceiling_share": "of ceiling",
}  # fmt: skip
PROBE_DIGITS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Cells as text, for a terminal and a page."""

    caption: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    texts: int = 1  # leading columns of words
    models: frozenset[str] = frozenset()  # first cells that are models


def source_table(evaluation: Evaluation) -> Table:
    """The table of the volumes."""
    return Table(
        caption="Volumes",
        headings=("volume", "subject", "split", "licence"),
        rows=tuple((label, subject, str(split), licence) for label, subject, split, licence in evaluation.sources),
        texts=4,
    )


def method_table(evaluation: Evaluation) -> Table:
    """The table of the methods."""
    return Table(
        caption="Methods; nearest is the thick slices as they are (the identity)",
        headings=("method", "kind", "digest", "ratios", "what was measured put back"),
        rows=tuple(
            (
                method.name,
                method.kind,
                method.digest[:16],
                f"{method.ratios[0]} to {method.ratios[1]}",
                "yes" if method.is_projected else "no",
            )
            for method in evaluation.methods
        ),
        texts=5,
        models=_models(evaluation),
    )


def subject_tables(evaluation: Evaluation) -> list[Table]:
    """One table for each subject and group: a line a method."""
    shown = _shown_measures(evaluation)
    tables = []
    for group, subject in dict.fromkeys((row.group, row.subject) for row in evaluation.subjects):
        own = [row for row in evaluation.subjects if (row.group, row.subject) == (group, subject)]
        count = own[0].cases
        cases = "1 case" if count == 1 else f"mean of {count} cases"
        tables.append(
            Table(
                caption=f"{subject} ({own[0].split}, {group}): {cases}",
                headings=("method", *(SHORT[name] for name in shown), "smallest gain"),
                rows=tuple(_subject_cells(row, shown) for row in own),
                models=_models(evaluation),
            )
        )
    return tables


def _subject_cells(row: SubjectRow, shown: Sequence[str]) -> tuple[str, ...]:
    measured = (_cell(name, row.means[name], row.method) for name in shown)
    return row.method, *measured, _cell("gain", row.smallest_gain, row.method)


def group_tables(evaluation: Evaluation) -> list[Table]:
    """Mean ± sd [interval] of every method, one table for each group."""
    shown = _shown_measures(evaluation)
    tables = []
    for group in dict.fromkeys(row.group for row in evaluation.estimates):
        found = {(row.method, row.measure): row for row in evaluation.estimates if row.group == group}
        methods = dict.fromkeys(method for method, _ in found)
        subjects = max(row.estimate.subjects for row in found.values())
        counted = "1 subject" if subjects == 1 else f"{subjects} subjects"
        tables.append(
            Table(
                caption=f"All subjects, {group}: {counted}, mean ± sd [95 % interval]",
                headings=("method", *(SHORT[name] for name in shown)),
                rows=tuple((method, *(_estimate(found.get((method, name))) for name in shown)) for method in methods),
                models=_models(evaluation),
            )
        )
    return tables


def comparison_table(evaluation: Evaluation) -> Table:
    """Models against cubic-dc."""
    models = _models(evaluation)
    return Table(
        caption="Against cubic-dc, subject by subject (two-sided Wilcoxon signed-rank test)",
        headings=("method", "cases", "measure", "mean difference", "better on", "p"),
        rows=tuple(
            (
                row.method,
                row.group,
                MEASURES[row.measure][0],
                f"{row.comparison.mean_difference:+.4f}",
                f"{row.comparison.better_on} of {row.comparison.subjects}",
                row.comparison.why if row.comparison.p is None else f"{row.comparison.p:.4f}",
            )
            for row in evaluation.comparisons
            if row.method in models
        ),
        texts=3,
        models=models,
    )


def paper_table(evaluation: Evaluation) -> Table:
    """The table of slice pairs, with the paper's own column."""
    return Table(
        caption="The paper's Table 1: table = Σ over a slice ÷ rows (512 × the mean at 512²), raw units²",
        headings=("subject", "pairs", "method", "output", "n", "table MSE", "true MSE", "PSNR dB", "SSIM"),
        rows=tuple(
            (
                row.subject,
                row.origin.value,
                row.method,
                row.channel,
                str(row.pairs),
                _number(row.mse_table, None),
                _number(row.mse, None),
                _number(row.psnr, 2),
                _number(row.ssim, 4),
            )
            for row in evaluation.paper_table
        ),
        texts=4,
    )


def probe_table(evaluation: Evaluation) -> Table:
    """The table of the probes, whose right answers are known."""
    return Table(
        caption="Stacks whose right answer is known",
        headings=("what", "volume", "method", "cubic-dc", "model"),
        rows=tuple(
            (
                one.what,
                one.label,
                one.method,
                _number(one.cubic_dc, PROBE_DIGITS),
                _number(one.model, PROBE_DIGITS),
            )
            for one in evaluation.probes
        ),
        texts=3,
    )


def dial_table(evaluation: Evaluation) -> Table:
    """The effect of each sharpness of a model on what counts, at the place where it does worst."""
    chosen = {
        model: default_sharpness([row for row in evaluation.dial if row.model == model])
        for model in dict.fromkeys(row.model for row in evaluation.dial)
    }
    words = ", ".join(f"{model}: {sharpness:g}" for model, sharpness in chosen.items())
    return Table(
        caption=f"Sharpness, against sharpness 0; default by these conditions: {words}",
        headings=("model", "sharpness", "condition", "where it is met least", "", "worst"),
        rows=tuple(
            (
                row.model,
                f"{row.sharpness:g}",
                condition.what,
                condition.where,
                "met" if condition.holds else "MISSED",
                _number(condition.worst, PROBE_DIGITS),
            )
            for row in evaluation.dial
            for condition in row.conditions
        ),
        texts=5,
    )


def case_table(evaluation: Evaluation) -> Table:
    """The table of every row."""
    shown = _shown_measures(evaluation)
    rows = []
    for row in evaluation.rows:
        case = row.case
        profile = f"{case.profile} {case.thickness_over_spacing:g}"
        facts = (case.label, str(case.plane), str(case.ratio), profile, _number(case.noise_sigma, 4), row.method)
        measured = (_cell(name, MEASURES[name][1](row), row.method) for name in shown)
        rows.append((*facts, *measured, " ".join(_number(sigma, 4) for sigma in row.scores.phase_noise)))
    return Table(
        caption="Profile: the true one, shape and thickness ÷ spacing; every method assumes a box",
        headings=(
            "volume",
            "plane",
            "ratio",
            "profile",
            "noise σ",
            "method",
            *(SHORT[name] for name in shown),
            "slice noise σ by phase",
        ),
        rows=tuple(rows),
    )


def _models(evaluation: Evaluation) -> frozenset[str]:
    return frozenset(method.name for method in evaluation.methods if method.is_model)


def _shown_measures(evaluation: Evaluation) -> list[str]:
    """The measures but those that no method has: their weights were not given."""
    return [name for name in MEASURES if any(row.means[name] is not None for row in evaluation.subjects)]


def _cell(measure: str, value: float | None, method: str) -> str:
    if measure in ("gain", "ceiling_share") and method == BASELINE:
        return DASH
    text = _number(value, DIGITS.get(measure))
    return f"+{text}" if measure == "gain" and value is not None and 0 <= value < math.inf else text


def _estimate(row: MethodRow | None) -> str:
    if row is None or (row.measure in ("gain", "ceiling_share") and row.method == BASELINE):
        return DASH
    digits, found = DIGITS.get(row.measure), row.estimate
    text = _number(found.mean, digits)
    if found.sd is None or found.low is None or found.high is None:
        return text
    return f"{text} ± {_number(found.sd, digits)} [{_number(found.low, digits)}, {_number(found.high, digits)}]"


def _number(value: float | None, digits: int | None) -> str:
    """Fixed digits, or four significant ones; a dash for what is no number."""
    if value is None or not math.isfinite(value):
        return DASH
    return f"{value:.4g}" if digits is None else f"{value:.{digits}f}"


def aligned(table: Table) -> Iterator[str]:
    columns = list(zip(table.headings, *table.rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    for row in (table.headings, *table.rows):
        cells = [
            cell.ljust(width) if place < table.texts else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()
