"""Strict TOML: each mistake of a file with its dotted key, in words, and nothing converted."""

from __future__ import annotations

import pytest
from pydantic import Field, field_validator

from dicomnode.strict_toml import MistakesError, NotTomlError, StrictModel, check, fail, parse


class Row(StrictModel):
    label: str = Field(min_length=1)
    count: int = 1

    @field_validator("count")
    @classmethod
    def _is_even(cls, count: int) -> int:
        if count % 2:
            raise ValueError("count must be even")
        return count


class Whole(StrictModel):
    title: str = "a"
    password: str = ""
    row: tuple[Row, ...] = ()
    named: dict[str, Row] | None = None

    @field_validator("title")
    @classmethod
    def _is_known(cls, title: str) -> str:
        if title == "parts":
            fail("does not parse", also=[("one", "is wrong"), ("two", "is worse")])
        return title


def _mistakes(text: str) -> list[str]:
    with pytest.raises(MistakesError) as caught:
        check(Whole, parse(text.encode()), secret=("password",))
    assert str(caught.value) == "; ".join(map(str, caught.value.mistakes))
    return [str(mistake) for mistake in caught.value.mistakes]


def test_a_file_becomes_its_model() -> None:
    assert check(Whole, parse(b'\xef\xbb\xbftitle = "b"\n[[row]]\nlabel = "x"\ncount = 4')) == Whole(
        title="b", row=(Row(label="x", count=4),)
    )


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        (
            '[[row]]\nlabel = "x"\n[[row]]\nlabel = "y"\ncuont = 2',
            "row.1.cuont: is not a known key (did you mean count?)",
        ),
        ('[named.a]\nlabel = "x"\nlabell = "y"', "named.a.labell: is not a known key (did you mean label?)"),
        ("entirely = 1", "entirely: is not a known key"),
        ("[[row]]\ncount = 2", "row.0.label: is missing"),
        ('[[row]]\nlabel = "x"\ncount = "2"', 'row.0.count: expected a valid integer, found "2"'),
        ('[[row]]\nlabel = "x"\ncount = 3', "row.0.count: count must be even, found 3"),
        ('[[row]]\nlabel = ""', 'row.0.label: string should have at least 1 character, found ""'),
        ("password = 7", "password: expected a valid string"),
    ],
)
def test_a_mistake_is_named_with_its_key_and_what_was_found(text: str, mistake: str) -> None:
    assert _mistakes(text) == [mistake]


def test_a_validator_can_name_the_parts_below_its_key() -> None:
    assert _mistakes('title = "parts"\nother = 1') == [
        "title.one: is wrong", "title.two: is worse", "other: is not a known key",
    ]  # fmt: skip


@pytest.mark.parametrize(("content", "reason"), [(b"a = [", "Invalid value"), (b"a = \xff", "not UTF-8 text .byte 4")])
def test_what_is_no_toml_says_why(content: bytes, reason: str) -> None:
    with pytest.raises(NotTomlError, match=reason):
        parse(content)
