"""What a line of the log holds, and what it must not."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from dicomnode import log

LOGGER = logging.getLogger("dicomnode.test")


@pytest.fixture(autouse=True)
def _restore_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


def test_off_a_terminal_each_event_is_one_json_object_a_line() -> None:
    stream = io.StringIO()
    log.start_logging("info", "auto", stream)
    log.event(LOGGER, "instance_stored", series=7, bytes=131072)
    entry = json.loads(stream.getvalue())
    assert entry.items() >= {"level": "info", "event": "instance_stored", "series": 7, "bytes": 131072}.items()
    assert stream.getvalue().count("\n") == 1


def test_text_quotes_a_value_with_spaces() -> None:
    stream = io.StringIO()
    log.start_logging("info", "text", stream)
    log.event(LOGGER, "series_kept", series=7, sentence="Only 3 slices; at least 5 are needed.")
    assert 'series_kept series=7 sentence="Only 3 slices; at least 5 are needed."' in stream.getvalue()


def test_a_field_that_is_not_on_the_list_fails_at_the_call() -> None:
    with pytest.raises(AssertionError, match="patient"):
        log.event(LOGGER, "instance_stored", patient="x")


def test_other_libraries_do_not_speak_at_info() -> None:
    stream = io.StringIO()
    log.start_logging("debug", "json", stream)
    logging.getLogger("pynetdicom.acse").warning("Association requested by %s", "a calling AE title")
    logging.getLogger("sqlalchemy.engine").info("INSERT …")
    assert stream.getvalue() == ""


def test_a_failure_carries_its_traceback_in_the_same_line() -> None:
    stream = io.StringIO()
    log.start_logging("info", "json", stream)
    try:
        raise ValueError("odd")
    except ValueError:
        log.failure(LOGGER, "peer_loop_failed", peer="pacs")
    entry = json.loads(stream.getvalue())
    assert entry["peer"] == "pacs"
    assert entry["traceback"].endswith("ValueError: odd")
