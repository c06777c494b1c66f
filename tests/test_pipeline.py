"""The steps in order, what they answer, and that a refusal is an answer."""

from __future__ import annotations

import errno
import threading
import tracemalloc
import uuid
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Self

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydicom import dcmread

from dicomnode.derivation import DerivationParameters
from dicomnode.derive.encode import ENCODERS, DerivedFile
from dicomnode.derive.facts import DerivationPlan
from dicomnode.derive.stored import Storage
from dicomnode.errors import InputError, ModelError
from dicomnode.generators.base import Generated, Progress, no_sharpness
from dicomnode.generators.cubic_dc import CubicDc
from dicomnode.ids import AeTitle
from dicomnode.imaging.profile import ThinGrid
from dicomnode.imaging.stack import Stack, sha256_of
from dicomnode.imaging.verdict import VerdictReason
from dicomnode.imaging.volume import Volume
from dicomnode.pipeline import PipelineResult, run_pipeline, series_in
from tests.support.phantom import Phantom, write_datasets

SMALL = Phantom(slices=6, rows=20, columns=24, spacing_mm=4.0)
PLAN = DerivationPlan(
    parameters=DerivationParameters(rule="default", model="cubic-dc", model_digest="cubic-dc/1"),
    model_kind="cubic-dc",
    namespace=uuid.UUID(int=7),
    ae_title=AeTitle("DICOMNODE"),
    created_at=datetime(2026, 3, 4, tzinfo=UTC),
)


@dataclass(frozen=True)
class Forbidden:
    """A generator that must not be asked."""

    name: str = "forbidden"
    digest: str = "0"
    consistency: bool = True
    sharpness: float | None = None

    def at(self, sharpness: float) -> Self:
        """Refuse."""
        raise no_sharpness(self.name, sharpness)

    def generate(self, thick: Volume, grid: ThinGrid, *, device: str, progress: Progress | None = None) -> Generated:
        """Fail."""
        raise AssertionError((thick, grid, device, progress))


@dataclass(frozen=True)
class Overflowing(Forbidden):
    """A generator whose result has a voxel that is no number."""

    name: str = "overflowing"

    def generate(self, thick: Volume, grid: ThinGrid, *, device: str, progress: Progress | None = None) -> Generated:
        """Interpolate, and spoil one voxel."""
        made = CubicDc().generate(thick, grid, device=device, progress=progress)
        made.thin.voxels[5, 6, 7] = np.nan
        return made


def _run(paths: list[Path], kept: list[DerivedFile], plan: DerivationPlan = PLAN) -> PipelineResult:
    return run_pipeline(paths, generator=CubicDc(), plan=plan, device="cpu", write=kept.append)


def test_a_series_is_derived_file_by_file(tmp_path: Path) -> None:
    kept: list[DerivedFile] = []
    told: list[tuple[str, float]] = []
    result = run_pipeline(
        SMALL.write(tmp_path),
        generator=CubicDc(),
        plan=PLAN,
        device="cpu",
        write=kept.append,
        progress=lambda stage, share: told.append((stage, share)),
    )
    assert result.verdict.process
    assert result.ratio == result.verdict.ratio == 4
    assert [file.instance_number for file in kept] == list(range(1, 25))
    assert [(one.sop_instance_uid, one.sha256) for one in result.instances] == [
        (file.sop_instance_uid, file.sha256) for file in kept
    ]
    assert result.series_uid == dcmread(BytesIO(kept[0].content)).SeriesInstanceUID
    assert list(result.stages) == ["read", "generate", "check", "derive", "write"]
    assert all(seconds >= 0 for seconds in result.stages.values())
    assert [stage for stage, share in told if share == 1.0] == ["read", "generate", "write"]
    assert [share for stage, share in told if stage == "write"] == sorted(k / 24 for k in range(1, 25))


