"""The command line's border: errors become a sentence and a code, help is cheap, pipes may close."""

from __future__ import annotations

import subprocess
import sys
import time

import click
import pytest

from dicomnode import __version__, errors
from dicomnode.cli import main


def _leave(*words: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main.main(list(words))
    assert isinstance(caught.value.code, int)
    return caught.value.code


@pytest.fixture
def raising(monkeypatch: pytest.MonkeyPatch) -> type[click.Command]:
    """A command that raises what the test puts into ``error``."""

    class Raising(click.Command):
        error: BaseException = AssertionError("set me")

        def invoke(self, ctx: click.Context) -> None:  # noqa: ARG002
            raise type(self).error

    monkeypatch.setattr(main.LazyGroup, "get_command", lambda _group, _ctx, name: Raising(name))
    return Raising


@pytest.mark.parametrize("error", errors.NodeError.__subclasses__())
def test_an_error_of_the_family_is_a_sentence_a_hint_and_its_code(
    error: type[errors.NodeError], raising: type[click.Command], capsys: pytest.CaptureFixture[str]
) -> None:
    setattr(raising, "error", error("The disk is full.", hint="Make room."))  # noqa: B010
    assert _leave("status") == error.exit_code
    assert capsys.readouterr().err == "dicomnode: The disk is full.\n  Make room.\n"


def test_an_unexpected_error_is_one_line_and_code_1(
    raising: type[click.Command], capsys: pytest.CaptureFixture[str]
) -> None:
    setattr(raising, "error", ZeroDivisionError("with a patient's name in it"))  # noqa: B010
    assert _leave("status") == 1
    shown = capsys.readouterr().err
    assert "ZeroDivisionError" in shown
    assert "patient" not in shown
    assert "Traceback" not in shown


def test_debug_shows_the_traceback(raising: type[click.Command], capsys: pytest.CaptureFixture[str]) -> None:
    setattr(raising, "error", ZeroDivisionError())  # noqa: B010
    assert _leave("--debug", "status") == 1
    assert "Traceback" in capsys.readouterr().err


def test_an_interruption_is_130(raising: type[click.Command]) -> None:
    setattr(raising, "error", KeyboardInterrupt())  # noqa: B010
    assert _leave("status") == 130


@pytest.mark.parametrize("words", [["nosuch"], ["series", "nosuch"], ["series", "show"], ["echo"], ["--nosuch"]])
def test_wrong_use_is_code_2(words: list[str]) -> None:
    assert _leave(*words) == 2


def test_help_and_version_are_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert _leave("--help") == 0
    shown = capsys.readouterr().out
    for name in main.COMMANDS:
        assert f"\n  {name} " in shown
    assert _leave("--version") == 0
    assert capsys.readouterr().out == f"dicomnode {__version__}\n"


def test_a_reader_that_has_enough_is_no_error() -> None:
    code = f"{sys.executable} -c 'from dicomnode.cli.main import main; main([\"--help\"])'; echo code=$? >&2"
    done = subprocess.run(["sh", "-c", f"({code}) | true"], capture_output=True, text=True, check=False)
    assert "code=0" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.alone
def test_help_costs_a_few_times_the_import_of_click() -> None:
    """A ratio of the same run, best of three each: seconds would measure the machine."""

    def best_s(code: str) -> float:
        times = []
        for _ in range(3):
            began = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
            times.append(time.perf_counter() - began)
        return min(times)

    help_code = "from dicomnode.cli.main import main\ntry: main(['--help'])\nexcept SystemExit: pass"
    assert best_s(help_code) < 6 * best_s("import click")
