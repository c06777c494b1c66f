"""The findings of a rehearsal as values: one step for each question, with the side that has to act after a no."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Mark(StrEnum):
    """The answer to the question of a step."""

    OK = "ok"
    WARN = "warn"  # images arrive, something else is not as it should be
    FAIL = "fail"
    OPEN = "open"  # the rehearsal could not find out


class Side(StrEnum):
    """The side that has to act."""

    NOBODY = ""
    OURS = "our team"
    PACS = "PACS team"
    BOTH = "both teams"


class Topic(StrEnum):
    """The question of a step, in the order in which they are asked."""

    SETTINGS = "settings"
    NAME = "name"
    CONNECTION = "connection"
    TLS = "TLS"
    ASSOCIATION = "association"
    SERVICE = "service"  # in place of the association, by DICOMweb
    NAGLE = "Nagle"
    CONTEXTS = "contexts"
    IMAGES = "images"
    QUERY = "query"
    COMMITMENT = "commitment"
    CALL_BACK = "call back"
    CLOCKS = "clocks"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """The answer to one question."""

    what: Topic
    mark: Mark
    sentence: str
    side: Side = Side.NOBODY
    hint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextLine:
    """A presentation context that was proposed."""

    sop_class: str
    transfer_syntax: str
    accepted: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SheetLine:
    """A line of the hand-over sheet: what one team has to have done, and whether the rehearsal saw it done."""

    side: Side
    mark: Mark
    item: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsal:
    """All findings of a rehearsal."""

    peer: str
    ae_title: str
    address: str
    our_ae_title: str
    our_address: str  # from which the peer was called; empty: it was not reached
    patient: str
    study_uid: str
    images_sent: int
    steps: tuple[Step, ...]
    contexts: tuple[ContextLine, ...]
    sheet: tuple[SheetLine, ...]

    @property
    def is_good(self) -> bool:
        """Did no step fail?"""
        return all(step.mark is not Mark.FAIL for step in self.steps)
