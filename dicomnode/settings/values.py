"""Kinds of values that several tables of the settings have, each with its limits."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from dicomnode.ids import AeTitle
from dicomnode.settings.match import window
from dicomnode.strict_toml import fail

_A_DAY_S = 86_400.0
_TITLE = re.compile(r"[\x20-\x5b\x5d-\x7e]{1,16}")  # PS3.5 section 6.2, VR AE: ASCII without backslash and controls
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def _title(text: str) -> AeTitle:
    if not _TITLE.fullmatch(text) or not text.strip():
        fail("expected 1 to 16 ASCII characters, no backslash (PS3.5 section 6.2)")
    return AeTitle(text.strip())  # leading and trailing spaces are not significant


def _word(text: str) -> str:
    if not _WORD.fullmatch(text):
        fail("expected a name of letters, digits, '.', '_' and '-', at most 64")
    return text


def _folder(path: Path) -> Path:
    return path.expanduser()


def _file(text: str) -> str:
    return text and str(Path(text).expanduser())


def _hours(text: str) -> str:
    if text and window(text) is None:
        fail('expected two times of day, such as "07:00-19:00"')
    return text


Title = Annotated[AeTitle, AfterValidator(_title)]
Hours = Annotated[str, AfterValidator(_hours)]  # a part of each day; empty: none
MaybeTitle = Annotated[AeTitle, AfterValidator(lambda text: text and _title(text))]
Word = Annotated[str, AfterValidator(_word)]
Folder = Annotated[Path, AfterValidator(_folder)]
PemFile = Annotated[str, AfterValidator(_file)]  # empty: none
SecretFile = Annotated[str, AfterValidator(_file)]  # empty: none
MaybeFolder = Annotated[str, AfterValidator(_file)]  # empty: none
Seconds = Annotated[float, Field(gt=0, le=_A_DAY_S, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=1024)]
