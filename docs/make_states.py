"""Write docs/states.md from the tables of ``dicomnode.ledger.states``: ``python docs/make_states.py``.

The diagrams are Mermaid, which code hosts draw; a test fails when the file and the tables disagree.
"""

from __future__ import annotations

import sys
from pathlib import Path

from dicomnode.ledger import states

PAGE = Path(__file__).with_name("states.md")

TITLES = {
    "series": "A series",
    "job": "A job",
    "delivery": "A delivery",
    "delivery_item": "An item of a delivery",
    "commitment": "A commitment",
    "model": "An imported model",
    "alert": "An alert",
}


def render() -> str:
    """The whole page."""
    prose = (states.__doc__ or "").split("\n", 2)
    parts = [
        "# States of the ledger",
        "",
        "Made by `python docs/make_states.py`; do not edit.",
        "",
        prose[2].strip(),
        "",
    ]
    for table in states.TRANSITIONS:
        parts += _section(table)
    return "\n".join(parts).rstrip() + "\n"


def _section(table: str) -> list[str]:
    steps = [
        (str(source), str(event), str(target))
        for source, events in states.TRANSITIONS[table].items()
        for event, target in events.items()
    ]
    ends = [str(source) for source, events in states.TRANSITIONS[table].items() if not events]
    return [
        f"## {TITLES[table]} (`{table}`)",
        "",
        "```mermaid",
        "stateDiagram-v2",
        *(f"    [*] --> {state}" for state in states.BIRTHS[table]),
        *(f"    {source} --> {target}: {event}" for source, event, target in steps),
        *(f"    {state} --> [*]" for state in ends),
        "```",
        "",
        "| in state | event | to state |",
        "|---|---|---|",
        *(f"| `{source}` | {event} | `{target}` |" for source, event, target in steps),
        "",
    ]


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
    sys.stdout.write(f"{PAGE.name} written\n")
