"""What counts as another contrast, and what is only another protocol."""

from __future__ import annotations

import pytest

from trainer.data.contrast import differences, has_fat_saturation

T2 = {"ScanningSequence": "SE", "EchoTime": "100", "RepetitionTime": "4000", "FlipAngle": "150", "ScanOptions": ""}
T1_GRADIENT = {"ScanningSequence": "GR", "EchoTime": "2.5", "RepetitionTime": "6.5", "FlipAngle": "9"}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ()),
        ({"EchoTime": "85", "RepetitionTime": "3000", "FlipAngle": "180"}, ()),
        ({"SequenceName": "*spc3d1", "ScanOptions": "PFP"}, ()),
        ({"InversionTime": "0", "ContrastBolusAgent": "off"}, ()),
        ({"EchoTime": "10"}, ("Echo Time 100 and 10 ms",)),
        ({"RepetitionTime": "600", "EchoTime": "12"}, ("Echo Time 100 and 12 ms", "Repetition Time 4000 and 600 ms")),
        ({"InversionTime": "2500"}, ("Inversion Time not stated and 2500 ms",)),
        ({"EchoTime": ""}, ("Echo Time 100 ms and not stated",)),
        ({"ScanOptions": "FS"}, ("fat saturation no and yes",)),
        ({"ContrastBolusAgent": "some agent, 10 ml"}, ("contrast agent no and yes",)),
        ({"ScanningSequence": "SE\\IR"}, ("Scanning Sequence SE and IR\\SE",)),
        ({"ScanningSequence": "Doe^Jane!"}, ("Scanning Sequence SE and not stated",)),
    ],
)
def test_two_series_differ_by(changes: dict[str, str], expected: tuple[str, ...]) -> None:
    assert differences(T2, {**T2, **changes}) == expected


def test_the_order_of_sequence_codes_says_nothing() -> None:
    assert differences({**T2, "ScanningSequence": "IR\\SE"}, {**T2, "ScanningSequence": "SE\\IR"}) == ()


def test_the_flip_angle_counts_where_it_makes_the_contrast() -> None:
    assert differences(T1_GRADIENT, {**T1_GRADIENT, "FlipAngle": "25"}) == ("Flip Angle 9 and 25 °",)


@pytest.mark.parametrize(
    "words",
    [
        "t2_tse_tra_fs",
        "T2 FatSat COR",
        "t1_fl3d_tra_VIEWS_spair",
        "STIR sag",
        "t1 dixon",
        "AX T2 fat-sat",
        "t2 fat suppr",
    ],
)
def test_fat_saturation_is_read_from_words(words: str) -> None:
    assert has_fat_saturation({"SeriesDescription": words})


@pytest.mark.parametrize("words", ["t2_tse_tra", "AX FSE T2", "offset", "fsl_ready", "SAG MPRAGE 220 FOV", ""])
def test_other_words_are_not_fat_saturation(words: str) -> None:
    assert not has_fat_saturation({"SeriesDescription": words})
