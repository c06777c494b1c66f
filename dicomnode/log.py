"""Log events: a fixed name, fields from one list, our own ids only.

No patient, no name, no date of birth, no UID at info or above, no path of a sender. A field that is not on the
list is a programming error and fails at the call, so that no test run can pass with one.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import IO, Literal

from dicomnode.visible import LINE_END, TAB, json_text, visible

Value = str | int | float | bool | None

FIELDS = frozenset(
    {
        "address", "adopted", "archive", "associations", "attempts", "boot", "bytes", "call", "called", "calling",
        "code", "count", "delivery", "destination", "detail", "device", "error", "exit_code", "free_bytes", "hint",
        "host", "images", "instance", "instances", "items", "job", "ledger", "limit", "memory_mb", "model",
        "model_digest", "name", "needed_bytes", "next_at", "node", "orphans", "peer", "pid", "port", "quarantine",
        "ratio", "reason", "returned", "revision", "rule", "seconds", "sentence", "series", "signal", "slices",
        "stage", "state", "status", "swept", "version", "wait_s",
    }
)  # fmt: skip

Observer = Callable[[str, int, Mapping[str, Value]], None]  # name, level and fields of an event

_RESERVED = "dicomnode_fields"
_observers: list[Observer] = []


def event(logger: logging.Logger, name: str, *, level: int = logging.INFO, **fields: Value) -> None:
    """Log an event: ``event(LOGGER, "instance_stored", series=7, bytes=131072)``."""
    unknown = fields.keys() - FIELDS
    assert not unknown, f"log fields not on the list of log.FIELDS: {sorted(unknown)}"
    _tell(name, level, fields)
    logger.log(level, name, extra={_RESERVED: fields})


def failure(logger: logging.Logger, name: str, **fields: Value) -> None:
    """Log an unexpected exception with its traceback: once, at the border that caught it."""
    unknown = fields.keys() - FIELDS
    assert not unknown, f"log fields not on the list of log.FIELDS: {sorted(unknown)}"
    _tell(name, logging.ERROR, fields)
    logger.error(name, exc_info=True, extra={_RESERVED: fields})


@contextmanager
def observed(observer: Observer) -> Iterator[None]:
    """Call an observer with every event of this process, also with those below the level of the log.

    It is called in the thread of the event; it must be quick, and must not raise.
    """
    _observers.append(observer)
    try:
        yield
    finally:
        _observers.remove(observer)


def _tell(name: str, level: int, fields: Mapping[str, Value]) -> None:
    for observer in tuple(_observers):
        observer(name, level, fields)


def start_logging(level: str, form: Literal["auto", "text", "json"], stream: IO[str] | None = None) -> None:
    """Send our events to one stream: text on a terminal, one JSON object a line otherwise.

    Other libraries log only from warning on: at info pynetdicom writes UIDs and AE titles of every request.
    """
    target = sys.stderr if stream is None else stream
    handler = logging.StreamHandler(target)
    as_text = form == "text" or (form == "auto" and target.isatty())
    handler.setFormatter(_TextFormatter() if as_text else _JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("dicomnode").setLevel(level.upper())
    # pynetdicom's warnings quote what a peer sent; our own events report what matters of it.
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
    logging.getLogger("pydicom").setLevel(logging.ERROR)


def _fields(record: logging.LogRecord) -> dict[str, Value]:
    found: dict[str, Value] = getattr(record, _RESERVED, {})
    return found


def _moment(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = " ".join(f"{name}={_quoted(value)}" for name, value in _fields(record).items() if value is not None)
        line = f"{_moment(record)} {record.levelname.lower():7} {record.getMessage()}"
        line = visible(f"{line} {fields}" if fields else line)
        if record.exc_info:
            line += LINE_END + visible(self.formatException(record.exc_info), keep=LINE_END + TAB)
        return line


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Value] = {
            "at": _moment(record),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        entry |= {name: _rounded(value) for name, value in _fields(record).items() if value is not None}
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json_text(entry)


def _rounded(value: Value) -> Value:
    """A number without digits that say nothing: seconds to the microsecond."""
    return round(value, 6) if isinstance(value, float) else value


def _quoted(value: Value) -> str:
    text = f"{value:.3f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
    is_plain = text.isprintable() and " " not in text and text  # a line end in a value must not begin a line
    return text if is_plain else json_text(text)
