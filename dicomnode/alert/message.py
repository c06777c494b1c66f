"""Write messages, as text for a mail and as JSON: alerts, the letter on a week, and the message of a trial.

In: values of the ledger and sentences of ``conditions``. Out: a ``Message``. Nothing of a patient and no UID is in what
comes in, so none goes out. Every text is made ``visible``: names of the settings are the only words of others.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from dicomnode.ledger.sentences import moment
from dicomnode.ledger.states import AlertState
from dicomnode.ledger.values import Alert
from dicomnode.ledger.views import Waiting, Week
from dicomnode.visible import LINE_END, visible

Json = dict[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """The content of one mail and of one POST."""

    subject: str
    text: str
    json: Json


def of_alerts(node: str, alerts: Sequence[Alert]) -> Message:
    """Make one message on the conditions that hold and on those that are over."""
    holding = [one for one in alerts if one.state is not AlertState.ENDED]
    ended = [one for one in alerts if one.state is AlertState.ENDED]
    parts = [
        ("Errors", [f"{one.sentence} First seen at {moment(one.first_at)}." for one in holding if one.is_error]),
        (
            "Refused or held for a decision",
            [f"{one.sentence} First seen at {moment(one.first_at)}." for one in holding if not one.is_error],
        ),
        ("All clear", [f"Over since {moment(one.state_at)}. It was: {one.sentence}" for one in ended]),
    ]
    tally = [_number(len(holding), "alert"), *([f"{len(ended)} all-clear"] if ended else [])]
    subject = f"{', '.join(tally)}" if holding else "all clear"
    return _message(
        node,
        subject,
        parts,
        closing="`dicomnode status` on the node names each row.",
        json={
            "kind": "alerts",
            "raised": [_alert(one) for one in holding],
            "ended": [_alert(one) for one in ended],
        },
    )


def letter(
    node: str, week: Week, waiting: Sequence[Waiting], facts: Sequence[tuple[str, Sequence[str]]], *, next_at: datetime
) -> Message:
    """Make the weekly letter. ``facts``: more parts, each with its heading and its lines."""
    slowest = max(week.sent, key=lambda peer: peer.median_s, default=None)
    held = [
        f"{', '.join(filter(None, (f'{one.table} {one.state}', one.peer, one.reason)))}: {one.rows}, since "
        f"{moment(one.since)}"
        for one in waiting
    ]
    nearest = week.gate_nearest
    parts: list[tuple[str, Sequence[str]]] = [
        (
            "This week",
            [
                f"{_number(week.received, 'series', 'series')} received, {week.derived} derived"
                + (f", {week.shadow} of them in shadow: measured and never sent." if week.shadow else ".")
            ],
        ),
        ("Kept and not derived, by reason", [f"{reason}: {number}" for reason, number in week.kept.items()]),
        ("Waits for a person", held),
        (
            "Sent",
            [
                f"{one.peer}: {_number(one.deliveries, 'delivery', 'deliveries')}, median {one.median_s:.0f} s, "
                f"longest {one.longest_s:.0f} s{' (the slowest peer)' if one is slowest else ''}"
                for one in week.sent
            ]
            + [f"Proof of arrival: {', '.join(f'{proof} {number}' for proof, number in week.proofs.items())}."]
            * bool(week.proofs),
        ),
        (
            "Result gate",
            [
                f"{_number(week.gate_measured, 'result')} measured, {week.gate_held} held."
                + (f" Nearest to its limit: {nearest.check}, {nearest.share or 0:.0%} of it." if nearest else "")
            ],
        ),
        *facts,
    ]
    return _message(
        node,
        f"the week: {week.derived} derived, {_number(sum(one.rows for one in waiting), 'row')} waiting",
        [(heading, list(lines) or ["none"]) for heading, lines in parts],
        closing=f"The next letter is due at {moment(next_at)}. If it does not come, the node or its mail is down.",
        json={
            "kind": "letter",
            "since": _iso(week.since),
            "next_at": _iso(next_at),
            "received": week.received,
            "derived": week.derived,
            "shadow": week.shadow,
            "kept": week.kept,
            "waiting": [
                {
                    "table": one.table,
                    "state": one.state,
                    "reason": one.reason,
                    "peer": one.peer,
                    "rows": one.rows,
                    "since": _iso(one.since),
                }
                for one in waiting
            ],
            "sent": [
                {"peer": one.peer, "deliveries": one.deliveries, "median_s": one.median_s, "longest_s": one.longest_s}
                for one in week.sent
            ],
            "proofs": week.proofs,
            "slowest_peer": slowest.peer if slowest else None,
            "gate": {
                "measured": week.gate_measured,
                "held": week.gate_held,
                "nearest": nearest.check if nearest else None,
                "nearest_share": nearest.share if nearest else None,
            },
            "facts": {heading: list(lines) for heading, lines in facts},
        },
    )


def trial(node: str) -> Message:
    """Make the message that ``dicomnode alerts test`` sends."""
    said = "Somebody ran `dicomnode alerts test`. Alerts of this node come this way."
    return _message(node, "test", [("Test", [said])], closing="", json={"kind": "test"})


def node_name(ae_title: str) -> str:
    """Return the name of the node in its messages."""
    return f"{ae_title} on {socket.gethostname()}"


def _message(
    node: str, subject: str, parts: Iterable[tuple[str, Sequence[str]]], *, closing: str, json: Json
) -> Message:
    """Make one message; a part without lines is left out."""
    blocks = [f"dicomnode {node}"]
    blocks += [LINE_END.join([heading, *(f"  {visible(line)}" for line in lines)]) for heading, lines in parts if lines]
    blocks += [closing] if closing else []
    text = visible((LINE_END * 2).join(blocks), keep=LINE_END) + LINE_END
    return Message(subject=visible(f"[dicomnode {node}] {subject}"), text=text, json={"node": node, **json})


def _alert(one: Alert) -> Json:
    return {
        "name": one.name,
        "sentence": one.sentence,
        "is_error": one.is_error,
        "number": one.number,
        "first_at": _iso(one.first_at),
        "last_at": _iso(one.last_at),
    }


def _number(number: int, one: str, many: str = "") -> str:
    return f"1 {one}" if number == 1 else f"{number} {many or f'{one}s'}"


def _iso(at: datetime) -> str:
    return at.isoformat(timespec="seconds")
