"""Header text, file names and model cards that would steer a terminal are shown as they stand, in every output.

Seen in the field: ``series show --identify`` of a patient whose name held an escape sequence cleared the screen.
"""

from __future__ import annotations

import io
import json
import logging
import os
import re
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dicomnode import log
from dicomnode.cli import output
from dicomnode.errors import InputError
from dicomnode.ids import SeriesId, new_instance_id
from dicomnode.imaging.headers import MR_IMAGE_STORAGE
from dicomnode.ledger.store import open_ledger
from dicomnode.ledger.values import StoredInstance
from dicomnode.visible import json_text, visible
from tests.cli.conftest import Ran, Run, _no_settings_of_this_machine, run
from tests.support.mr_series import write_mr_series

__all__ = ["_no_settings_of_this_machine", "run"]

ROOT = Path(__file__).parents[2]
# Clear the screen, by ESC and by C1; ring; delete; write from the right; a line of its own; half of a pair.
HOSTILE = ("\x1b[2J", "\x9b2J", "\x07", "\x7f", "\x85", "\u202e", "\u2066", "\u2028", "\u2029", "\udcff", "\r", "\x00")
EVIL = "A" + "B".join(HOSTILE) + "Z"
UNSAFE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u2028\u2029\ud800-\udfff]")
NAME_OF_A_PATIENT = "MÜLLER^ANNA\x1b[2J\x9b1m\u202egnal\u2028X"


@pytest.fixture
def series(tmp_path: Path) -> SeriesId:
    """A received series whose header texts steer a terminal."""
    texts = {"SpecificCharacterSet": "ISO_IR 192", "PatientName": NAME_OF_A_PATIENT, "ProtocolName": "a\x1b]0;b\x07"}
    texts |= {"SeriesDescription": "T2\u2066\u2069\x7f", "AccessionNumber": "1\r2"}
    (tmp_path / "data").mkdir()
    with closing(open_ledger(f"sqlite:///{tmp_path}/data/ledger.sqlite")) as ledger:
        number = ledger.intake.series_for("1.2.826.0.1.3680043.10.1")
        (path, *_) = write_mr_series(tmp_path / "data" / "archive" / str(number), attributes=texts)
        received = StoredInstance(
            id=new_instance_id(), series=number, sop_class_uid=MR_IMAGE_STORAGE, sop_instance_uid="1.2.3",
            transfer_syntax_uid="1.2.840.10008.1.2.1", size_bytes=path.stat().st_size, sha256="0" * 64,
            file=f"{number}/{path.name}", peer="mr1", received_at=datetime.now(UTC),
        )  # fmt: skip
        ledger.intake.accept([received])
    return number


@pytest.fixture
def _logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


def assert_safe(text: str) -> None:
    """Nothing in it reaches a terminal but letters and line ends."""
    found = UNSAFE.search(text)
    assert found is None, f"{found[0]!r} in {text!r}"


@pytest.mark.parametrize("command", ["show", "explain"])
def test_a_name_of_a_patient_cannot_clear_the_screen_of_who_asks_for_it(
    run: Run, series: SeriesId, command: str
) -> None:
    asked = run("series", command, series, "--identify")
    assert asked.code == 0, asked.err
    assert_safe(asked.out + asked.err)
    for shown in ("MÜLLER^ANNA\\x1b[2J\\x9b1m\\u202egnal\\u2028X", "a\\x1b]0;b\\x07", "T2\\u2066\\u2069\\x7f", "1\\r2"):
        assert shown.replace("\\r", "\\x0d") in asked.out
    assert len(asked.out.split("\n")) == len(asked.out.splitlines()) + 1, "no text makes a line of its own"


@pytest.mark.parametrize("command", ["show", "explain"])
def test_json_says_the_same_to_a_program_and_is_safe_to_look_at(run: Run, series: SeriesId, command: str) -> None:
    asked = run("series", command, series, "--identify", "--json")
    assert_safe(asked.out)
    identity = json.loads(asked.out)["identity"]
    assert identity["patient_name"] == NAME_OF_A_PATIENT
    assert identity["series_description"] == "T2\u2066\u2069\x7f"
    assert "MÜLLER" in asked.out, "letters are no escapes"


@pytest.mark.parametrize(("vr", "number"), [(b"IS", ["series_number       x!"]), (b"FD", [])])
def test_a_value_that_is_not_of_its_form_costs_its_own_line_at_most(
    run: Run, series: SeriesId, vr: bytes, number: list[str]
) -> None:
    """A Series Number that is no number is shown; of one whose bytes cannot be taken apart nothing can be."""
    for path in Path(os.environ["DICOMNODE_NODE__DATA"]).glob(f"archive/{series}/*.dcm"):
        content = path.read_bytes().replace(b"\x11\x00IS\x02\x003 ", b"\x11\x00" + vr + b"\x02\x00x!")
        path.write_bytes(content)
    asked = run("series", "show", series, "--identify")
    assert asked.code == 0, asked.err
    assert "MÜLLER" in asked.out
    assert [line.strip() for line in asked.out.split("\n") if "series_number" in line] == number
    assert asked.err == "", "no library's warning quotes the value"


