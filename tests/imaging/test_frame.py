"""A frame is a slice: one of a classic file, or one of many in a file that is opened once."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.pixels.utils import pixel_array
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

from dicomnode.errors import InputError
from dicomnode.imaging.dicom_file import UnreadableHeader
from dicomnode.imaging.frame import UNDECODABLE, Frame, decoded, frames_of, instances_of, read_frames
from dicomnode.imaging.headers import read_header
from dicomnode.imaging.stack import load_volume
from tests.support.dcmtk import environment, needs_dcmtk, program
from tests.support.phantom import Phantom, write_datasets

SMALL = Phantom(slices=6, rows=20, columns=24, spacing_mm=5.0)
WIDE = Phantom(slices=6, rows=64, columns=64, spacing_mm=5.0)  # JPEG 2000 halves a picture five times


def _multi_frame(path: Path, syntax: str | None) -> Path:
    """The slices of a phantom in one object; only its pixels are looked at."""
    datasets = SMALL.datasets()
    whole: Dataset = datasets[0]
    whole.NumberOfFrames = len(datasets)
    whole.PixelData = b"".join(dataset.PixelData for dataset in datasets)
    if syntax:
        whole.compress(syntax, generate_instance_uid=False)
    dcmwrite(path, whole, enforce_file_format=True)
    return path


def test_a_classic_instance_is_one_frame_with_the_pixels_of_its_file(tmp_path: Path) -> None:
    paths = write_datasets(tmp_path, SMALL.datasets())
    frames = [one for one in read_frames(paths) if isinstance(one, Frame)]
    assert [frame.path for frame in frames] == list(paths)
    assert {frame.number for frame in frames} == {None}
    for path, values in zip(paths, decoded(frames), strict=True):
        np.testing.assert_array_equal(values, pixel_array(dcmread(path)))


def test_a_file_that_is_no_image_stands_among_the_frames(tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_bytes(b"no DICOM")
    (found,) = frames_of(tmp_path / "a.dcm")
    assert isinstance(found, UnreadableHeader)
    with pytest.raises(InputError, match=r"^Slice 1 cannot be used"):
        load_volume([found])


@pytest.mark.parametrize("syntax", [None, RLELossless, JPEGLSLossless])
def test_the_frames_of_one_file_are_decoded_one_by_one_and_the_file_is_opened_once(
    tmp_path: Path, syntax: str | None
) -> None:
    path = _multi_frame(tmp_path / "many.dcm", syntax)
    reference = pixel_array(dcmread(path))
    header = read_header(path)
    order = (3, 1, 6, 2)
    values = decoded([Frame(header=header, number=number) for number in order])
    first = next(values)
    path.unlink()  # whoever opened it again would miss it
    np.testing.assert_array_equal([first, *values], [reference[number - 1] for number in order])


def test_a_multi_frame_object_that_no_reader_took_apart_is_never_one_slice(tmp_path: Path) -> None:
    path = _multi_frame(tmp_path / "many.dcm", None)
    found = [one for one in frames_of(path) if isinstance(one, Frame)]
    with pytest.raises(UNDECODABLE):
        next(decoded(found))
    with pytest.raises(InputError, match=r"^Slice 1 cannot be used: its pixels cannot be decoded\.$"):
        load_volume(found)


def test_frames_of_one_file_share_its_digest_and_count_as_one_instance(tmp_path: Path) -> None:
    path = _multi_frame(tmp_path / "many.dcm", None)
    step_mm = SMALL.spacing_mm
    frames = []
    for number in range(1, 7):
        header = read_header(path)
        assert header.position_mm is not None
        x, y, z = header.position_mm
        frames.append(Frame(header=replace(header, position_mm=(x, y, z + step_mm * number)), number=number))
    stack = load_volume(frames)
    assert len(set(stack.sha256)) == 1
    assert [frame.number for frame in stack.frames] == [1, 2, 3, 4, 5, 6]
    np.testing.assert_array_equal(stack.stored, pixel_array(dcmread(path)))
    assert len(instances_of(frames)) == 1


def _compressed(folder: Path, how: str) -> list[Path]:
    """The slices of a phantom, compressed by pydicom or by a program of DCMTK."""
    datasets = WIDE.datasets()
    if how in ("JPEGLSLossless", "JPEG2000Lossless"):
        for dataset in datasets:
            dataset.compress({"JPEGLSLossless": JPEGLSLossless, "JPEG2000Lossless": JPEG2000Lossless}[how])
        return list(write_datasets(folder, datasets))
    paths = []
    for plain in write_datasets(folder, datasets):
        paths.append(plain.with_suffix(".compressed"))
        subprocess.run([program(how), plain, paths[-1]], env=environment(), check=True)
        plain.unlink()
    return paths


@pytest.mark.parametrize("how", [pytest.param("dcmcjpeg", marks=needs_dcmtk), "JPEGLSLossless", "JPEG2000Lossless"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_compressed_frame_that_breaks_off_is_refused_and_not_filled_up(
    tmp_path: Path, how: str, share: float
) -> None:
    """The decoders take such a frame as it is, or read on beyond its end."""
    paths = _compressed(tmp_path, how)
    assert len(load_volume(read_frames(paths)).frames) == len(paths)
    dataset = dcmread(paths[2])
    whole = get_frame(dataset.PixelData, 0, number_of_frames=1)
    dataset.PixelData = encapsulate([whole[: int(share * len(whole))]])
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(paths[2])
    with pytest.raises(InputError, match=r"^Slice \d cannot be used: its pixels cannot be decoded"):
        load_volume(read_frames(paths))
