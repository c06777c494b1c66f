"""Make the watch of the running node, with the conditions that it looks for and its weekly letter."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime

from dicomnode.alert.conditions import WEEK, conditions, facts
from dicomnode.alert.message import Message, letter, node_name
from dicomnode.alert.watch import Watch, destinations
from dicomnode.ledger.facades.alerts import Alerts
from dicomnode.ledger.queries import Reader, open_reader
from dicomnode.ledger.values import Condition
from dicomnode.schedule import CalendarJob, next_moment
from dicomnode.seams import Clock
from dicomnode.settings.alert import split_letter
from dicomnode.settings.models import Settings


def make_watch(
    stack: ExitStack, in_use: Callable[[], Settings], alerts: Alerts, *, lost: Callable[[], str], clock: Clock
) -> Watch:
    """Make the thread that looks for what is wrong, and give it the function that writes the weekly letter.

    ``in_use``: returns the settings in use. ``lost``: says why the cluster is lost; empty: it is not.
    """
    settings = in_use()
    node = node_name(settings.node.ae_title)
    reader = open_reader(settings.ledger_url, peers=lambda: in_use().reachable_peers)
    stack.callback(reader.close)
    return Watch(
        alerts,
        destinations(settings.alert),
        node=node,
        conditions=lambda now: _conditions(in_use(), reader, lost(), now),
        letter=lambda now: _letter(in_use(), node, reader, now),
        clock=clock,
    )


def letters(settings: Settings, watch: Watch) -> list[CalendarJob]:
    """Return the job of the calendar that writes the weekly letter; none if nobody gets one."""
    if not (destinations(settings.alert) and settings.alert.letter):
        return []
    day, at, zone = split_letter(settings.alert.letter)
    return [CalendarJob(name="letter", at=at, day=day, zone=zone, run=watch.write_letter)]


def letter_at(settings: Settings, after: datetime) -> datetime | None:
    """Return the first moment after this one at which a letter is due. None: nobody gets one."""
    if not (destinations(settings.alert) and settings.alert.letter):
        return None
    day, at, zone = split_letter(settings.alert.letter)
    return next_moment(at, after, day=day, zone=zone)


def _letter(settings: Settings, node: str, reader: Reader, now: datetime) -> Message:
    """Write the weekly letter of this moment."""
    next_at = letter_at(settings, now) or now + WEEK
    return letter(node, reader.week(now - WEEK), reader.waiting(), facts(settings, reader, now), next_at=next_at)


def _conditions(settings: Settings, reader: Reader, lost: str, now: datetime) -> list[Condition]:
    """List what is wrong with the node, in its ledger, and with the cluster as the node's processes see it."""
    cluster = [Condition(name="cluster", sentence=lost, number=1, is_error=True)] if lost else []
    return conditions(settings, reader, now) + cluster
