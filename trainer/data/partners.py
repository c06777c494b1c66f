"""Find the series that belong together: a thick and a thin one of one patient, and why all others do not.

One Frame of Reference, one orientation, fields of view that overlap, a pairing of the slices that works, edges that
agree after a rigid registration, like contrast: looked at in this order, the first that fails is the reason. What is
no pair is a ``Rejection``, never an exception.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from dicomnode.errors import InputError
from dicomnode.imaging.series_checks import MIN_SLICES
from dicomnode.imaging.verdict import VerdictReason
from trainer.data.contrast import differences
from trainer.data.pairs import WINDOW, Distances, Matches, Pairing, distances, match
from trainer.data.register import Registration, implausible, register
from trainer.data.series import Role, Series
from trainer.data.volumes import volume_of

SAME_NORMAL = 0.9998  # cosine, 1.1°: at 100 mm from the middle the planes then part by 2 mm, less than a thick slice
LEAST_COVERED = 0.25  # of the thick field of view that the thin one must show


class Reason(StrEnum):
    """Reasons why a series, or two of them, make no pair."""

    MISSING_SLICE = "missing_slice"
    UNUSABLE = "unusable"
    FRAME_OF_REFERENCE = "frame_of_reference"
    ORIENTATION = "orientation"
    NO_OVERLAP = "no_overlap"
    PAIRING = "pairing"
    REGISTRATION = "registration"
    CONTRAST = "contrast"
    NO_THIN_PARTNER = "no_thin_partner"


SENTENCES: dict[Reason, str] = {
    Reason.MISSING_SLICE: "{verdict}",
    Reason.UNUSABLE: "{verdict}",
    Reason.FRAME_OF_REFERENCE: "They stand in different Frames of Reference, so their positions cannot be compared.",
    Reason.ORIENTATION: "Their orientations differ: {angle} between the slice normals.",
    Reason.NO_OVERLAP: "They do not overlap: {what}.",
    Reason.PAIRING: "The pairing {rule} fails: {what}",
    Reason.REGISTRATION: "The registration does not agree: {what}.",
    Reason.CONTRAST: "Their contrast differs: {what}.",
    Reason.NO_THIN_PARTNER: "This thick series has no thin partner: {what}.",
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pair:
    """A thick series with its thin one."""

    thick: Series
    thin: Series
    pairing: Pairing
    matches: Matches
    distances: dict[Pairing, Distances | str]  # of both rules; a sentence where a rule fails
    registration: Registration
    contrast: tuple[str, ...]  # the differences, which were allowed


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rejection:
    """A thick series, or a thick one with another, that is not trained on."""

    subject: str
    labels: tuple[str, ...]
    reason: Reason
    sentence: str
    pair: Pair | None = None  # as far as it was found before it was rejected


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PairTable:
    """The pairs and rejections that were found in a set of series."""

    pairs: tuple[Pair, ...]
    rejections: tuple[Rejection, ...]


def find_pairs(
    found: Sequence[Series],
    *,
    pairing: Pairing = Pairing.MONOTONE,
    window: int = WINDOW,
    allow_contrast: bool = False,
) -> PairTable:
    """Every pair among series of one person each, and why the others are none.

    Decodes and registers what geometry lets through; raises InputError where a slice then cannot be decoded.
    """
    pairs: list[Pair] = []
    rejections: list[Rejection] = []
    for subject in dict.fromkeys(series.source.subject for series in found):
        own = [series for series in found if series.source.subject == subject]
        rejections += [_unusable(series) for series in own if series.role is Role.UNUSABLE]
        own = [series for series in own if not series.source.is_nifti]  # they do not say whose space they lie in
        for thick in (series for series in own if series.role is Role.THICK):
            partners = [series for series in own if series.role is Role.THIN]
            judged = [_judge(thick, thin, pairing, window, allow_contrast) for thin in partners]
            pairs += [answer for answer in judged if isinstance(answer, Pair)]
            rejections += [answer for answer in judged if isinstance(answer, Rejection)]
            if not partners:
                rejections += _without_partner(thick, own)
    return PairTable(pairs=tuple(pairs), rejections=tuple(rejections))


def _unusable(series: Series) -> Rejection:
    missing = series.reason is VerdictReason.MISSING
    reason = Reason.MISSING_SLICE if missing else Reason.UNUSABLE
    return _rejected(reason, series, verdict=series.sentence)


def _without_partner(thick: Series, own: Sequence[Series]) -> Iterator[Rejection]:
    """Says of the other thick series that they are no partners either, once for each two."""
    others = [series for series in own if series.role is Role.THICK and series is not thick]
    what = "the study holds no thin series" if not others else "the study's other series are thick too"
    yield _rejected(Reason.NO_THIN_PARTNER, thick, what=what)
    for other in others:
        if other.source.label > thick.source.label and (turned := _turned(thick, other)):
            yield _rejected(Reason.ORIENTATION, thick, other, angle=turned)


def _judge(thick: Series, thin: Series, pairing: Pairing, window: int, allow_contrast: bool) -> Pair | Rejection:
    if thick.frame_of_reference_uid != thin.frame_of_reference_uid:
        return _rejected(Reason.FRAME_OF_REFERENCE, thick, thin)
    if turned := _turned(thick, thin):
        return _rejected(Reason.ORIENTATION, thick, thin, angle=turned)
    if apart := _apart(thick, thin):
        return _rejected(Reason.NO_OVERLAP, thick, thin, what=apart)
    try:
        matches = match(thick, thin, pairing, window=window)
    except InputError as error:
        return _rejected(Reason.PAIRING, thick, thin, rule=pairing.value, what=error.sentence)
    pair = Pair(
        thick=thick,
        thin=thin,
        pairing=pairing,
        matches=matches,
        distances={rule: distances(thick, thin, rule, window=window) for rule in Pairing},
        registration=register(volume_of(thick.source), volume_of(thin.source)),
        contrast=differences(thick.contrast, thin.contrast),
    )
    if fault := implausible(pair.registration):
        return _rejected(Reason.REGISTRATION, thick, thin, pair=pair, what=fault)
    if pair.contrast and not allow_contrast:
        return _rejected(Reason.CONTRAST, thick, thin, pair=pair, what="; ".join(pair.contrast))
    return pair


def _rejected(reason: Reason, *series: Series, pair: Pair | None = None, **words: str) -> Rejection:
    return Rejection(
        subject=series[0].source.subject,
        labels=tuple(one.source.label for one in series),
        reason=reason,
        sentence=SENTENCES[reason].format(**words),
        pair=pair,
    )


def _turned(one: Series, other: Series) -> str | None:
    """The angle between two stacks' normals, where it is one.

    Stacks that run against each other lie in one orientation: positions along one normal sort them both.
    """
    cosine = abs(float(one.normal @ other.normal))
    return None if cosine >= SAME_NORMAL else f"{np.degrees(np.arccos(cosine)):.0f}°"


def _apart(thick: Series, thin: Series) -> str | None:
    """Along the normal by the slices that find one within reach, in plane by the share of the field of view."""
    reached = len(match(thick, thin, Pairing.MONOTONE))
    if reached < MIN_SLICES:
        return f"{reached} of {thick.slices} thick slices have a thin one within reach"
    low, high = _field_of_view(thick, thick)
    thin_low, thin_high = _field_of_view(thin, thick)
    common = np.clip(np.minimum(high, thin_high) - np.maximum(low, thin_low), 0.0, None)
    covered = float(np.prod(common) / np.prod(high - low))
    return f"{covered:.0%} of the thick field of view is in the thin one" if covered < LEAST_COVERED else None


def _field_of_view(series: Series, axes: Series) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Least and greatest place along the row and column direction of ``axes``, of the middle slice."""
    row, column = np.array(series.orientation[:3]), np.array(series.orientation[3:])
    across = row * (series.columns - 1) * series.pixel_spacing_mm[1]
    down = column * (series.rows - 1) * series.pixel_spacing_mm[0]
    corner = series.positions_mm[len(series.positions_mm) // 2]
    corners = np.array([corner, corner + across, corner + down, corner + across + down])
    places = corners @ np.array([axes.orientation[:3], axes.orientation[3:]]).T
    return places.min(axis=0), places.max(axis=0)
