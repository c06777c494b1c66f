"""From answer files to opinion scores: figures against published examples and SciPy, files that must not be counted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from dicomnode.errors import InputError
from trainer.readers.scores import (
    Interval,
    find_key,
    intraclass_correlation,
    read_scores,
    score_lines,
    weighted_kappa,
)
from trainer.readers.study import QUESTIONS, REFERENCE, Panel, key_path, write_page

METHODS = ("cubic-dc", "srgan", REFERENCE)
Opinion = Callable[[dict[str, Any]], tuple[int, int, int]]  # what the key says of a trial → the three scores


def study(folder: Path, *, cases: int = 4, seed: int = 1, methods: tuple[str, ...] = METHODS) -> Path:
    """A page of blank panels; its key."""
    blank = np.zeros((4, 4), np.uint8)
    panels = [Panel(case=f"case-{n}", method=method, image=blank) for n in range(cases) for method in methods]
    write_page(folder / "study.html", panels, seed=seed, title="Cuts")
    return key_path(folder / "study.html")


def answers(key: Path, reader: str, opinion: Opinion) -> dict[str, Any]:
    """What the page saves of a reader of this opinion."""
    known = json.loads(key.read_text("utf-8"))
    return {
        "format": "dicomnode-reader-answers",
        "version": 1,
        "study": known["study"],
        "seed": known["seed"],
        "reader": reader,
        "screen": {"width": 1280, "height": 800, "pixel_ratio": 1, "pixels_per_pixel": 4},
        "answers": [
            {"trial": token, "seconds": 3.5, **dict(zip(QUESTIONS, opinion(trial), strict=True))}
            for token, trial in known["trials"].items()
        ],
    }


def saved(folder: Path, content: dict[str, Any]) -> Path:
    """As a file."""
    file = folder / f"{content['reader']}.json"
    file.write_text(json.dumps(content), encoding="utf-8")
    return file


def by_method(trial: dict[str, Any]) -> tuple[int, int, int]:
    """Two for cubic-dc, four for srgan, five for the truth; case 3 is a poor scan."""
    score = {"cubic-dc": 2, "srgan": 4, REFERENCE: 5}[trial["method"]]
    return score, 3, score - (trial["case"] == "case-3")


def test_the_intraclass_correlation_is_that_of_the_published_example() -> None:
    """Shrout and Fleiss, Psychological Bulletin 86 (1979), table 2: six targets, four judges, ICC(2,1) = .29."""
    ratings = np.array(
        [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], np.float64
    )
    assert intraclass_correlation(ratings) == pytest.approx(0.29, abs=0.005)


@pytest.mark.parametrize("ratings", [[[3.0], [4.0]], [[3.0, 4.0]], [[3.0, 3.0], [3.0, 3.0]], [[1.0, 2.0], [2.0, 1.0]]])
def test_without_anything_to_agree_on_there_is_no_intraclass_correlation(ratings: list[list[float]]) -> None:
    assert intraclass_correlation(np.array(ratings)) is None


def test_with_two_values_weights_change_nothing_and_kappa_is_the_textbooks() -> None:
    """45 agree on one value, 15 on the other, 25 + 15 differ; Cohen's formula (1960) by hand."""
    first = np.repeat([1, 1, 5, 5], [45, 15, 25, 15])
    second = np.repeat([1, 5, 1, 5], [45, 15, 25, 15])
    assert weighted_kappa(first, second) == pytest.approx((0.60 - 0.54) / (1 - 0.54))


def test_kappa_forgives_a_small_difference_more_than_a_large_one() -> None:
    scores = np.array([1, 2, 3, 4, 5] * 4)
    near, far = scores.copy(), scores.copy()
    near[0], far[0] = 2, 5
    close, wide = weighted_kappa(scores, near), weighted_kappa(scores, far)
    assert close is not None
    assert wide is not None
    assert 1 > close > wide > 0
    assert weighted_kappa(scores, scores) == 1
    assert weighted_kappa(np.array([4, 4]), np.array([4, 4])) is None


