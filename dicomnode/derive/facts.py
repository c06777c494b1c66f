"""What a derived series is computed from, and the UIDs that follow from it (DERIVED §3.1–3.3).

The same source, plan and version of the code give the same UIDs and the same bytes; anything else gives other UIDs.
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
from numpy.typing import NDArray

from dicomnode.derive.copies import Copies
from dicomnode.derive.decimals import decimal_text
from dicomnode.ids import AeTitle, derived_uid
from dicomnode.imaging.headers import InstanceHeader
from dicomnode.imaging.stack import Stack
from dicomnode.imaging.volume import Vector, Volume

DERIVE_VERSION = 2  # raised by hand when this room or the inference writes other bytes; part of every derived UID
SERIES_KIND = "thin"  # another kind of result of the same job needs UIDs of its own
LINEAR_LOCATION_MM = 0.01  # Slice Location that runs so straight is the scanner's own axis, and is kept
MINUTES_PER_DAY = 24 * 60
THIN_GRID_MM = 1e-3  # a generator's grid may differ so far from the block-aligned one

_OFFSET = re.compile(r"[+-]\d{4}")


@dataclass(frozen=True, slots=True, kw_only=True)
class DerivationPlan:
    """What decides a derived series beside its source: pinned in the job, so that a second try writes the same."""

    namespace: uuid.UUID  # the node's own UUID; ``infer`` draws one at each run
    ae_title: AeTitle
    rule: str
    model: str
    model_kind: str
    model_digest: str
    parameters: str = "{}"  # canonical JSON of the rule's keys that change pixels or tags
    derivation_number: int = 1
    created_at: datetime  # aware; written on the source's clock, else on this machine's
    ratio: int | None = None  # pinned by the job; None: as the verdict says


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Facts:
    """What the attribute tables are computed from."""

    stack: Stack
    thin: Volume
    plan: DerivationPlan
    ratio: int
    seed: str
    series_uid: str
    slope: float  # of the stored values of the result
    intercept: float
    moment: datetime  # plan.created_at on the clock that is written
    copies: Copies  # of what the source slices share
    location: tuple[float, float] | None  # the scanner's Slice Location as (per thick slice, at slice 0)

    @property
    def first(self) -> InstanceHeader:
        """Of the source: the slice that lies first along the normal."""
        return self.stack.headers[0]

    @property
    def spacing_mm(self) -> float:
        """Between thin slices."""
        return self.thin.slice_spacing_mm

    @property
    def series_number(self) -> str:
        """Of the source, as words take it."""
        return "of unknown number" if self.first.series_number is None else str(self.first.series_number)

    def position_mm(self, index: int) -> Vector:
        """Centre of the first voxel of a thin slice, counted along the normal."""
        return self.thin.origin_mm + index * self.thin.slice_step_mm

    def stored(self, index: int) -> NDArray[np.float64]:
        """Stored values of a thin slice before they are fitted into the pixel format; half goes to even.

        In float64, one slice at a time: float32 would lose the last bit of 16-bit values with an intercept.
        """
        frame = self.thin.voxels[index].astype(np.float64)
        assert np.isfinite(frame).all(), "a generator returned what is no number"
        frame -= self.intercept
        frame /= self.slope
        rounded: NDArray[np.float64] = np.rint(frame, out=frame)
        return rounded


def facts_of(stack: Stack, thin: Volume, plan: DerivationPlan) -> Facts:
    """Of ``thin``, which must lie on the block-aligned grid of ``stack``."""
    ratio, remainder = divmod(len(thin.voxels), len(stack.volume.voxels))
    assert ratio >= 1
    assert remainder == 0, "each thick slice owns the same number of thin ones"
    assert plan.created_at.tzinfo is not None
    aligned_mm = stack.volume.origin_mm - stack.volume.slice_step_mm * (ratio - 1) / (2 * ratio)
    assert np.abs(thin.origin_mm - aligned_mm).max() < THIN_GRID_MM, "half-block error (DERIVED §3.1)"
    assert np.abs(thin.slice_step_mm * ratio - stack.volume.slice_step_mm).max() < THIN_GRID_MM
    slope, intercept = _stored_scale(stack)
    seed = _seed(stack, plan, ratio)
    return Facts(
        stack=stack,
        thin=thin,
        plan=plan,
        ratio=ratio,
        seed=seed,
        series_uid=derived_uid(plan.namespace, f"series:{seed}"),
        slope=slope,
        intercept=intercept,
        moment=_local(plan.created_at, stack.headers[0].text("TimezoneOffsetFromUTC")),
        copies=Copies(stack.headers),
        location=_location_line(stack.headers),
    )


def _stored_scale(stack: Stack) -> tuple[float, float]:
    """Slope and intercept of the result: the source's, or one for all slices that uses the whole pixel format."""
    form = stack.format
    if form.has_uniform_rescale:
        return form.slope, form.intercept
    # Unsigned words cannot hold what is below zero, so there the scale begins at the least value.
    intercept = 0.0 if form.is_signed else float(decimal_text(min(stack.minimum, 0.0)))
    slope = (stack.maximum - intercept) / form.highest
    if form.is_signed:
        slope = max(slope, stack.minimum / form.lowest)
    return (float(decimal_text(slope)) if slope > 0 else 1.0), intercept


def _seed(stack: Stack, plan: DerivationPlan, ratio: int) -> str:
    """All that decides the bytes, in one digest: same UID must mean same bytes (DERIVED §3.2)."""
    first = stack.headers[0]
    content = {
        "study": first.study_uid,
        "series": first.series_uid,
        "instances": sorted(
            [header.sop_instance_uid, sha256] for header, sha256 in zip(stack.headers, stack.sha256, strict=True)
        ),
        "identity": first.identity_digest,
        "kind": SERIES_KIND,
        "ratio": ratio,
        "parameters": json.loads(plan.parameters),
        "model": plan.model_digest,
        "derive": DERIVE_VERSION,
        "derivation": plan.derivation_number,
        # Pinned in the job like the rest. A ledger put back from a copy counts derivations anew, at another moment.
        "created": plan.created_at.astimezone(UTC).isoformat(),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _local(moment: datetime, offset: str) -> datetime:
    """The moment on the clock that the source's other times are read by: its "+0100" (C.12.1.1.8), else the house's."""
    minutes = int(offset[1:3]) * 60 + int(offset[3:]) if _OFFSET.fullmatch(offset) else None
    if minutes is None or minutes >= MINUTES_PER_DAY:
        return moment.astimezone()
    return moment.astimezone(timezone(timedelta(minutes=minutes if offset[0] == "+" else -minutes)))


def _location_line(headers: Sequence[InstanceHeader]) -> tuple[float, float] | None:
    """Slice Location as a straight line over the slices, where the scanner's own runs straight.

    Its zero and sign are the vendor's; whoever measures between series by it must find ours on the same axis.
    """
    try:
        stated = np.array([float(header.text("SliceLocation")) for header in headers])
    except ValueError:
        return None
    if not np.isfinite(stated).all():
        return None
    index = np.arange(len(stated), dtype=np.float64)
    slope, start = np.polyfit(index, stated, 1)
    if np.abs(start + slope * index - stated).max() > LINEAR_LOCATION_MM:
        return None
    return float(slope), float(start)
