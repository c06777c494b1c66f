"""What a derived series says of a source whose slices are frames of one object."""

from __future__ import annotations

from pathlib import Path

from tests.support.derived import SMALL, made_from
from tests.support.enhanced import EnhancedPhantom


def test_each_slice_names_the_frames_that_it_was_computed_from(tmp_path: Path) -> None:
    """Of an Enhanced MR object whose frames lie in random order; the standard wants the frame beside the object."""
    phantom = EnhancedPhantom(phantom=SMALL, seed=1)
    made = made_from(phantom.write(tmp_path), 3)
    (source,) = phantom.datasets()
    by_position = sorted(made.datasets, key=lambda dataset: float(dataset.ImagePositionPatient[2]))
    assert {dataset.SOPClassUID.name for dataset in by_position} == {"MR Image Storage"}
    for place, dataset in enumerate(by_position):
        owner = place // 3
        near = [index for index in range(owner - 2, owner + 3) if 0 <= index < SMALL.slices]
        assert [item.ReferencedFrameNumber for item in dataset.SourceImageSequence] == [
            phantom.order.index(index) + 1 for index in near
        ]
        assert {item.ReferencedSOPClassUID for item in dataset.SourceImageSequence} == {source.SOPClassUID}
