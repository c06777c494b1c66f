"""Instances to one volume: sorted by place, in modality units, in every encoding the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import highdicom
import numpy as np
import pytest
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from dicomnode.errors import InputError
from dicomnode.imaging.frame import read_frames
from dicomnode.imaging.stack import Stack, load_volume
from tests.support.phantom import Phantom, write_datasets
from tests.support.shared import real_series
from tests.support.simpleitk import read_files

SMALL = Phantom(slices=6, rows=20, columns=24, spacing_mm=5.0)
REAL = ("prostatex/t2_sag", "prostatex/t2_cor", "lumbar/t2_sag", "brain_t1_fl2d")


def _loaded(tmp_path: Path, datasets: list[Dataset]) -> Stack:
    return load_volume(read_frames(sorted(write_datasets(tmp_path, datasets))))


@pytest.mark.parametrize("numbers_fall", [False, True])
def test_slices_ascend_along_the_normal_whatever_files_and_numbers_say(tmp_path: Path, numbers_fall: bool) -> None:
    phantom = replace(SMALL, orientation="double oblique", numbers_fall=numbers_fall)
    loaded = _loaded(tmp_path, phantom.datasets())
    expected = np.stack([np.rint(phantom.frame(index)) for index in range(6)])
    np.testing.assert_array_equal(loaded.volume.voxels, expected)
    np.testing.assert_allclose(loaded.volume.origin_mm, phantom.position_mm(0), atol=1e-6)
    assert loaded.number_direction == (-1 if numbers_fall else 1)
    assert loaded.volume.slice_spacing_mm == pytest.approx(5.0)
    assert (loaded.minimum, loaded.maximum) == (expected.min(), expected.max())


@pytest.mark.parametrize("folder", real_series(REAL))
def test_voxels_and_places_of_a_real_series_agree_with_simpleitk_and_highdicom(folder: Path) -> None:
    paths = sorted(folder.iterdir())
    volume = load_volume(read_frames(paths)).volume
    by_place = sorted(paths, key=lambda path: float(np.dot(_position(path), volume.normal)))
    theirs = read_files(by_place)
    np.testing.assert_array_equal(theirs.voxels, volume.voxels)
    slices, rows, columns = volume.voxels.shape
    for corner in [(0, 0, 0), (slices - 1, rows - 1, columns - 1), (0, rows - 1, 0), (slices - 1, 0, 0)]:
        np.testing.assert_allclose(volume.affine @ (*corner, 1), theirs.affine @ (*corner, 1), atol=0.01)
    reference = highdicom.get_volume_from_series([dcmread(path) for path in paths])
    np.testing.assert_allclose(reference.array[::-1], volume.voxels)
    np.testing.assert_allclose(
        reference.affine[:3, 3] + reference.affine[:3, 0] * (slices - 1), volume.origin_mm, atol=0.01
    )


def _position(path: Path) -> list[float]:
    return [float(value) for value in dcmread(path, stop_before_pixels=True).ImagePositionPatient]


@pytest.mark.parametrize("syntax", [JPEGLSLossless, RLELossless, JPEG2000Lossless])
@pytest.mark.parametrize("is_signed", [False, True])
def test_a_lossless_encoding_changes_no_voxel(tmp_path: Path, syntax: UID, is_signed: bool) -> None:
    # 32 pixels at least: OpenJPEG's default of six resolutions needs them.
    phantom = replace(SMALL, rows=36, columns=40, is_signed=is_signed, rescale=(1.0, 40.0) if is_signed else None)
    datasets = phantom.datasets()
    plain = _loaded(tmp_path / "plain", datasets)
    assert (plain.minimum < 1) == is_signed or plain.minimum == 0
    for dataset in datasets:
        dataset.compress(syntax, generate_instance_uid=False)
    packed = _loaded(tmp_path / "packed", datasets)
    np.testing.assert_array_equal(packed.volume.voxels, plain.volume.voxels)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_the_order_of_bytes_changes_no_voxel(tmp_path: Path, syntax: UID) -> None:
    datasets = SMALL.datasets()
    plain = _loaded(tmp_path / "plain", datasets)
    other = tmp_path / "other"
    other.mkdir()
    for place, dataset in enumerate(datasets):
        dataset.file_meta.TransferSyntaxUID = syntax
        if syntax == ExplicitVRBigEndian:
            dataset.PixelData = np.frombuffer(dataset.PixelData, "<u2").astype(">u2").tobytes()
        dcmwrite(
            other / f"{place}.dcm", dataset, enforce_file_format=True,
            implicit_vr=syntax == ImplicitVRLittleEndian, little_endian=syntax != ExplicitVRBigEndian,
        )  # fmt: skip
    np.testing.assert_array_equal(load_volume(read_frames(sorted(other.iterdir()))).volume.voxels, plain.volume.voxels)


@pytest.mark.parametrize(
    ("is_signed", "word", "value"), [(False, 0xFFFF, 4095), (True, 0x0FFF, -1), (True, 0xF801, -2047)]
)
def test_bits_above_the_stored_ones_are_not_pixels(tmp_path: Path, is_signed: bool, word: int, value: int) -> None:
    """Siemens XA30 writes 65535 where 12 bits are stored; highdicom 0.28 believes it."""
    datasets = replace(SMALL, is_signed=is_signed).datasets()
    words = np.zeros((20, 24), dtype="<u2")
    words[3, 4] = word
    datasets[2].PixelData = words.tobytes()
    assert _loaded(tmp_path, datasets).volume.voxels[2, 3, 4] == value


def test_eight_bit_images_are_read(tmp_path: Path) -> None:
    datasets = SMALL.datasets()
    for index, dataset in enumerate(datasets):
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
        dataset.PixelData = bytes([10 * index + 200 * (index == 5)] * (20 * 24))
        dataset["PixelData"].VR = "OB"
    assert _loaded(tmp_path, datasets).volume.voxels[:, 0, 0].tolist() == [0, 10, 20, 30, 40, 250]


def test_each_slice_has_its_own_rescale(tmp_path: Path) -> None:
    datasets = SMALL.datasets()
    for index, dataset in enumerate(datasets):
        dataset.RescaleSlope, dataset.RescaleIntercept = 0.5 + index, -3
        dataset.PixelData = np.full((20, 24), 100, dtype="<u2").tobytes()
    loaded = _loaded(tmp_path, datasets)
    np.testing.assert_allclose(loaded.volume.voxels[:, 0, 0], [100 * (0.5 + k) - 3 for k in range(6)])
    assert not loaded.format.has_uniform_rescale


@pytest.mark.parametrize(
    ("is_signed", "vr", "value", "stored"),
    [(False, "US", 4000, 4000), (True, "US", 63536, -2000), (True, "SS", -2000, -2000)],
)
def test_padding_enters_as_the_least_value_and_is_remembered(
    tmp_path: Path, is_signed: bool, vr: str, value: int, stored: int
) -> None:
    datasets = replace(SMALL, is_signed=is_signed).datasets()
    for dataset in datasets:
        dataset.add_new("PixelPaddingValue", vr, value)
        frame = np.full((20, 24), 7, dtype="<i2")
        frame[0] = stored
        frame[5, 5] = 300
        dataset.PixelData = frame.tobytes()
    loaded = _loaded(tmp_path, datasets)
    assert loaded.padding is not None
    assert loaded.padding[:, 0].all()
    assert loaded.padding.sum() == 6 * 24
    assert loaded.padding_value == stored
    assert (loaded.minimum, loaded.maximum) == (7, 300)
    assert (loaded.volume.voxels[:, 0] == 7).all()


def test_a_padding_value_that_no_pixel_has_is_no_padding(tmp_path: Path) -> None:
    loaded = _loaded(tmp_path, replace(SMALL, changes={"PixelPaddingValue": 4000}).datasets())
    assert loaded.padding is None
    assert loaded.padding_value is None


def test_a_slice_that_cannot_be_decoded_is_named(tmp_path: Path) -> None:
    datasets = SMALL.datasets()
    datasets[3].PixelData = datasets[3].PixelData[:100]
    with pytest.raises(InputError, match=r"^Slice 4 cannot be used: its pixels cannot be decoded\.$"):
        _loaded(tmp_path / "short", datasets)
    datasets = SMALL.datasets()
    for dataset in datasets:
        dataset.compress(JPEGLSLossless, generate_instance_uid=False)
    datasets[1].PixelData = datasets[1].PixelData[:60] + b"\0" * 40 + datasets[1].PixelData[100:]
    with pytest.raises(InputError, match=r"^Slice 2 cannot be used"):
        _loaded(tmp_path / "garbled", datasets)


def test_a_digest_that_the_archive_knows_is_not_computed_again(tmp_path: Path) -> None:
    paths = write_datasets(tmp_path, SMALL.datasets())
    loaded = load_volume(read_frames(paths), digests={path: f"known {place}" for place, path in enumerate(paths)})
    assert loaded.sha256 == tuple(f"known {place}" for place in range(6))


def test_the_volume_holds_float32_and_one_copy(tmp_path: Path) -> None:
    loaded = _loaded(tmp_path, SMALL.datasets())
    assert loaded.volume.voxels.dtype == np.float32
    assert loaded.volume.voxels.base is None
    assert all("PixelData" not in header.dataset for header in loaded.headers)
