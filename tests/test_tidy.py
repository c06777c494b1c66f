"""What no linter knows: tests mirror rooms, no machine's path, no work left without a number, no big file."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LINE_LIMIT = 700  # of a source file: a question ("is this still one thing?") that must be answered by then
SIZE_LIMIT_BYTES = 8 << 20  # of any file: weights and samples belong into the repository, data sets do not


def _tracked() -> list[Path]:
    """Files of the repository, those not yet added among them; what git ignores is not ours."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]


FILES = _tracked()
TEXTS = [
    path for path in FILES if path.suffix in {".py", ".md", ".toml", ".service", ".txt", ".yml"} or "." not in path.name
]
SOURCES = [path for path in FILES if path.suffix == ".py"]


def _ids(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in paths]


@pytest.mark.parametrize("path", TEXTS, ids=_ids(TEXTS))
def test_a_text_is_clean(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    if path == Path(__file__):
        return
    found = re.search(r"(?<![\w.])/(?:home|root|Users|work|mnt|tmp)/\w+", text)
    assert not found, f"a path of somebody's machine: {found[0]}"
    assert not re.search(r"\b(?:TODO|FIXME|XXX)\b(?!\(#\d+\))", text), "TODO only as TODO(#number)"
    assert "\r" not in text
    assert "\t" not in text or path.name == "Makefile", "a tab"
    assert not re.search(r"[ \t]$", text, re.MULTILINE), "space at the end of a line"
    assert text.endswith("\n") or not text


@pytest.mark.parametrize("path", SOURCES, ids=_ids(SOURCES))
def test_a_source_file_says_what_it_is_and_is_one_thing(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    if path.name == "__init__.py" and not text:
        return
    assert text.startswith(('"""', 'r"""')), "a module begins with its docstring"
    assert text.count("\n") <= LINE_LIMIT
    assert not re.search(r"^\s*# ?[-=#*]{4,}", text, re.MULTILINE), "a banner"
    if path.is_relative_to(ROOT / "dicomnode"):
        assert path.stem not in {"utils", "util", "common", "misc", "helpers"}


def test_each_test_file_mirrors_a_room() -> None:
    free = {"e2e", "faults", "field", "fuzz", "soak", "support"}
    for path in SOURCES:
        parts = path.relative_to(ROOT).parts
        if parts[0] != "tests" or not path.name.startswith("test_") or parts[1] in free:
            continue
        if len(parts) == 2:
            stem = path.stem.removeprefix("test_")
            about_the_whole = {"imports", "tidy", "docs", "wheel"}
            room = ROOT / "dicomnode" / stem
            assert stem in about_the_whole or room.with_suffix(".py").exists() or room.is_dir(), path
        else:
            inner = Path(*parts[1:-1])
            assert (ROOT / "dicomnode" / inner).is_dir() or (ROOT / inner).is_dir(), path


def test_no_file_is_too_large_to_belong_here() -> None:
    assert [str(path) for path in FILES if path.stat().st_size > SIZE_LIMIT_BYTES] == []


def test_packages_re_export_nothing() -> None:
    for path in SOURCES:
        if path.name == "__init__.py" and path.is_relative_to(ROOT / "dicomnode"):
            assert not re.search(r"^(?:from|import) (?!__future__)", path.read_text("utf-8"), re.MULTILINE), path
