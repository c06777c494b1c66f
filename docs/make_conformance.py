"""Write the tables of docs/conformance.md that the code knows: ``python docs/make_conformance.py``.

A table stands between two comments that name it; the prose around it is written by hand. A test fails when a table and
the code disagree.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from pydicom.uid import UID

from dicomnode import wire
from dicomnode.ids import AeTitle
from dicomnode.push import stow_carrier
from dicomnode.receive.admission import Admitted, contexts_for
from dicomnode.settings.peers import PeerSettings

PAGE = Path(__file__).with_name("conformance.md")

_BLOCK = re.compile(r"<!-- made: (\w+) -->\n.*?<!-- end -->", re.DOTALL)
_THEN = {
    wire.Action.ACCEPT: "acknowledged",
    wire.Action.WARN: "acknowledged, shown",
    wire.Action.BACK_OFF: "all the rest later",
    wire.Action.RETRY: "up to 3 tries, then refused",
    wire.Action.DUPLICATE: "acknowledged if we sent these bytes before, or pass on what was received; else refused",
    wire.Action.REFUSE: "the others are sent, then held",
    wire.Action.HOLD: "held",
    wire.Action.HOLD_PENDING: "held",
    wire.Action.REASSOCIATE: "one new association, then held",
}


def render(page: str) -> str:
    """The page with every table as the code has it now."""
    made = {
        "accepted": _accepted(),
        "syntaxes": _syntaxes(wire.TRANSFER_SYNTAXES),
        "proposed": _proposed(),
        "statuses": _statuses(),
        "rejections": _rejections(),
        "requests": _requests(),
    }
    named = _BLOCK.findall(page)
    if sorted(named) != sorted(made):
        raise ValueError(f"{PAGE.name} has places for {sorted(named)}, and there are tables {sorted(made)}")
    return _BLOCK.sub(lambda block: f"<!-- made: {block[1]} -->\n{made[block[1]]}\n<!-- end -->", page)


def _accepted() -> str:
    """The table of what is accepted from a peer that may store and report, as the door decides it."""
    peer = PeerSettings(name="peer", ae_title=AeTitle("PEER"), address="127.0.0.1:104")
    rows = []
    for one in contexts_for(Admitted(peer=peer, may_store=True, reporter="peer")):
        syntaxes = (
            "all of the next table"
            if one.transfer_syntaxes == wire.TRANSFER_SYNTAXES
            else _short(one.transfer_syntaxes)
        )
        role = "SCU of it" if one.is_provided_by_requestor else "SCP"
        rows.append((UID(one.abstract_syntax).name, one.abstract_syntax, syntaxes, role))
    others = "other storage classes (PS3.4 Annex B.5)"
    rows.append((others, "–", "all of the next table", 'SCP, from a peer with `other_objects = "store"`'))
    return _table(("SOP class", "UID", "transfer syntaxes", "we are"), rows)


def _proposed() -> str:
    """The table of what is proposed as SCU."""
    storage = "those of derived series, and of files that `send` is given"
    rows = [
        (UID(uid).name, uid, _short(wire.UNCOMPRESSED), command)
        for uid, command in (
            (wire.COMMITMENT, "N-ACTION"), (wire.STUDY_ROOT_FIND, "C-FIND"), (wire.STUDY_ROOT_MOVE, "C-MOVE"),
            (wire.STUDY_ROOT_GET, "C-GET"),
        )
    ]  # fmt: skip
    rows.insert(0, (UID(wire.VERIFICATION).name, wire.VERIFICATION, _short((wire.IMPLICIT,)), "C-ECHO"))
    rows.insert(
        1,
        (
            f"storage classes: {storage}",
            "–",
            f"the file's; for {_short(wire.UNCOMPRESSED[:1])} also {_short((wire.IMPLICIT,))}",
            "C-STORE",
        ),
    )
    return _table(("SOP class", "UID", "transfer syntaxes, each in a context of its own", "service"), rows)


def _syntaxes(uids: Iterable[str]) -> str:
    return _table(("transfer syntax, the preferred first", "UID"), [(UID(uid).name, uid) for uid in uids])


def _statuses() -> str:
    rows = [
        (
            f"{one.first:04X}" if one.first == one.last else f"{one.first:04X}–{one.last:04X}",
            one.meaning,
            _THEN[one.action],
        )
        for one in wire.STATUSES
    ]
    illegal = wire.status_of(0xFFFF)
    return _table(("status", "meaning here", "then"), [*rows, ("any other", illegal.meaning, _THEN[illegal.action])])


def _rejections() -> str:
    return _table(("A-ASSOCIATE-RJ", "meaning"), [(one.code, one.sentence) for one in wire.REJECTIONS.values()])


def _requests() -> str:
    megabytes = stow_carrier.MOST_BYTES >> 20
    return _table(
        ("of one request to store", "at most"),
        [("bytes of files", f"{megabytes} MiB"), ("instances", str(stow_carrier.MOST_INSTANCES))],
    )


def _short(uids: Sequence[str]) -> str:
    return ", ".join(UID(uid).name for uid in uids)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines).replace(" --- ", "---")


def main() -> None:
    """Write the file."""
    PAGE.write_text(render(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    sys.stdout.write(f"{PAGE}\n")


if __name__ == "__main__":
    main()