def test_means_leave_repeats_out_and_distances_are_to_the_truth(tmp_path: Path) -> None:
    """Repeats are scored 1 throughout: they show in the reader's own agreement and nowhere else."""
    key = study(tmp_path)
    mild = saved(tmp_path, answers(key, "mild", by_method))
    erratic = saved(
        tmp_path, answers(key, "erratic", lambda trial: (1, 1, 1) if trial["is_repeat"] else by_method(trial))
    )
    scores = read_scores([mild, erratic], key)
    found = {(row.method, row.question): row for row in scores.methods}
    assert {name: found[name, "sharpness"].mean for name in METHODS} == {"cubic-dc": 2, "srgan": 4, REFERENCE: 5}
    assert found["srgan", "acceptability"].mean == pytest.approx(4 - 1 / 4)
    assert found["srgan", "sharpness"].to_reference == pytest.approx(-1)
    assert found["cubic-dc", "acceptability"].to_reference == pytest.approx(-3)
    assert found["cubic-dc", "acceptability"].to_reference_interval == Interval(low=-3, high=-3)  # a poor scan cancels
    assert found[REFERENCE, "sharpness"].to_reference is None
    assert [row.reader for row in scores.readers] == ["erratic", "mild"]
    repeated = [trial for trial in json.loads(key.read_text("utf-8"))["trials"].values() if trial["is_repeat"]]
    expected = np.mean([abs(np.array(by_method(trial)) - 1) for trial in repeated])
    assert [row.repeat_difference for row in scores.readers] == [pytest.approx(expected), 0]
    assert [row.median_seconds for row in scores.readers] == [3.5, 3.5]


def test_the_interval_of_one_reader_is_the_bootstrap_of_his_cases(tmp_path: Path) -> None:
    """SciPy draws the cases on its own."""
    values = np.random.default_rng(2).integers(1, 6, 24)
    key = study(tmp_path, cases=24, methods=("net",))
    file = saved(tmp_path, answers(key, "R1", lambda trial: (int(values[int(trial["case"][5:])]), 3, 3)))
    row = read_scores([file], key).methods[0]
    expected = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=4000, rng=np.random.default_rng(1))
    assert row.interval is not None
    assert row.mean == pytest.approx(values.mean())
    assert row.interval.low == pytest.approx(expected.confidence_interval.low, abs=0.1)
    assert row.interval.high == pytest.approx(expected.confidence_interval.high, abs=0.1)


def test_readers_who_differ_widen_the_interval_even_where_cases_do_not(tmp_path: Path) -> None:
    key = study(tmp_path, methods=("net", REFERENCE))

    def steady(score: int) -> Opinion:
        return lambda _trial: (score, 3, 3)

    files = [saved(tmp_path, answers(key, f"R{score}", steady(score))) for score in (1, 3, 5)]
    row = read_scores(files, key).methods[0]
    assert row.mean == 3
    assert row.interval is not None
    assert (row.interval.low, row.interval.high) == (1, 5)  # 1 draw in 27 holds one reader thrice: more than 2.5 %


def test_the_same_files_in_any_order_give_the_same_figures(tmp_path: Path) -> None:
    key = study(tmp_path)
    files = [saved(tmp_path, answers(key, f"R{n}", by_method)) for n in range(3)]
    assert read_scores(files, key) == read_scores(files[::-1], key)


def test_one_reader_of_one_case_gets_means_and_no_claims(tmp_path: Path) -> None:
    key = study(tmp_path, cases=1)
    scores = read_scores([saved(tmp_path, answers(key, "R1", by_method))], key)
    assert {row.interval for row in scores.methods} == {None}
    assert {row.inter_reader_icc for row in scores.agreement} == {None}
    lines = "\n".join(score_lines(scores))
    assert "ICC(2,1) n.a." in lines
    assert "nothing is said about other readers" in lines
    assert "[" not in lines.partition("\n")[2]


def test_the_table_says_who_is_how_good_and_how_sure_that_is(tmp_path: Path) -> None:
    key = study(tmp_path)
    files = [saved(tmp_path, answers(key, f"R{n}", by_method)) for n in range(2)]
    lines = score_lines(read_scores(files, key))
    assert "Readers: 2, cases: 4, panels: 12, hidden repeats: 4." in lines[0]
    assert lines[2].split() == ["method", *QUESTIONS]
    assert [line.split()[:2] for line in lines[3:6]] == [["cubic-dc", "2.00"], ["srgan", "4.00"], [REFERENCE, "5.00"]]
    against = lines.index(f"against the hidden {REFERENCE}")
    assert lines[against + 1].split()[:2] == ["cubic-dc", "-3.00"]
    assert all(line == line.rstrip() for line in lines)


