"""The facts that a derived series is computed from, and the UIDs that follow from them (docs/derived-objects.md#grid).

The same source, plan, thin voxels and version of the code give the same UIDs and the same bytes; anything else gives
other UIDs.
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from enum import StrEnum

import numpy as np
import pydicom

from dicomnode import __version__
from dicomnode.derivation import DerivationParameters
from dicomnode.derive.copies import Copies
from dicomnode.derive.stored import Storage, deviation_storage, storage_of
from dicomnode.ids import AeTitle, derived_uid
from dicomnode.imaging.headers import InstanceHeader
from dicomnode.imaging.stack import Stack
from dicomnode.imaging.volume import Vector, Volume

DERIVE_VERSION = 3  # raised by hand when this room writes other bytes of the same voxels; part of every derived UID
LINEAR_LOCATION_MM = 0.01  # Slice Location that runs so straight is the scanner's own axis, and is kept
MINUTES_PER_DAY = 24 * 60
THIN_GRID_MM = 1e-3  # a generator's grid may differ so far from the block-aligned one


class SeriesKind(StrEnum):
    """The content of a derived series. The word is part of its UIDs."""

    THIN = "thin"
    SPREAD = "spread"  # how far thin slices lie apart, voxel by voxel: no image of the patient's anatomy


_OFFSET = re.compile(r"[+-]\d{4}")


@dataclass(frozen=True, slots=True, kw_only=True)
class DerivationPlan:
    """All but the source that decides a derived series: the same at a second try, so that it writes the same."""

    parameters: DerivationParameters
    model_kind: str
    namespace: uuid.UUID  # the node's own UUID; ``infer`` draws one at each run
    ae_title: AeTitle
    derivation_number: int = 1
    created_at: datetime  # aware; written on the source's clock, else in the time zone that it has here
    patient: Mapping[str, str] | None = None  # whose it is (derive.patient); None: as the source says


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Facts:
    """The facts from which the attribute tables compute their values."""

    stack: Stack
    thin: Volume  # what is written: thin slices, or the standard deviations of their voxels
    kind: SeriesKind
    plan: DerivationPlan
    ratio: int
    seed: str
    series_uid: str
    storage: Storage
    moment: datetime  # plan.created_at on the clock that is written
    copies: Copies  # of what the source slices share
    location: tuple[float, float] | None  # the scanner's Slice Location as (per thick slice, at slice 0)

    @property
    def first(self) -> InstanceHeader:
        """The source's slice that lies first along the normal."""
        return self.stack.headers[0]

    @property
    def spacing_mm(self) -> float:
        """The distance between thin slices."""
        return self.thin.slice_spacing_mm

    @property
    def series_number(self) -> str:
        """The source's Series Number as words take it."""
        return "of unknown number" if self.first.series_number is None else str(self.first.series_number)

    def position_mm(self, index: int) -> Vector:
        """Centre of the first voxel of a thin slice, counted along the normal."""
        return self.thin.origin_mm + index * self.thin.slice_step_mm


def facts_of(
    stack: Stack, thin: Volume, plan: DerivationPlan, *, consistency: bool, kind: SeriesKind = SeriesKind.THIN
) -> Facts:
    """Collect the facts of ``thin``, which must lie on the block-aligned grid of ``stack``.

    ``consistency``: are the averages over the thick slices to be those that were measured?
    """
    ratio, remainder = divmod(len(thin.voxels), len(stack.volume.voxels))
    assert ratio >= 1
    assert remainder == 0, "each thick slice owns the same number of thin ones"
    assert plan.created_at.tzinfo is not None
    aligned_mm = stack.volume.origin_mm - stack.volume.slice_step_mm * (ratio - 1) / (2 * ratio)
    assert np.abs(thin.origin_mm - aligned_mm).max() < THIN_GRID_MM, "half-block error"
    assert np.abs(thin.slice_step_mm * ratio - stack.volume.slice_step_mm).max() < THIN_GRID_MM
    moment = _local(plan.created_at, stack.headers[0].text("TimezoneOffsetFromUTC"))
    seed = _seed(stack, thin, plan, ratio, moment, kind)
    is_thin = kind is SeriesKind.THIN
    return Facts(
        stack=stack,
        thin=thin,
        kind=kind,
        plan=plan,
        ratio=ratio,
        seed=seed,
        series_uid=derived_uid(plan.namespace, f"series:{seed}"),
        storage=storage_of(stack, thin, ratio, consistency=consistency)
        if is_thin
        else deviation_storage(stack, thin, ratio),
        moment=moment,
        copies=Copies(stack.headers),
        location=_location_line(stack.headers),
    )


def _seed(stack: Stack, thin: Volume, plan: DerivationPlan, ratio: int, moment: datetime, kind: SeriesKind) -> str:
    """All that decides the bytes, in one digest: same UID must mean same bytes (docs/derived-objects.md#uids).

    The thin voxels themselves are part of it. Their last digits depend on more than anyone can list (GPU or CPU,
    precision, number of threads, libraries), and only here is it known where the network ran to its end.
    """
    first, parameters = stack.headers[0], plan.parameters
    content = {
        "study": first.study_uid,
        "series": first.series_uid,
        "instances": sorted(
            [header.sop_instance_uid, sha256] for header, sha256 in zip(stack.headers, stack.sha256, strict=True)
        ),
        "identity": first.identity_digest,
        "kind": kind,
        "ratio": ratio,
        "voxels": _voxels_sha256(thin),
        "parameters": parameters.pinned(),
        "model": [parameters.model, plan.model_kind, parameters.model_digest],
        "derivation": plan.derivation_number,
        # Pinned in the job like the rest. A ledger put back from a copy counts derivations anew, at another moment.
        "moment": moment.isoformat(),
        "ae_title": plan.ae_title,
        "code": [DERIVE_VERSION, __version__, pydicom.__version__],
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _voxels_sha256(thin: Volume) -> str:
    digest = hashlib.sha256()
    for frame in thin.voxels:
        digest.update(np.ascontiguousarray(frame).data)
    return digest.hexdigest()


def _local(moment: datetime, offset: str) -> datetime:
    """The moment on the clock that the source's other times are read by: its "+0100" (C.12.1.1.8), else as planned."""
    minutes = int(offset[1:3]) * 60 + int(offset[3:]) if _OFFSET.fullmatch(offset) else None
    if minutes is None or minutes >= MINUTES_PER_DAY:
        return moment
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
