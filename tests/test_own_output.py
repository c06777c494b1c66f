"""What we derive is told from what scanners and other products make."""

from __future__ import annotations

import pytest

from dicomnode.own_output import (
    IMAGE_TYPE,
    PRODUCT,
    RESAMPLING_CODE,
    SPREAD_IMAGE_TYPE,
    is_made_here,
    is_own_output,
    read_with,
)
from dicomnode.own_output import source_number as number_in

SCANNER = ("ORIGINAL", "PRIMARY", "M", "ND")


@pytest.mark.parametrize(
    ("makers", "image_type", "codes", "expected"),
    [
        ((PRODUCT,), IMAGE_TYPE, (RESAMPLING_CODE,), True),
        (("Scanner Works", PRODUCT), SCANNER, (), True),  # a PACS wrote another manufacturer over ours
        (("Scanner Works",), IMAGE_TYPE, (RESAMPLING_CODE,), True),  # ... and removed the contributing equipment
        (("Scanner Works",), SPREAD_IMAGE_TYPE, (RESAMPLING_CODE,), True),
        (("Scanner Works",), IMAGE_TYPE, (), False),
        (("Scanner Works",), SPREAD_IMAGE_TYPE, (), False),
        (("Scanner Works",), SCANNER, (RESAMPLING_CODE,), False),
        ((f"{PRODUCT} of somebody else",), (), (), False),
    ],
)
def test_one_mark_is_enough_and_half_a_mark_is_none(
    makers: tuple[str, ...], image_type: tuple[str, ...], codes: tuple[str, ...], expected: bool
) -> None:
    assert is_own_output(makers, image_type, codes) is expected
    assert is_made_here(makers) is (PRODUCT in makers)


@pytest.mark.parametrize(
    ("comments", "number"),
    [
        (f"Computed thin slices. {read_with('7')}", "7"),
        (read_with("of unknown number"), None),
        ("12", None),
        ("", None),
        (f"{read_with('3')} {read_with('14')}  ", "14"),
    ],
)
def test_the_source_that_was_named_is_found_again(comments: str, number: str | None) -> None:
    assert number_in(comments) == number
