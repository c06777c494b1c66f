"""A node's settings and a rehearsal with them, as a person would begin it."""

from __future__ import annotations

from pathlib import Path

from dicomnode.rehearsal.findings import Mark, Rehearsal, Side, Step, Topic
from dicomnode.rehearsal.rehearse import rehearse
from dicomnode.settings.load import parse
from dicomnode.settings.models import Settings
from tests.support.orthanc import AE_TITLE as ORTHANC

NODE = "NODE"


def settings_for(folder: Path, port: int, pacs_port: int, **tables: object) -> Settings:
    """A node that sends everything to one PACS. ``pacs``: keys of that peer."""
    pacs = {"name": "pacs", "ae_title": ORTHANC, "address": f"127.0.0.1:{pacs_port}", **dict(tables.pop("pacs", {}))}  # type: ignore[call-overload]
    return parse(
        {
            "node": {"ae_title": NODE, "listen": f"127.0.0.1:{port}", "data": str(folder / "data")},
            "push": {"connect_timeout_s": 3, "response_timeout_s": 10},
            "peer": [pacs],
            "rule": [{"name": "all", "deliver_to": ["pacs"]}],
            **tables,
        }
    )


def rehearsed(settings: Settings, *, wait_s: float = 0.0) -> tuple[Rehearsal, list[str]]:
    """What the rehearsal found, and what it said meanwhile."""
    said: list[str] = []
    found = rehearse(settings, settings.peer[0], wait_s=wait_s, by="operator:test", say=said.append)
    return found, said


def step_of(found: Rehearsal, topic: Topic) -> Step:
    """The one step of this topic."""
    (step,) = [one for one in found.steps if one.what is topic]
    return step


def failed(found: Rehearsal) -> dict[Topic, Side]:
    """Who has to act on what failed or is doubtful."""
    return {one.what: one.side for one in found.steps if one.mark in (Mark.FAIL, Mark.WARN)}
