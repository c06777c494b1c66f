"""What may be loaded, and for what."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dicomnode.errors import InputError
from tests.support.phantom_sources import phantom
from tests.support.shared import DATA, needs_shared
from trainer import sources
from trainer.sources import SOURCES, Split


def test_the_splits_are_those_of_the_data_inventory() -> None:
    assert sources.names(Split.TRAIN) == (
        "fnndsc_10yr",
        "studyforrest_t1",
        "seg3d_t1",
        "niimath_t1",
        "stroke_a_t1",
        "stroke_a_t2",
        "stroke_a_flair",
    )
    assert sources.names(Split.VALIDATION) == ("philips_mprage", "m2307_t2")


def test_no_person_stands_in_two_splits() -> None:
    splits: dict[str, set[Split]] = {}
    for source in SOURCES.values():
        splits.setdefault(source.subject, set()).add(source.split)
    assert all(len(found) == 1 for found in splits.values())


def test_no_licence_of_a_training_volume_reaches_the_weights() -> None:
    assert {SOURCES[name].licence for name in sources.names(Split.TRAIN)} <= {"MIT", "PDDL", "CC0"}


@pytest.mark.parametrize("name", [name for name in SOURCES if SOURCES[name].split is not Split.TRAIN])
def test_what_is_judged_on_is_never_trained_on(name: str, phantom_data: Path) -> None:
    with pytest.raises(InputError, match="may be used for train"):
        sources.load(name, phantom_data, Split.TRAIN)


@pytest.mark.parametrize("name", ["mimbcd_uta11/t1_flash_0p9", "refuse/adc_map", "../data/fnndsc_10yr", ""])
def test_nothing_outside_the_table_is_loaded(name: str, phantom_data: Path) -> None:
    for split in Split:
        with pytest.raises(InputError):
            sources.load(name, phantom_data, split)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not in"):
        sources.load("fnndsc_10yr", tmp_path, Split.TRAIN)


def test_slices_are_sorted_by_position_and_rescaled(phantom_data: Path) -> None:
    """The phantom's file names run against its positions."""
    voxels = sources.load("fnndsc_10yr", phantom_data, Split.TRAIN)
    np.testing.assert_allclose(voxels, phantom(0), atol=2.0)


def test_a_nifti_volume_is_read_as_stored(phantom_data: Path) -> None:
    voxels = sources.load("m2307_t2", phantom_data, Split.VALIDATION)
    np.testing.assert_array_equal(voxels, phantom(list(SOURCES).index("m2307_t2")))


@needs_shared
def test_the_real_volumes_have_the_measured_shapes() -> None:
    assert sources.load("fnndsc_10yr", DATA, Split.TRAIN).shape == (192, 256, 256)
    assert sources.load("stroke_a_t2", DATA, Split.TRAIN).shape == (124, 160, 140)
    assert sources.load("philips_mprage", DATA, Split.VALIDATION).shape == (170, 256, 256)
    assert sources.load("lumbar_t2_sag", DATA, Split.UNSEEN).min() < 0
