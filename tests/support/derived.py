"""A source, what was derived from it, and the real series that this is tried on."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset

from dicomnode.derivation import DerivationParameters
from dicomnode.derive.encode import DerivedFile, derive, derive_spread
from dicomnode.derive.facts import DerivationPlan
from dicomnode.generators.base import thin_volume
from dicomnode.generators.cubic_dc import CubicDc
from dicomnode.ids import AeTitle
from dicomnode.imaging.frame import read_frames
from dicomnode.imaging.profile import thin_grid
from dicomnode.imaging.stack import Stack, load_volume
from dicomnode.imaging.volume import Volume
from tests.support.phantom import Phantom, write_datasets

SMALL = Phantom(slices=6, rows=20, columns=24, spacing_mm=4.0)
NAMESPACE = uuid.UUID("b4a8a5a6-52f1-4a1c-8f5d-0a4f0f2f7d01")
PLAN = DerivationPlan(
    parameters=DerivationParameters(rule="thick T2", model="cubic-dc", model_digest="cubic-dc/1"),
    model_kind="cubic-dc",
    namespace=NAMESPACE,
    ae_title=AeTitle("DICOMNODE"),
    created_at=datetime(2026, 3, 4, 5, 6, 7, 89000, tzinfo=UTC),
)
CLEAN = ("prostatex/t2_sag", "prostatex/t2_cor", "brain_t1_fl2d")  # no dciodvfy error in the source
REAL = (*CLEAN, "lumbar/t2_sag", "mimbcd_uta11/t1_tse_3p3")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Made:
    """A source and what was derived from it."""

    stack: Stack
    files: list[DerivedFile]
    notes: tuple[str, ...]
    clipped: int

    @property
    def datasets(self) -> list[Dataset]:
        """The derived instances, decoded by pydicom, by Instance Number."""
        return [dcmread(BytesIO(file.content)) for file in self.files]

    def write(self, folder: Path) -> list[Path]:
        """The derived files on disk."""
        folder.mkdir(parents=True)
        paths = [folder / f"{file.instance_number:04d}.dcm" for file in self.files]
        for path, file in zip(paths, self.files, strict=True):
            path.write_bytes(file.content)
        return paths


def made_from(
    paths: Sequence[Path],
    ratio: int,
    plan: DerivationPlan = PLAN,
    generate: Callable[[Volume], Volume] | None = None,
    *,
    consistency: bool = True,
) -> Made:
    """The derived series of the files at ``paths``."""
    stack = load_volume(read_frames(paths))
    grid = thin_grid(stack.volume, ratio)
    thin = generate(stack.volume) if generate else CubicDc().generate(stack.volume, grid, device="cpu").thin
    derivation = derive(stack, thin, plan, consistency=consistency)
    files = list(derivation.files())
    assert len(files) == derivation.count == ratio * len(stack.headers)
    return Made(stack=stack, files=files, notes=derivation.notes, clipped=derivation.clipped)


def made_of(tmp_path: Path, datasets: Sequence[Dataset], ratio: int = 3, plan: DerivationPlan = PLAN) -> Made:
    """The derived series of datasets written to a folder of their own."""
    return made_from(write_datasets(tmp_path / str(uuid.uuid4()), datasets), ratio, plan)


def spread_from(paths: Sequence[Path], ratio: int, plan: DerivationPlan = PLAN) -> tuple[Made, Volume]:
    """The series of the spread of the files at ``paths``, and the standard deviations that it is made of: noise."""
    stack = load_volume(read_frames(paths))
    grid = thin_grid(stack.volume, ratio)
    shape = (grid.slices, *stack.volume.voxels.shape[1:])
    voxels = np.abs(np.random.default_rng(0).normal(0.0, 7.0, shape)).astype(np.float32)
    deviation = thin_volume(voxels, stack.volume, grid)
    derivation = derive_spread(stack, deviation, plan)
    made = Made(stack=stack, files=list(derivation.files()), notes=derivation.notes, clipped=derivation.clipped)
    return made, deviation


def unchanged(thick: Volume) -> Volume:
    """The generator of ratio 1."""
    return thick
