"""The first run: from a node without peers to its first derived series, in four steps.

The page writes no settings: the file belongs to those who run the machine. It makes the block for the file, checked by
the same rules as the file itself, and reads from the ledger when the service has taken it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from dicomnode.errors import InputError, SettingsError
from dicomnode.ledger.lists import Wanted
from dicomnode.settings.load import SYSTEM_FILE, parse
from dicomnode.settings.models import Settings
from dicomnode.settings.urls import is_loopback
from dicomnode.web.entry import actor
from dicomnode.web.exchange import Answer, see_other
from dicomnode.web.pages import Visit

SLICES_MM: Final = ">= 2"  # condition of the first rule: slices thick enough to be made thinner
REHEARSED: Final = "rehearsed"  # event of the node: a person began a rehearsal on the page
SERIES: Final = 5

FIELDS: Final[Mapping[str, tuple[str, str]]] = {  # fields of the form: label, and an example
    "scanner": ("Name of the scanner here", "mr1"),
    "scanner_title": ("AE title of the scanner", "MR1"),
    "network": ("Network from which it sends", "10.1.2.0/24"),
    "pacs": ("Name of the PACS here", "pacs"),
    "pacs_title": ("AE title of the PACS", "PACS"),
    "address": ("Address and port of the PACS", "10.1.0.5:104"),
}


def first(visit: Visit) -> Answer:
    """Show the four steps, with the form of the first one."""
    asked = {name: visit.request.asked(name) for name in FIELDS}
    is_filled = all(asked.values())
    block, mistakes = block_of(asked) if is_filled else ("", [])
    return visit.show(
        "first.html",
        fields=FIELDS,
        asked=asked,
        is_partly_filled=any(asked.values()) and not is_filled,
        block="" if mistakes else block,
        mistakes=mistakes,
        system_file=SYSTEM_FILE,
        is_unreached=is_loopback(visit.node.settings.node.host),
        **_live(visit),
    )


def first_live(visit: Visit) -> Answer:
    """Show the present state of the four steps; the script of the page asks for it again and again."""
    return visit.show("first_live.html", **_live(visit))


def confirm_rehearsal(visit: Visit, peer: str | int) -> Answer:
    """Show a page that describes a rehearsal and asks for confirmation."""
    return visit.show("rehearse.html", peer=_reachable(visit, str(peer)))


def rehearse(visit: Visit, peer: str | int) -> Answer:
    """Begin a rehearsal, and record it with the person's name."""
    name = _reachable(visit, str(peer))
    person = visit.signed()
    visit.begin(visit.node.rehearsals, name, ["check", f"--rehearse={name}"])
    with visit.node.writer() as ledger:
        ledger.note(REHEARSED, table="node", row=1, detail=name, by=actor(person))
    return see_other("/first")


def block_of(asked: Mapping[str, str]) -> tuple[str, list[str]]:
    """Make the block for the settings file; return it, or the mistakes in it by the rules of that file."""
    tables: dict[str, list[dict[str, object]]] = {
        "peer": [
            {"name": asked["scanner"], "ae_title": asked["scanner_title"], "networks": [asked["network"]]},
            {"name": asked["pacs"], "ae_title": asked["pacs_title"], "address": asked["address"]},
        ],
        "rule": [
            {"name": "thick slices", "match": {"slice_spacing_mm": SLICES_MM}, "deliver_to": [asked["pacs"]]},
        ],
    }
    try:
        parse(tables, source="the block")
    except SettingsError as exc:
        return "", [line.strip() for line in exc.sentence.splitlines()[1:]]
    return "\n\n".join(_table(kind, row) for kind, rows in tables.items() for row in rows), []


def _table(kind: str, row: Mapping[str, object]) -> str:
    return "\n".join([f"[[{kind}]]", *(f"{key} = {_value(value)}" for key, value in row.items())])


def _value(value: object) -> str:
    """Write a text, a list of texts or a table of them in TOML, which differs from JSON only in the sign of a table."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_value(one)}" for key, one in value.items()) + " }"
    return json.dumps(value, ensure_ascii=False)


def _live(visit: Visit) -> dict[str, Any]:
    node, settings = visit.node, visit.node.settings
    used = node.reader.settings()
    received = node.reader.series_list(Wanted(limit=SERIES))
    return {
        "settings": settings,
        "senders": [peer for peer in settings.peer if peer.networks and settings.names_peers],
        "reachable": [peer for peer in settings.peer if peer.name in settings.reachable_peers],
        "file": node.current.file,
        "used": used,
        "fault": used.fault if used is not None else "",
        "restart": used.restart if used is not None else (),
        "rehearsed": node.rehearsals.known,
        "received": received,
        "results": {one.id: node.reader.series_explain(one.id) for one in received},
        "ports": _ports(settings),
    }


def _ports(settings: Settings) -> str:
    found = [f"{settings.node.port}"] if settings.node.listen else []
    found += [f"{settings.tls.port} under TLS"] if settings.tls.listen else []
    return " or ".join(found)


def _reachable(visit: Visit, name: str) -> str:
    """Return the name of a peer that a rehearsal can be made with. Raises InputError for any other."""
    visit.refuse_without_actions()
    if name not in visit.node.settings.reachable_peers:
        raise InputError("There is no such peer with an address or url.")
    return name
