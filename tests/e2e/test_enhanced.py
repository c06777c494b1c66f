"""Enhanced MR comes in, classic thin slices stand in the PACS: an analytic phantom, and real stacks where they are.

DCMTK sends, Orthanc is the PACS, pydicom reads what it gives back. The place of each source is taken from its
functional groups by pydicom, not by our reader.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset

from tests.support.dcmtk import needs_dcmtk
from tests.support.dicom import storescu
from tests.support.enhanced import EnhancedPhantom
from tests.support.node import AE_TITLE, Node, running_node
from tests.support.orthanc import needs_orthanc, orthanc
from tests.support.phantom import Phantom
from tests.support.shared import DATA

pytestmark = [needs_dcmtk, needs_orthanc]

PHANTOM = EnhancedPhantom(
    phantom=Phantom(orientation="double oblique", slices=12, rows=32, columns=40), seed=5, parts=2
)
REAL = {"philips_phantom_tse_12frames": 5, "philips_phantom_ffe_24frames": 5, "philips_abdomen_loc_20frames": 4}


@dataclass(frozen=True, kw_only=True)
class Sent:
    """What was sent, and what the PACS holds of the series that was derived from it."""

    objects: Sequence[Dataset]
    ratio: int
    held: Sequence[Dataset]

    @property
    def offsets_mm(self) -> NDArray[np.float64]:
        """Where the source's slices lie along the normal, in any order."""
        return np.array([self.offset_mm(position) for position in self._positions()])

    @property
    def thin_offsets_mm(self) -> NDArray[np.float64]:
        """Where the derived slices lie along the same normal, ascending."""
        return np.sort([self.offset_mm(dataset.ImagePositionPatient) for dataset in self.held])

    def _positions(self) -> Iterator[object]:
        for dataset in self.objects:
            for frame in dataset.PerFrameFunctionalGroupsSequence:
                yield frame.PlanePositionSequence[0].ImagePositionPatient

    def offset_mm(self, position: object) -> float:
        """Where a position lies along the normal."""
        row, column = np.array(self.held[0].ImageOrientationPatient, dtype=float).reshape(2, 3)
        return float(np.array(position, dtype=float) @ np.cross(row, column))


def _send(node: Node, files: list[Path]) -> None:
    sent = storescu(node.port, files, "-xt", called=AE_TITLE)
    assert sent.returncode == 0, sent.stderr


@pytest.fixture(scope="module")
def delivered(tmp_path_factory: pytest.TempPathFactory) -> list[Sent]:
    folder = tmp_path_factory.mktemp("enhanced")
    sources = [(PHANTOM.write(folder / "phantom"), 4)]
    sources += [(sorted((DATA / "enhanced" / name).iterdir()), ratio) for name, ratio in REAL.items() if DATA.is_dir()]
    with orthanc(folder / "pacs") as pacs, running_node(folder / "node", pacs_port=pacs.dicom_port) as node:
        for files, _ in sources:
            _send(node, files)
        node.wait_for_deliveries("sent", len(sources), 300)
        held = [dcmread(BytesIO(content)) for content in pacs.files().values()]
    found = []
    for files, ratio in sources:
        objects = [dcmread(path) for path in files]
        of_study = [dataset for dataset in held if dataset.StudyInstanceUID == objects[0].StudyInstanceUID]
        of_frame = [one for one in of_study if one.FrameOfReferenceUID == objects[0].FrameOfReferenceUID]
        wanted = {dataset.SOPInstanceUID for dataset in objects}
        mine = [
            one for one in of_frame if {item.ReferencedSOPInstanceUID for item in one.SourceImageSequence} <= wanted
        ]
        found.append(Sent(objects=objects, ratio=ratio, held=mine))
    return found


def test_the_pacs_holds_one_classic_series_with_each_slice(delivered: list[Sent]) -> None:
    for sent in delivered:
        frames = sum(int(dataset.NumberOfFrames) for dataset in sent.objects)
        assert len(sent.held) == frames * sent.ratio
        assert {dataset.SOPClassUID.name for dataset in sent.held} == {"MR Image Storage"}
        assert len({dataset.SeriesInstanceUID for dataset in sent.held}) == 1
        assert {int(dataset.InstanceNumber) for dataset in sent.held} == set(range(1, len(sent.held) + 1))


def test_it_covers_the_slab_of_its_source(delivered: list[Sent]) -> None:
    for sent in delivered:
        thick, thin = np.sort(sent.offsets_mm), sent.thin_offsets_mm
        spacing_mm = float(np.median(np.diff(thick)))
        np.testing.assert_allclose(np.diff(thin), spacing_mm / sent.ratio, atol=1e-3)
        assert thin.mean() == pytest.approx(thick.mean(), abs=1e-2)


def test_each_slice_names_a_frame_at_its_place(delivered: list[Sent]) -> None:
    """One of the frames that a thin slice names lies nearest to it."""
    for sent in delivered:
        spacing_mm = float(np.median(np.diff(np.sort(sent.offsets_mm))))
        places = {
            (dataset.SOPInstanceUID, number): sent.offset_mm(frame.PlanePositionSequence[0].ImagePositionPatient)
            for dataset in sent.objects
            for number, frame in enumerate(dataset.PerFrameFunctionalGroupsSequence, start=1)
        }
        for dataset in sent.held:
            named = [
                places[item.ReferencedSOPInstanceUID, int(item.ReferencedFrameNumber)]
                for item in dataset.SourceImageSequence
            ]
            nearest = min(abs(place - sent.offset_mm(dataset.ImagePositionPatient)) for place in named)
            assert nearest <= spacing_mm / 2
