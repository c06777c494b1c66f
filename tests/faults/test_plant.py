"""The planted bugs fit the source as it is now; `make test-faults` plants them (``tests/faults/plant.py``)."""

from __future__ import annotations

import ast

import pytest

from tests.faults.plant import BUGS, CHECKOUT, Bug, planted_text


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_bug_can_be_planted_and_its_tests_exist(bug: Bug) -> None:
    ast.parse(planted_text(bug))
    for test in bug.tests:
        file, _, name = test.partition("::")
        text = (CHECKOUT / file).read_text("utf-8")
        assert not name or f"def {name}(" in text, test


def test_there_are_ten() -> None:
    assert len({bug.name for bug in BUGS}) == 10
