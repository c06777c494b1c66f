"""Read TOML text into a frozen model with exactly the keys of its class, or list every mistake with its dotted key.

Settings, model cards, recipes and inventories are read by ``parse`` and ``check``. The caller reads the file, and turns
``NotTomlError`` and ``MistakesError`` into an error of its own that names the file. This module opens no file, and
converts no value: the text ``"11"`` is not a number.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

_LONGEST_SHOWN = 64  # characters of a wrong value
_OWN_WORDS = ("expected", "value_error")  # types of errors whose sentence comes from one of our validators
_VALUE_ERROR = "Value error, "  # pydantic puts this before the sentence of a ValueError
_INPUT_ERROR = "Input should be "  # most of pydantic's own sentences begin so


class StrictModel(BaseModel):
    """Base of every model of a file: unknown keys are mistakes, values are not converted, nothing is changed later."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


Checked = TypeVar("Checked", bound=StrictModel)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mistake:
    """One mistake: its place, and a sentence on what was expected there."""

    key: tuple[str | int, ...]  # tables, numbers of rows and the key itself; () is the whole file
    sentence: str

    def __str__(self) -> str:
        return f"{'.'.join(map(str, self.key))}: {self.sentence}" if self.key else self.sentence


class NotTomlError(Exception):
    """The text is not TOML; the message says why."""


class MistakesError(Exception):
    """The tables do not fit their model; the message holds all ``mistakes``."""

    def __init__(self, mistakes: Sequence[Mistake]) -> None:
        super().__init__("; ".join(map(str, mistakes)))
        self.mistakes = tuple(mistakes)


def parse(content: bytes) -> dict[str, object]:
    """Parse the tables of a TOML file. Raises NotTomlError."""
    try:
        return tomllib.loads(content.decode("utf-8-sig"))  # some editors put a byte order mark first
    except UnicodeDecodeError as exc:
        raise NotTomlError(f"it is not UTF-8 text (byte {exc.start})") from exc
    except tomllib.TOMLDecodeError as exc:
        raise NotTomlError(str(exc)) from exc


def check(model: type[Checked], tables: Mapping[str, object], *, secret: Collection[str] = ()) -> Checked:
    """Read ``tables`` into a ``model``. Raises MistakesError, which repeats no value below the ``secret`` tables."""
    try:
        # Strict JSON takes a path, an enumeration and a tuple from text and still refuses "11" for a number; strict
        # Python would refuse the path. A date of TOML becomes text, which no key takes for one.
        return model.model_validate_json(json.dumps(tables, default=str))
    except ValidationError as exc:
        raise MistakesError([line for error in exc.errors() for line in _mistakes(error, model, secret)]) from exc


def fail(expected: str, *, also: Sequence[tuple[str, str]] = ()) -> NoReturn:
    """Say in a validator what was expected; ``also``: (key below, what was expected there), instead of the sentence."""
    raise PydanticCustomError("expected", "{expected}", {"expected": expected, "also": list(also)})


def guess(word: str, known: Collection[str]) -> str:
    """Return `` (did you mean …?)`` where one of the known words is near, else an empty text."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.75)
    return f" (did you mean {close[0]}?)" if close else ""


def shown(value: object) -> str:
    """Write a value as JSON, much as it would stand in the file."""
    return json.dumps(value, default=str, ensure_ascii=False)


def _mistakes(error: ErrorDetails, model: type[BaseModel], secret: Collection[str]) -> Iterator[Mistake]:
    key, kind, message = error["loc"], error["type"], error["msg"]
    if also := error.get("ctx", {}).get("also"):
        yield from (Mistake(key=(*key, inner), sentence=expected) for inner, expected in also)
    elif kind == "extra_forbidden":
        yield Mistake(key=key, sentence=f"is not a known key{guess(str(key[-1]), _siblings(model, key))}")
    elif kind == "missing":
        yield Mistake(key=key, sentence="is missing")
    else:
        yield Mistake(key=key, sentence=_sentence(kind, message) + _found(error, secret))


def _sentence(kind: str, message: str) -> str:
    """Return the sentence of one of our validators as it is, and bring one of pydantic into the form of ours."""
    if kind in _OWN_WORDS:
        return message.removeprefix(_VALUE_ERROR)
    if message.startswith(_INPUT_ERROR):
        return f"expected {message.removeprefix(_INPUT_ERROR)}"
    return message[:1].lower() + message[1:]


def _found(error: ErrorDetails, secret: Collection[str]) -> str:
    """Return ``, found …`` with the wrong value, if it is short and no secret; else an empty text."""
    value, key = error["input"], error["loc"]
    is_short = isinstance(value, str | int | float) and len(str(value)) <= _LONGEST_SHOWN
    has_password = "://" in str(value) and "@" in str(value)
    return f", found {shown(value)}" if is_short and not has_password and key and key[0] not in secret else ""


def _siblings(model: type[BaseModel], key: Sequence[str | int]) -> list[str]:
    """List the keys that are allowed in the place of an unknown one."""
    models = [model]
    for part in key[:-1]:
        if isinstance(part, str):
            fields = [one.model_fields[part] for one in models if part in one.model_fields]
            found = [inner for field in fields for inner in _models_in(field.annotation)]
            models = found or models  # a key of a dictionary is no field: go on with the models of its values
    return [name for one in models for name in one.model_fields]


def _models_in(annotation: object) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for inner in get_args(annotation) for found in _models_in(inner)]
