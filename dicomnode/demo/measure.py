"""Measure the series that arrived at the PACS: by C-FIND, from its files, and against the truth where it is known."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pynetdicom import AE

from dicomnode.demo.pacs import Pacs
from dicomnode.errors import PeerError
from dicomnode.generators.cubic_dc import CubicDc
from dicomnode.imaging.body import body_mask, body_scale
from dicomnode.imaging.frame import read_frames
from dicomnode.imaging.metrics import psnr
from dicomnode.imaging.profile import thin_grid
from dicomnode.imaging.stack import load_volume
from dicomnode.imaging.volume import Volume

STUDY_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.2.1"  # PS3.4 Annex C.6.2
_PENDING = (0xFF00, 0xFF01)  # PS3.4 Table C.4-1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Measured:
    """One derived series as its receiver has it, beside its source and the interpolation of the same slices."""

    found: int  # instances, by C-FIND
    is_identical: bool  # its bytes are those of the archive
    thick: Volume
    cubic: Volume  # cubic-dc of the same thick slices
    derived: Volume
    truth: Volume | None
    gain_db: float | None  # PSNR of derived over that of cubic-dc


def measure(
    thick_files: Sequence[Path], truth: Path | None, pacs: Pacs, *, series_uid: str, archived: AbstractSet[str]
) -> Measured:
    """Ask the PACS and read its files; ``archived`` are the SHA-256 of the data sets that the node keeps."""
    held = [instance for instance in pacs.held() if instance.series_uid == series_uid]
    if not held:
        raise PeerError("The PACS holds nothing of the derived series.")
    thick = load_volume(read_frames(thick_files)).volume
    derived = load_volume(read_frames(instance.file for instance in held)).volume
    ratio = round(thick.slice_spacing_mm / derived.slice_spacing_mm)
    cubic = CubicDc().generate(thick, thin_grid(thick, ratio), device="cpu").thin
    known = load_volume(read_frames(sorted(truth.glob("*.dcm")))).volume if truth else None
    return Measured(
        found=_count(pacs.port, series_uid),
        is_identical={instance.sha256 for instance in held} == archived,
        thick=thick,
        cubic=cubic,
        derived=derived,
        truth=known,
        gain_db=gain_db(derived, cubic, known) if known else None,
    )


def gain_db(derived: Volume, cubic: Volume, truth: Volume) -> float:
    """Return the PSNR inside the body against the truth, derived minus cubic-dc; range 1 = 99.5th percentile there."""
    scale = np.float32(body_scale(truth.voxels))
    mask = body_mask(truth.voxels / scale)
    reached, basis = (psnr(volume.voxels / scale, truth.voxels / scale, mask) for volume in (derived, cubic))
    return reached - basis


def _count(port: int, series_uid: str) -> int:
    """Return the number of instances of a series by the PACS's answer to a C-FIND at SERIES level."""
    query = Dataset()
    query.QueryRetrieveLevel = "SERIES"
    query.StudyInstanceUID = ""
    query.SeriesInstanceUID = series_uid
    query.NumberOfSeriesRelatedInstances = None
    entity = AE(ae_title="DEMO")
    entity.add_requested_context(STUDY_ROOT_FIND)
    association = entity.associate("127.0.0.1", port)
    if not association.is_established:
        raise PeerError("The PACS of the demo does not answer.")
    try:
        answers = list(association.send_c_find(query, STUDY_ROOT_FIND))
    finally:
        association.release()
    numbers = [
        int(answer.NumberOfSeriesRelatedInstances or 0)
        for status, answer in answers
        if answer is not None and status.get("Status") in _PENDING
    ]
    return sum(numbers)