def damaged(kind: str, whole: dict[str, Any]) -> bytes:
    """A reader's file after what can happen to it."""
    first = whole["answers"][0]
    if kind == "foreign":
        whole["study"] = "0123456789abcdef"
    elif kind == "lacking":
        whole["answers"].remove(first)
    elif kind == "doubled":
        whole["answers"][1]["trial"] = first["trial"]
    elif kind == "unknown panel":
        first["trial"] = "000000000000"
    elif kind == "six":
        first["sharpness"] = 6
    elif kind == "text":
        first["artefact"] = "4"
    elif kind == "unanswered":
        del first["acceptability"]
    elif kind == "named":
        whole["reader"] = "Dr. A. N. Other, Ward 7"
    elif kind == "later version":
        whole["version"] = 2
    content = json.dumps(whole).encode()
    return {"empty": b"", "cut off": content[:-40], "binary": b"\x89PNG\r\n\xff", "list": b"[]"}.get(kind, content)


SENTENCES = {
    "foreign": "answers study 0123456789abcdef, and the key is of study",
    "lacking": "1 missing, 0 twice, 0 of no panel",
    "doubled": "1 missing, 1 twice, 0 of no panel",
    "unknown panel": "1 missing, 0 twice, 1 of no panel",
    "six": r"answers\.0\.sharpness: Input should be less than or equal to 5",
    "text": r"answers\.0\.artefact: Input should be a valid integer",
    "unanswered": r"answers\.0\.acceptability: Field required",
    "named": "reader: String should match pattern",
    "later version": "version: Input should be 1",
    "empty": "is not a file of answers",
    "cut off": "is not a file of answers",
    "binary": "is not a file of answers",
    "list": "is not a file of answers",
}


@pytest.mark.parametrize("kind", SENTENCES)
def test_a_file_that_is_not_whole_stops_the_count_in_one_sentence(kind: str, tmp_path: Path) -> None:
    key = study(tmp_path)
    good = saved(tmp_path, answers(key, "R1", by_method))
    bad = tmp_path / "bad.json"
    bad.write_bytes(damaged(kind, answers(key, "R2", by_method)))
    with pytest.raises(InputError, match=SENTENCES[kind]) as raised:
        read_scores([good, bad], key)
    sentence = raised.value.sentence
    assert sentence.startswith("bad.json ")
    assert sentence.endswith("nothing was counted.")
    assert "Other" not in sentence
    assert str(tmp_path) not in sentence
    assert raised.value.hint


def test_a_reader_who_comes_twice_is_not_counted_twice(tmp_path: Path) -> None:
    key = study(tmp_path)
    file = saved(tmp_path, answers(key, "R1", by_method))
    with pytest.raises(InputError, match="2 of the files are of reader R1"):
        read_scores([file, file], key)


def test_missing_files_and_a_wrong_key_are_named(tmp_path: Path) -> None:
    key = study(tmp_path)
    file = saved(tmp_path, answers(key, "R1", by_method))
    with pytest.raises(InputError, match="No file of answers"):
        read_scores([], key)
    with pytest.raises(InputError, match=r"absent\.json cannot be read: No such file or directory"):
        read_scores([tmp_path / "absent.json"], key)
    with pytest.raises(InputError, match=r"R1\.json is not the key of a reader study"):
        read_scores([file], file)
    shortened = json.loads(key.read_text("utf-8"))
    shortened["trials"] = {token: one for token, one in shortened["trials"].items() if not one["is_repeat"]}
    key.write_text(json.dumps(shortened), encoding="utf-8")
    with pytest.raises(InputError, match="The key does not hold each method once"):
        read_scores([saved(tmp_path, answers(key, "R1", by_method))], key)


def test_the_key_is_found_among_the_files_or_beside_them(tmp_path: Path) -> None:
    key = study(tmp_path)
    file = saved(tmp_path, answers(key, "R1", by_method))
    elsewhere = tmp_path / "sent"
    elsewhere.mkdir()
    sent = saved(elsewhere, answers(key, "R2", by_method))
    assert find_key([file]) == ([file], key)
    assert find_key([sent, key, file]) == ([sent, file], key)
    with pytest.raises(InputError, match="are no keys"):
        find_key([sent])
    other = key.with_name("other.html.key.json")
    other.write_bytes(key.read_bytes())
    with pytest.raises(InputError, match="are 2 keys"):
        find_key([file])
    assert find_key([file, key]) == ([file], key)
