"""Survey what training would use and what it would leave out: the table of ``--dry-run``, as data and as lines.

Says our labels, numbers and reasons; nothing of a patient, no UID and no path. Series Number tells the reader which
series of his archive a label is; a file that is in no series has only its name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from trainer.data.pairs import Distances, Origin, Pairing
from trainer.data.partners import Pair, PairTable, Reason
from trainer.data.people import look_alikes
from trainer.data.series import Form, Role, Series
from trainer.data.sources import Source, Split

COLUMNS = (
    "series",
    "number",
    "split",
    "role",
    "form",
    "slices",
    "spacing mm",
    "thickness mm",
    "matrix",
    "what the node says",
)
REASONS_SHOWN = 3  # in the line before a training


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesRow:
    """One series or NIfTI file."""

    label: str
    subject: str
    split: Split
    role: Role
    form: Form
    series_number: int | None
    slices: int
    slice_spacing_mm: float | None
    slice_thickness_mm: float | None
    rows: int
    columns: int
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PairRow:
    """A thick series with its thin one, and whether it is trained on."""

    subject: str
    thick: str
    thin: str
    origin: Origin
    rejected: Reason | None
    pairing: Pairing
    distances: dict[Pairing, Distances | str]  # a sentence where a rule fails
    shift_mm: float
    across_mm: float  # part of the shift along the normal
    angle_deg: float
    edges_before: float
    edges_after: float
    contrast: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RejectedRow:
    """A series or two of them, with the reason."""

    subject: str
    labels: tuple[str, ...]
    reason: Reason
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """The whole table."""

    subjects: int
    series: tuple[SeriesRow, ...]
    pairs: tuple[PairRow, ...]  # those that were found but rejected among them
    rejected: tuple[RejectedRow, ...]
    slice_pairs: int  # real ones that would be trained or judged on
    simulated_from: tuple[str, ...]  # thin volumes, from which pairs can be simulated
    warnings: tuple[str, ...] = ()  # sentences: subjects that may be one person
    notes: tuple[str, ...] = ()  # which files were passed over and why, and how far people were told apart


def survey(found: Sequence[Series], table: PairTable, *, notes: Sequence[str] = ()) -> Survey:
    """The table of a set of series and of what ``find_pairs`` made of them."""
    halted = [(rejection.pair, rejection.reason) for rejection in table.rejections if rejection.pair is not None]
    return Survey(
        subjects=len({series.source.subject for series in found}),
        series=tuple(_series_row(series) for series in found),
        pairs=tuple(_pair_row(pair, None) for pair in table.pairs)
        + tuple(_pair_row(pair, reason) for pair, reason in halted),
        rejected=tuple(
            RejectedRow(
                subject=rejection.subject,
                labels=rejection.labels,
                reason=rejection.reason,
                sentence=rejection.sentence,
            )
            for rejection in table.rejections
        ),
        slice_pairs=sum(len(pair.matches) for pair in table.pairs),
        simulated_from=tuple(series.source.label for series in found if series.role is Role.THIN),
        warnings=maybe_one_person(found),
        notes=tuple(notes),
    )


def maybe_one_person(found: Sequence[Series]) -> tuple[str, ...]:
    """A sentence for each group of subjects whom no machine can tell to be one person or several."""
    return look_alikes((series.source.subject, series.person, series.alike) for series in found)


def _series_row(series: Series) -> SeriesRow:
    return SeriesRow(
        label=series.source.label,
        subject=series.source.subject,
        split=series.source.split,
        role=series.role,
        form=series.form,
        series_number=series.series_number,
        slices=series.slices,
        slice_spacing_mm=series.slice_spacing_mm,
        slice_thickness_mm=series.slice_thickness_mm,
        rows=series.rows,
        columns=series.columns,
        sentence=series.sentence,
    )


def _pair_row(pair: Pair, rejected: Reason | None) -> PairRow:
    motion = pair.registration
    return PairRow(
        subject=pair.thick.source.subject,
        thick=pair.thick.source.label,
        thin=pair.thin.source.label,
        origin=Origin.REAL,
        rejected=rejected,
        pairing=pair.pairing,
        distances=pair.distances,
        shift_mm=round(motion.distance_mm, 2),
        across_mm=motion.across_mm,
        angle_deg=round(motion.angle_deg, 2),
        edges_before=motion.edges_before,
        edges_after=motion.edges_after,
        contrast=pair.contrast,
    )


def dry_run_lines(told: Survey) -> list[str]:
    """Plain text for a terminal."""
    lines = [f"{_count(told.subjects, 'patient')}, {len(told.series)} series", *told.warnings, ""]
    lines += _table([COLUMNS, *(_cells(row) for row in told.series)])
    lines += ["", "Pairs of a thick and a thin series:" if told.pairs else "No pair of a thick and a thin series."]
    for row in told.pairs:
        lines += [f"  {line}" for line in _pair_lines(row)]
    if told.rejected:
        lines += ["", "Not paired:"]
        lines += [f"  {' with '.join(row.labels)}: {row.sentence}" for row in told.rejected]
    if told.notes:
        lines += ["", *told.notes]
    lines += ["", f"Real slice pairs: {told.slice_pairs}."]
    if told.simulated_from:
        lines.append(f"Simulated pairs (labelled so) can be made from: {', '.join(told.simulated_from)}.")
    return lines


def summary_line(found: Sequence[Series], used: Collection[str], notes: Sequence[str]) -> str:
    """One line before a training: what it learns from, who it is judged on, what is left out and where that stands.

    ``used``: the labels of what is in the plan; ``notes`` as of ``Survey``.
    """
    chosen = [series.source for series in found if series.source.label in used]
    learned, judged = (
        [source for source in chosen if source.split is split] for split in (Split.TRAIN, Split.VALIDATION)
    )
    told = f"Learns from {_of_people(learned)}; " + (
        f"is judged on {_of_people(judged)}." if judged else "nobody is left to judge it on."
    )
    left = [series for series in found if series.source.label not in used]
    if not left and not notes:
        return told
    reasons = Counter(series.sentence for series in left).most_common()
    why = "; ".join(f"{count} × {sentence}" if count > 1 else sentence for sentence, count in reasons[:REASONS_SHOWN])
    more = f" (and {len(reasons) - REASONS_SHOWN} other reasons)" if len(reasons) > REASONS_SHOWN else ""
    what = f" Left out: {len(left)} series: {why}{more}" if left else ""
    files = f" {' '.join(notes)}" if notes else ""
    return f"{told}{what}{files} --dry-run shows every series and its reason."


def _of_people(some: Sequence[Source]) -> str:
    return f"{len(some)} series of {_count(len({source.subject for source in some}), 'patient')}"


def _cells(row: SeriesRow) -> tuple[str, ...]:
    return (
        row.label,
        "–" if row.series_number is None else str(row.series_number),
        row.split,
        row.role,
        row.form,
        str(row.slices),
        _length(row.slice_spacing_mm),
        _length(row.slice_thickness_mm),
        f"{row.rows} × {row.columns}",
        row.sentence,
    )


def _pair_lines(row: PairRow) -> Iterator[str]:
    fate = f"used, pairing {row.pairing}" if row.rejected is None else f"not used ({row.rejected})"
    yield f"{row.thick} (thick) with {row.thin} (thin), {row.origin}: {fate}"
    for pairing, apart in row.distances.items():
        if isinstance(apart, str):
            yield f"    {pairing}: {apart}"
            continue
        yield (
            f"    {pairing}: {_count(apart.pairs, 'slice pair')}; along the normal median "
            f"{apart.normal_median_mm:.2f}, max {apart.normal_max_mm:.2f} mm; of the corners in space median "
            f"{apart.corner_median_mm:.1f}, max {apart.corner_max_mm:.1f} mm"
        )
    yield (
        f"    registration: {row.shift_mm:.2f} mm ({row.across_mm:+.2f} across the slices), {row.angle_deg:.2f}°; "
        f"edges correlate {row.edges_before:.2f} before, {row.edges_after:.2f} after"
    )
    if row.contrast:
        yield f"    contrast differs: {'; '.join(row.contrast)}"


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns as wide as their widest cell, the last one open."""
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]) - 1)]
    return ["  ".join([*map(str.ljust, row[:-1], widths), row[-1]]) for row in rows]


def _length(length_mm: float | None) -> str:
    return "–" if length_mm is None else f"{length_mm:.3g}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