def test_a_disk_that_is_full_ends_the_encoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the first file of six thick slices, two more slices were under way; no thread stays behind."""
    encoded: list[int] = []
    slab_of = Storage.slab

    def counted(storage: Storage, stack: Stack, thin: Volume, owner: int) -> NDArray[np.int32]:
        encoded.append(owner)
        return slab_of(storage, stack, thin, owner)

    def write(_file: DerivedFile) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Storage, "slab", counted)
    paths = SMALL.write(tmp_path)
    with suppress(OSError):
        run_pipeline(paths, generator=CubicDc(), plan=PLAN, device="cpu", write=write)
    assert 1 <= len(encoded) <= ENCODERS + 1
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("encode")]


def test_a_refusal_is_an_answer_and_nothing_is_computed(tmp_path: Path) -> None:
    kept: list[DerivedFile] = []
    result = run_pipeline(
        replace(SMALL, slices=4).write(tmp_path),
        generator=Forbidden(),
        plan=PLAN,
        device="cpu",
        write=kept.append,
    )
    assert result.verdict.reason is VerdictReason.TOO_FEW
    assert (result.series_uid, result.instances, kept) == (None, (), [])


def test_a_voxel_that_is_no_number_ends_the_derivation_before_a_file_is_written(tmp_path: Path) -> None:
    kept: list[DerivedFile] = []
    with pytest.raises(ModelError, match="overflowing made voxels that are no numbers"):
        run_pipeline(SMALL.write(tmp_path), generator=Overflowing(), plan=PLAN, device="cpu", write=kept.append)
    assert kept == []


def test_the_result_gate_looks_at_the_volume_and_at_every_file(tmp_path: Path) -> None:
    result = _run(SMALL.write(tmp_path), [])
    assert {found.check for found in result.findings} >= {"range", "averages", "place", "header", "values"}
    assert result.objections == ()


class Instances(list[bytes]):
    """Six tiny instances, which a failing example does not print."""

    def __repr__(self) -> str:
        return "instances"


@pytest.fixture(scope="module")
def instances(tmp_path_factory: pytest.TempPathFactory) -> Instances:
    """Their bytes."""
    tiny = replace(SMALL, rows=4, columns=4)
    return Instances(path.read_bytes() for path in tiny.write(tmp_path_factory.mktemp("tiny")))


@settings(max_examples=25, deadline=None)
@given(place=st.integers(132, 1500), noise=st.binary(min_size=1, max_size=8), victims=st.sets(st.integers(0, 5)))
@example(place=440, noise=b"\0", victims={0})  # a SOP Instance UID, which pydicom quoted in a warning
@example(place=136, noise=b"\0", victims={1})  # pydicom raised what was neither ValueError nor anything else
def test_broken_bytes_are_an_answer_or_an_input_error(
    instances: Instances, tmp_path_factory: pytest.TempPathFactory, place: int, noise: bytes, victims: set[int]
) -> None:
    folder = tmp_path_factory.getbasetemp() / "fuzz"
    folder.mkdir(exist_ok=True)
    paths = [folder / str(k) for k in range(6)]
    for k, (path, content) in enumerate(zip(paths, instances, strict=True)):
        path.write_bytes(content[:place] + noise + content[place + len(noise) :] if k in victims else content)
    with suppress(InputError):
        result = _run(paths, [])
        assert result.verdict.process == bool(result.instances)


def test_the_pinned_ratio_is_kept(tmp_path: Path) -> None:
    kept: list[DerivedFile] = []
    pinned = replace(PLAN, parameters=replace(PLAN.parameters, ratio=2))
    result = _run(SMALL.write(tmp_path), kept, pinned)
    assert result.ratio == 2
    assert len(kept) == 12


def test_pixels_that_cannot_be_decoded_are_an_error_with_the_slice(tmp_path: Path) -> None:
    """Only the job decodes pixels: the verdict on the headers was to process."""
    datasets = SMALL.datasets()
    datasets[4].PixelData = datasets[4].PixelData[:8]
    with pytest.raises(InputError, match=r"^Slice 5 cannot be used"):
        _run(write_datasets(tmp_path, datasets), [])


def test_known_digests_and_computed_ones_make_the_same_uids(tmp_path: Path) -> None:
    paths = SMALL.write(tmp_path)
    known = {path: sha256_of(path) for path in paths}
    computed = _run(paths, [])
    given = run_pipeline(paths, generator=CubicDc(), plan=PLAN, device="cpu", write=lambda _: None, digests=known)
    assert given.instances == computed.instances


def test_notes_of_verdict_and_derivation_come_together(tmp_path: Path) -> None:
    datasets = replace(SMALL, changes={"SliceThickness": None}).datasets()
    for index, dataset in enumerate(datasets):
        dataset.RescaleSlope, dataset.RescaleIntercept = 1 + index / 10, 0
    notes = " ".join(_run(write_datasets(tmp_path, datasets), []).notes)
    assert "Slice Thickness is missing" in notes
    assert "varies between the source slices" in notes


def test_memory_is_a_few_float32_volumes(tmp_path: Path) -> None:
    """A float64 copy of the thin stack alone would be 2 thin volumes more."""
    datasets = replace(SMALL, rows=4, columns=4, slices=12).datasets()
    for dataset in datasets:
        dataset.Rows = dataset.Columns = 224
        dataset.PixelData = np.arange(224 * 224, dtype="<u2").tobytes()[::-1]
        dataset.BitsStored, dataset.HighBit = 16, 15
    paths = write_datasets(tmp_path, datasets)
    thin_bytes = 12 * 4 * 224 * 224 * 4
    _run(paths, [])
    tracemalloc.start()
    run_pipeline(paths, generator=CubicDc(), plan=PLAN, device="cpu", write=lambda _: None)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2 * thin_bytes


def test_a_folder_is_parted_into_series_and_other_files_are_passed_over(tmp_path: Path) -> None:
    one = SMALL.write(tmp_path / "a" / "b")
    two = SMALL.write(tmp_path / "c")
    (tmp_path / "c" / "readme.txt").write_text("not DICOM")
    (tmp_path / "DICOMDIR").write_bytes(one[0].read_bytes())
    notes: list[str] = []
    found = series_in(tmp_path, note=notes.append)
    assert sorted(map(sorted, found.values())) == sorted([sorted(one), sorted(two)])
    assert notes == [
        "Passed over: readme.txt: neither DICOM nor NIfTI.",
        "Passed over: DICOMDIR: the same as another file, which counts once.",
    ]


def test_a_series_with_an_image_that_breaks_off_is_refused_by_its_file(tmp_path: Path) -> None:
    paths = SMALL.write(tmp_path)
    paths[-1].write_bytes(paths[-1].read_bytes()[:-10])
    with pytest.raises(InputError, match=f"The file {paths[-1].name} breaks off within its pixels"):
        series_in(tmp_path)
