"""The report: nothing loaded, nothing unescaped, nothing that is missing shown as a number."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from tests.trainer.judging.test_summary import row
from trainer.data.pairs import Origin
from trainer.data.sources import Split
from trainer.judging.evaluate import Evaluation, MethodFacts
from trainer.judging.figures import Figure, FigureStyle, figure
from trainer.judging.paper_table import PairRow
from trainer.judging.report import HTML_FILE, JSON_FILE, lines, to_html, to_json, write_report
from trainer.judging.summary import comparison_rows, method_rows, subject_rows

HOSTILE = "<script>alert(1)</script>"


def evaluation(subject: str = "a") -> Evaluation:
    rows = [row(subject, "cubic-dc", 20.0), row(subject, "net", 21.5), row("b", "cubic-dc", 20.0)]
    rows += [row("b", "net", float("inf"))]
    subjects = subject_rows(rows)
    pair = PairRow(
        subject=subject, origin=Origin.SIMULATED, method="net", channel="", pairs=24, mse_table=5.12e6, mse=1e4,
        psnr=25.0, ssim=0.8,
    )  # fmt: skip
    return Evaluation(
        seed=0,
        sources=((f"{subject}/1", subject, Split.VALIDATION, "CC0-1.0"),),
        methods=(
            MethodFacts(
                name="net",
                kind="thin",
                digest="ab" * 32,
                ratios=(2, 6),
                is_model=True,
                is_projected=True,
                sharpness=None,
            ),
        ),
        features=None,
        rows=tuple(rows),
        subjects=tuple(subjects),
        estimates=tuple(method_rows(subjects, seed=0)),
        comparisons=tuple(comparison_rows(subjects)),
        paper_table=(pair,),
        probes=(),
        dial=(),
        notes=("LPIPS, DISTS: not computed",),
    )


@pytest.fixture(scope="module")
def figures() -> list[Figure]:
    """One small figure."""
    ramp = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    return [figure(HOSTILE, {"low": ramp * np.float32(0.5), "high": ramp}, FigureStyle.ONE_WINDOW, note="")]


def test_the_page_loads_nothing_and_runs_nothing(figures: list[Figure]) -> None:
    page = to_html(evaluation(HOSTILE), figures)
    assert HOSTILE not in page
    assert "&lt;script&gt;" in page, "hostile text is shown, not run"
    assert "<script" not in page
    assert not re.search(r"https?:|//[a-z]|url\(|<link|@import|<iframe", page)
    sources = re.findall(r'src="([^"]*)"', page)
    assert sources
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert "default-src &#39;none&#39;" in page or "default-src 'none'" in page


def test_json_is_json_even_where_an_error_is_zero() -> None:
    found = json.loads(to_json(evaluation()), parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    psnr = {(one["case"]["subject"], one["method"]): one["scores"]["psnr"] for one in found["rows"]}
    assert psnr["a", "net"] == 21.5
    assert psnr["b", "net"] is None
    assert found["sources"] == [["a/1", "a", "validation", "CC0-1.0"]]
    assert found["rows"][0]["case"]["profile"] == "box"


def test_the_terminal_says_gains_why_there_is_no_test_and_what_was_not_computed() -> None:
    text = "\n".join(lines(evaluation()))
    assert re.search(r"net +21\.50 +\+1\.50", text)
    assert "fewer than 6 cannot reach p < 0.05" in text
    assert "LPIPS, DISTS: not computed" in text
    assert re.search(r"a +simulated +net +24 +5\.12e\+06 +1e\+04", text), "table units beside the true error"


def test_what_is_missing_is_a_dash(figures: list[Figure]) -> None:
    page = to_html(evaluation(), figures)
    assert "nan" not in page
    assert "inf<" not in page
    assert "None" not in page
    assert "<td>–</td>" in page


def test_both_files_are_written(tmp_path: Path, figures: list[Figure]) -> None:
    write_report(tmp_path / "new" / "folder", evaluation(), figures)
    assert {path.name for path in (tmp_path / "new" / "folder").iterdir()} == {HTML_FILE, JSON_FILE}
