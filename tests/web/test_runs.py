"""Training runs on the page: really trained, judged and read; shown from their files, and nothing else of them."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.page_node import Browser, browser, page_node, settings_of, token_file
from tests.support.training_runs import RUN, STEPS

HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture
def runs(made_runs: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    shutil.copytree(made_runs, tmp_path / "runs")
    return tmp_path / "runs"


@pytest.fixture
def page(runs: Path, tmp_path: Path) -> Iterator[Browser]:
    with page_node(tmp_path / "node") as node:
        settings = settings_of(node.data, runs=str(runs), token_file=str(token_file(tmp_path)))
        with browser(settings, node.quiet.clock) as opened:
            opened.enter("Ada")
            yield opened


def _words(text: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", text).split())


def _journal(runs: Path, stage: str) -> list[dict[str, float]]:
    return [json.loads(line) for line in (runs / RUN / stage / "metrics.jsonl").read_text().splitlines()]


def test_a_run_is_listed_with_its_last_figures(runs: Path, page: Browser) -> None:
    words = _words(page.get("/runs").text)
    last = _journal(runs, "sharp")[-1]
    assert f"{RUN} tiny-thin sharp 2 of 2" in words
    assert f"{last['loss']:.3g}" in words
    assert "1 report 1 reader study" in words


def test_the_curves_end_where_the_journal_does(runs: Path, page: Browser) -> None:
    text = page.get(f"/runs/{RUN}").text
    for stage, steps in zip(("fidelity", "sharp"), STEPS, strict=True):
        lines = _journal(runs, stage)
        assert f"Stage {stage}: {steps} of {steps} steps" in text
        losses = [line["loss"] for line in lines]
        said = f"loss: {losses[0]:.3g} first, {losses[-1]:.3g} now, between {min(losses):.3g} and {max(losses):.3g}"
        assert said in _words(text), said
    assert "share of pairs in which the discriminator is right" in text
    assert all(re.findall(r'<path d="([^"]*)"', text))


def test_what_was_judged_and_what_readers_said_stands_beside_it(runs: Path, page: Browser) -> None:
    words = _words(page.get(f"/runs/{RUN}").text)
    study = json.loads((runs / RUN / "readers" / "readers.json").read_text())
    row = next(one for one in study["methods"] if (one["method"], one["question"]) == ("net", "sharpness"))
    assert row["mean"] == 3.5
    assert "net 3.50 [" in words
    assert "-1.00 to the truth" in words
    report = json.loads((runs / RUN / "report" / "report.json").read_text())
    assert {one["method"] for one in report["estimates"]} == {"cubic-dc", "net"}
    assert "Evaluation report subjects method gain psnr ssim haarpsi" in words


def test_the_plan_is_counted_and_its_paths_stay_where_they_are(runs: Path, page: Browser) -> None:
    plan = json.loads((runs / RUN / "plan.json").read_text())
    text = page.get(f"/runs/{RUN}").text
    assert "1 volume of 1 person" in _words(text)
    for source in plan["sources"]:
        assert source["label"] not in text
        assert all(path not in text for path in source["paths"])
    assert str(runs) not in text + page.get("/runs").text


def test_the_page_of_an_evaluation_can_do_nothing_in_the_browser_and_needs_the_token(
    runs: Path, page: Browser, tmp_path: Path
) -> None:
    place = f"/runs/{RUN}/report/report"
    assert f'href="{place}"' in page.get(f"/runs/{RUN}").text
    got = page.get(place)
    assert got.body == (runs / RUN / "report" / "report.html").read_bytes()
    policy = got.headers["Content-Security-Policy"]
    assert policy.startswith("sandbox; default-src 'none';")
    assert "script" not in policy
    with (
        page_node(tmp_path / "open") as node,
        browser(settings_of(node.data, runs=str(runs)), node.quiet.clock) as bare,
    ):
        assert place not in bare.get(f"/runs/{RUN}").text
        assert bare.get(place).status == 404
        assert "is shown once web.token_file is set" in bare.get(f"/runs/{RUN}").text


def test_no_path_leads_out_of_the_folder(runs: Path, page: Browser, tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    for name in ("report.html", "report.json", "metrics.jsonl"):
        shutil.copy(runs / RUN / "report" / "report.json", tmp_path / "secret" / name)
    (runs / "linked").symlink_to(tmp_path / "secret")
    (runs / RUN / "elsewhere").symlink_to(tmp_path / "secret")
    (runs / RUN / "report" / "report.html").unlink()
    (runs / RUN / "report" / "report.html").symlink_to(tmp_path / "secret" / "report.html")
    assert "linked" not in page.get("/runs").text
    for place in (
        "/runs/linked", "/runs/..", "/runs/../secret", f"/runs/{RUN}/../secret/report", f"/runs/{RUN}/elsewhere/report",
        f"/runs/{RUN}/report/report", "/runs/.", f"/runs/{RUN}/plan.json",
    ):  # fmt: skip
        assert page.get(place).status == 404, place


def test_hostile_names_and_files_are_text_or_a_sentence(runs: Path, page: Browser) -> None:
    bad = runs / HOSTILE
    bad.mkdir()
    (bad / "plan.json").write_text(json.dumps({"recipe": {"name": HOSTILE, "about": HOSTILE}}))
    (bad / "report.json").write_text("[" * 100_000)
    (bad / "metrics.jsonl").write_text('{"step": 50, "steps": 100, "loss": NaN}\n{"step": 100, "steps": 1')
    listed = page.get("/runs").text
    assert HOSTILE not in listed
    one = page.get(f"/runs/{HOSTILE}")
    assert one.status == 200
    assert HOSTILE not in one.text
    assert "report.json is not what the trainer writes." in one.text
    assert "50 of 100 steps" in one.text


def test_a_run_that_went_back_after_a_kill_has_one_line_a_step(runs: Path, page: Browser) -> None:
    journal = runs / RUN / "fidelity" / "metrics.jsonl"
    lines = [{"step": step, "steps": 300, "loss": loss} for step, loss in ((50, 4), (100, 9), (150, 8), (100, 2))]
    journal.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert "loss: 4 first, 2 now, between 2 and 4" in _words(page.get(f"/runs/{RUN}").text)
    assert "fidelity: 100 of 300 steps" in page.get(f"/runs/{RUN}").text


def test_a_run_that_goes_on_is_read_anew(runs: Path, page: Browser) -> None:
    assert "120 of 120" not in page.get("/runs").text
    with (runs / RUN / "sharp" / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 120, "steps": 120, "loss": 1.0}) + "\n")
    assert "120 of 120" in page.get("/runs").text


def test_without_the_key_there_are_no_runs(tmp_path: Path) -> None:
    with page_node(tmp_path) as node, browser(settings_of(node.data), node.quiet.clock) as page:
        assert 'href="/runs"' not in page.get("/").text
        assert "web.runs" in page.get("/runs").text
    with page_node(tmp_path) as node, browser(settings_of(node.data, runs="/nowhere"), node.quiet.clock) as page:
        assert page.get("/runs").status == 404
