"""The voxels of a source."""

from __future__ import annotations

from dicomnode.errors import InputError
from dicomnode.imaging.frame import read_frames
from dicomnode.imaging.judge import judge
from dicomnode.imaging.stack import load_volume
from dicomnode.imaging.studies import HINT, shown_name
from dicomnode.imaging.verdict import Limits
from dicomnode.imaging.volume import Volume
from trainer.data import nifti
from trainer.data.series import Role, role_of
from trainer.data.sources import Source


def volume_of(source: Source) -> Volume:
    """Decode a source: modality units, LPS, slices ascending along the normal.

    A NIfTI volume keeps its array axes as (D, H, W), its slices turned round where they fall along the normal. Raises
    InputError where the node would not take the series for a stack either: a missing slice, several orientations.
    """
    if source.fault:
        raise InputError(f"{_called(source)} cannot be used: {source.fault}", hint=HINT)
    if source.is_nifti:
        read = nifti.read_nifti(source.paths[0])
        if isinstance(read, str):
            raise InputError(f"{_called(source)} cannot be used: {read}.", hint="Leave it out.")
        return read.volume
    slices = read_frames(source.paths)
    verdict = judge(slices, Limits())
    if role_of(verdict) is Role.UNUSABLE:
        raise InputError(
            f"{_called(source)} cannot be used: {verdict.sentence}", hint="Leave it out, or send it again."
        )
    try:
        return load_volume(slices).volume
    except InputError as error:
        raise InputError(f"{_called(source)} cannot be used: {error.sentence}", hint=error.hint) from error


def _called(source: Source) -> str:
    return source.label or shown_name(source.paths[0])
