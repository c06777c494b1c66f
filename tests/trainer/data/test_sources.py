"""Whose volumes are judged on, and whose are trained on."""

from __future__ import annotations

from tests.support.phantom_sources import source
from trainer.data.sources import Split, split_subjects


def test_whole_subjects_go_to_validation_and_the_same_ones_every_time() -> None:
    given = [source(subject=f"p{k // 2}") for k in range(20)]
    first, second = (split_subjects(given, seed=5) for _ in range(2))
    assert first == second
    moved = {one.subject for one in first if one.split is Split.VALIDATION}
    assert len(moved) == 2
    assert not moved & {one.subject for one in first if one.split is Split.TRAIN}
    assert first != split_subjects(given, seed=6)


def test_two_subjects_give_one_to_validation_and_one_gives_none() -> None:
    two = split_subjects([source(subject="a"), source(subject="b")], share=0.01)
    assert sorted(one.split for one in two) == ["train", "validation"]
    (alone,) = split_subjects([source(subject="a")])
    assert alone.split is Split.TRAIN


def test_only_people_with_something_of_use_are_drawn_to_be_judged_on() -> None:
    given = [source(subject=name) for name in "abcdef"]
    for seed in range(20):
        split = split_subjects(given, seed=seed, usable={"b", "e"})
        assert sorted(one.subject for one in split if one.split is Split.VALIDATION) in (["b"], ["e"])


def test_a_validation_that_was_named_is_kept() -> None:
    given = (source(subject="a"), source(subject="b"), source(subject="c", split=Split.VALIDATION))
    assert split_subjects(given) == given