def folder_of_evil(tmp_path: Path) -> Path:
    """A folder whose name holds all that a file name may, a byte that is no UTF-8 among it."""
    return tmp_path / EVIL.replace("\x00", "")


@pytest.mark.parametrize("is_there", [True, False], ids=["a path in our sentence", "a path in click's"])
def test_a_file_name_in_an_error_is_shown(run: Run, tmp_path: Path, is_there: bool) -> None:
    folder = folder_of_evil(tmp_path)
    if is_there:
        folder.mkdir()
    ran = run("infer", folder, tmp_path / "out")
    assert ran.code == 2
    assert_safe(ran.out + ran.err)
    assert "\\x1b[2J" in ran.err
    assert "\\u202e" in ran.err


def test_a_file_name_in_progress_and_result_is_shown(run: Run, tmp_path: Path) -> None:
    folder = folder_of_evil(tmp_path)
    write_mr_series(folder / "in")
    for words in ([], ["--json"]):
        ran: Ran = run("infer", folder / "in", folder / f"out{len(words)}", "--model", "cubic-dc", *words)
        assert ran.code == 0, ran.err
        assert_safe(ran.out + ran.err)
        assert "1b[2J" in ran.out


def test_a_traceback_is_shown_too(run: Run, tmp_path: Path) -> None:
    folder = folder_of_evil(tmp_path)
    folder.mkdir()
    ran = run("--debug", "infer", folder, tmp_path / "out")
    assert "Traceback" in ran.err
    assert_safe(ran.err)


def test_a_model_card_cannot_steer_the_terminal_of_who_looks_at_it(run: Run, tmp_path: Path) -> None:
    """The card is read before anything is verified, to be shown: of whoever handed the folder over."""
    from tests.support.model_folders import random_thin, write_thin

    folder = write_thin(tmp_path / "net", net=random_thin(blocks=1))
    card = (folder / "card.toml").read_text()
    (folder / "card.toml").write_text(card.replace('intended_use = "', 'intended_use = "\\u001b[2J\\u202e\\u009b'))
    from dicomnode.generators import model_dir

    model_dir.seal(folder)
    ran = run("model", "show", folder)
    assert ran.code == 0, ran.err
    assert_safe(ran.out)
    assert "\\x1b[2J\\u202e\\x9b" in ran.out
    assert_safe(run("model", "show", folder, "--json").out)


@pytest.mark.parametrize("hostile", HOSTILE)
def test_every_such_character_is_made_visible_in_tables_facts_sentences_and_json(
    hostile: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = f"a{hostile}b"
    output.print_table([[text]], [text])
    output.print_facts({text: text, "more": [text, "two words"], "rows": [{"x": text}]}, as_json=False)
    output.print_done(text, row=1, as_json=False)
    output.say(text, err=True)
    with output.progress_bar(text) as tell:
        tell(text, 0.5)
    output.print_json({text: [text]})
    shown = capsys.readouterr()
    assert_safe(shown.out + shown.err)
    assert json.loads(json_text({text: [text]})) == {text: [text]}


def test_letters_of_any_script_stay_what_they_are() -> None:
    for text in ("Müller", "山田^太郎", "محمد", "नमस्ते", "می\u200cخواهم", "O'Neil\\x=[red]"):
        assert visible(text) == text


@pytest.mark.usefixtures("_logging_as_before")
@pytest.mark.parametrize("form", ["text", "json"])
def test_a_line_of_the_log_stays_one_line_and_safe(form: str) -> None:
    """An AE title or a peer's sentence may hold anything."""
    stream = io.StringIO()
    log.start_logging("info", form, stream)  # type: ignore[arg-type]
    logger = logging.getLogger("dicomnode.test")
    for hostile in ("\n", *HOSTILE):
        log.event(logger, "association_refused", calling=f"MR{hostile}1", sentence=f"two words{hostile}")
    text = stream.getvalue()
    assert_safe(text)
    assert text.count("\n") == len(HOSTILE) + 1
    try:
        raise InputError("\x1b[2J")
    except InputError:
        log.failure(logger, "failed", error="\x9b")
    assert_safe(stream.getvalue())


def test_commands_print_by_way_of_the_one_file_that_makes_text_visible() -> None:
    for path in sorted((ROOT / "dicomnode" / "cli").glob("*.py")):
        is_the_one = path.name == "output.py"
        assert is_the_one or not re.search(r"click\.(echo|secho|style)|\bprint\(", path.read_text()), path.name
