"""Find what is wrong with the node now. ``status`` shows it as lines; alerts send it as named conditions.

In: the settings, the ledger and the moment. Out: sentences of our own words, ids of our own and names of the settings.
A sentence of a single row of the ledger is never taken over into a condition, because it may quote what a peer said:
conditions leave the house by mail. ``status`` on the node shows those sentences.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Final

from dicomnode.archive.store import Archive
from dicomnode.errors import SettingsError, StorageError
from dicomnode.ledger.deliveries import EARLIER_REVISION, GATE, IDENTITY, REVIEW
from dicomnode.ledger.lists import NO_PEER
from dicomnode.ledger.queries import Reader
from dicomnode.ledger.sending import REFUSED
from dicomnode.ledger.sentences import moment
from dicomnode.ledger.states import DeliveryState, JobState
from dicomnode.ledger.values import SET_ASIDE, Condition
from dicomnode.ledger.views import AttentionLine, Waiting
from dicomnode.scanners import drift
from dicomnode.settings.models import Settings
from dicomnode.tls.identity import Age, HeldCertificate, certificates_of_cluster, held_certificates
from dicomnode.visible import visible

WEEK: Final = timedelta(days=7)
CHANGES: Final = 20  # most that the letter names
STUCK_S: Final = 3600.0  # failures to one peer are reported after so long: a PACS that restarts is back before
DECISIONS: Final = frozenset(
    {
        GATE,
        IDENTITY,
        REVIEW,
        EARLIER_REVISION,
        REFUSED,
        SET_ASIDE,
        "not_supported",
        "not_authorised",
        "no_context",
        "not_encodable",
    }
)
"""Reasons for which a delivery is held without a failure: a peer or a check said no, and a person decides."""

_GRADES: Final = {Age.SOON: 1, Age.NOT_YET: 2, Age.URGENT: 2, Age.EXPIRED: 3}
_UNUSABLE: Final = 4


def lines(settings: Settings, ledger: Reader, now: datetime) -> tuple[AttentionLine, ...]:
    """List what is wrong with the node itself, for ``status``, which names the rows of the ledger behind it."""
    return (
        *_refused_settings(ledger),
        *certificates(settings, now),
        *_disk(settings),
        *_stuck(ledger, now),
        *_undelivered(ledger),
    )


def conditions(settings: Settings, ledger: Reader, now: datetime) -> list[Condition]:
    """List the conditions to alert people about. A condition keeps its name as long as it holds."""
    found = [
        Condition(
            name=f"certificate {line.reason or ''} {line.id}".strip(),
            sentence=line.sentence,
            number=_UNUSABLE if line.state == "unusable" else _GRADES[Age(line.state)],
            is_error=True,
        )
        for line in certificates(settings, now)
    ]
    found += [
        Condition(name="disk", sentence=line.sentence, number=1 if line.state == "warn" else 2, is_error=True)
        for line in _disk(settings)
    ]
    found += [
        Condition(name="settings", sentence=line.sentence, number=1, is_error=True)
        for line in _refused_settings(ledger)
    ]
    found += [
        Condition(name=f"peer {line.reason}", sentence=line.sentence, number=1, is_error=True)
        for line in _stuck(ledger, now)
    ]
    return found + [_of_rows(waiting) for waiting in ledger.waiting()]


def certificates(settings: Settings, now: datetime) -> list[AttentionLine]:
    """List the certificates of the settings that expire within 30 days, and the files that cannot be used."""
    found = []
    for number, held in enumerate(_held(settings, now), 1):
        if isinstance(held, SettingsError):
            found.append(_line("certificate", number, "unusable", None, held.sentence))
        elif held.age is not Age.VALID:
            found.append(_line("certificate", held.number, str(held.age), held.key, held.sentence))
    return found


def _held(settings: Settings, now: datetime) -> Iterator[HeldCertificate | SettingsError]:
    """Yield the certificates of DICOM over TLS and of the cluster, where one is used, or the error of reading them."""
    try:
        yield from held_certificates(settings.tls, now)
    except SettingsError as exc:
        yield exc
    if settings.work.executor != "local":
        try:
            yield from certificates_of_cluster(settings.cluster.ca, settings.cluster.cert, now)
        except SettingsError as exc:
            yield exc


def facts(settings: Settings, ledger: Reader, now: datetime) -> list[tuple[str, list[str]]]:
    """List what the weekly letter says of the node itself: a heading, and its lines."""
    try:
        free_gib, percent = room(settings)
        disk = f"{free_gib:.1f} GiB are free, {percent:.0f} %."
    except StorageError as exc:
        disk = exc.sentence
    return [
        ("Protocols of scanners that changed", _drift(ledger, now)),
        ("Certificates", [one.sentence for one in _held(settings, now)]),
        ("Disk", [disk]),
        ("Peers that deliveries do not reach", [line.sentence for line in _stuck(ledger, now)]),
        ("Alerts that could not be sent", [line.sentence for line in _undelivered(ledger)]),
    ]


def _drift(ledger: Reader, now: datetime) -> list[str]:
    """Say which protocols changed in the last week, in the page's sentences, without what was typed at the scanner."""
    known = ledger.protocols(now - drift.SINCE)
    found = drift.news(known, ledger.protocols(now - drift.SINCE, now - WEEK))
    told = [f"{drift.device(one, known)}, protocol {one.id}: {change.sentence}" for one, change in found[:CHANGES]]
    more = len(found) - CHANGES
    return [*told, f"And {more} more; the page names them."] if more > 0 else told


def room(settings: Settings) -> tuple[float, float]:
    """Return the free space of the archive's disk in GiB and in percent. Raises StorageError."""
    archive = Archive(settings.node.data)
    return archive.data_folder.free_bytes() / 2**30, archive.data_folder.free_percent()


def _refused_settings(ledger: Reader) -> Iterator[AttentionLine]:
    """Say that the service read the settings file anew and did not take it, and why."""
    used, boot = ledger.settings(), ledger.boot()
    if boot is not None and used is not None and used.fault:
        sentence = (
            f"The settings were read anew at {moment(used.tried_at)} and not taken; the service uses those of "
            f"{moment(used.taken_at)}. {' '.join(used.fault.split())}"
        )
        yield _line("settings", boot.id, "refused", None, sentence)


def _disk(settings: Settings) -> Iterator[AttentionLine]:
    """Say that the disk fills, or that it is so full that nothing is accepted."""
    marks = settings.archive
    try:
        free_gib, percent = room(settings)
    except StorageError as exc:
        yield _line("disk", 1, "full", None, exc.sentence)
        return
    left = f"{free_gib:.1f} GiB of the disk are free, {percent:.0f} %"
    if percent < marks.refuse_free_percent:
        yield _line("disk", 1, "full", None, f"{left}; below {marks.refuse_free_percent:g} % nothing is accepted.")
    elif percent < marks.warn_free_percent:
        yield _line("disk", 1, "warn", None, f"{left}; nothing is accepted below {marks.refuse_free_percent:g} %.")


def _stuck(ledger: Reader, now: datetime) -> Iterator[AttentionLine]:
    """Name each peer to which a delivery has failed for long."""
    for one in ledger.stuck_peers(now - timedelta(seconds=STUCK_S)):
        sentence = (
            f"Delivery {one.delivery} to peer {one.peer} has failed {one.failures} times in a row since "
            f"{moment(one.since)}, reason {one.reason}. The node goes on trying."
        )
        yield _line("peer", one.delivery, "failing", one.peer, sentence)


def _undelivered(ledger: Reader) -> Iterator[AttentionLine]:
    """Say since when alerts cannot be sent."""
    for one in ledger.undelivered():
        sentence = f"Alerts cannot be sent by {one.destination} since {moment(one.since)}: {one.failure}"
        yield _line("alert", one.alert, "undelivered", one.destination, sentence)


def _of_rows(waiting: Waiting) -> Condition:
    """Make one condition for all rows that wait for the same reason."""
    reason = visible(waiting.reason)
    return Condition(
        name=" ".join(filter(None, (waiting.table, waiting.state, waiting.reason, waiting.peer))),
        sentence=_sentence(waiting, reason),
        number=waiting.rows,
        is_error=waiting.state == JobState.FAILED
        or (waiting.table == "delivery" and waiting.reason not in DECISIONS)
        or waiting.reason == "altered",
    )


def _sentence(waiting: Waiting, reason: str) -> str:
    one, newest = waiting.rows == 1, f"the newest is number {waiting.newest}"
    because = f", reason {reason}" if reason else ""
    match waiting.table, waiting.state:
        case "job", JobState.FAILED:
            which = "1 job has" if one else f"{waiting.rows} jobs have"
            return f"{which} failed after all attempts; {newest}. `dicomnode series list --state failed` names them."
        case "job", _:
            which = "1 job is" if one else f"{waiting.rows} jobs are"
            return f"{which} held{because}; {newest}. `dicomnode series list --state held` names them."
        case "delivery", DeliveryState.HELD if waiting.reason == REVIEW:
            which = "1 delivery" if one else f"{waiting.rows} deliveries"
            return (
                f"{which} to peer {waiting.peer} wait{'s' if one else ''} for a person's review, the oldest since "
                f"{moment(waiting.since)}. `dicomnode deliveries list --reason {REVIEW}` names them."
            )
        case "delivery", DeliveryState.HELD:
            which = "1 delivery" if one else f"{waiting.rows} deliveries"
            verb = "is" if one else "are"
            return (
                f"{which} to peer {waiting.peer} {verb} held{because}; {newest}. `dicomnode deliveries list --state "
                "held` names them."
            )
        case "delivery", _:
            which = "1 delivery is" if one else f"{waiting.rows} deliveries are"
            return (
                f"{which} due to peer {waiting.peer}, which the settings do not name with an address; {newest}. "
                f"`dicomnode deliveries list --reason {NO_PEER}` names them."
            )
        case "quarantine", _:
            which = "1 file" if one else f"{waiting.rows} files"
            sender = f" from {waiting.peer}" if waiting.peer else ""
            return f"{which}{sender} set aside{because}; {newest}. `dicomnode quarantine list` names them."
        case _:
            which = "1 series has" if one else f"{waiting.rows} series have"
            return f"{which} an alert{because}; {newest}. `dicomnode status` names them."


def _line(table: str, number: int, state: str, reason: str | None, sentence: str) -> AttentionLine:
    return AttentionLine(table=table, id=number, series=None, state=state, reason=reason, sentence=sentence)
