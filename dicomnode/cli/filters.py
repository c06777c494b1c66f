"""The options that `series list` and `deliveries list` share, and the words that these options accept."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Collection, Iterable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import click

from dicomnode.errors import InputError
from dicomnode.ledger.states import DeliveryState, JobState, SeriesState

if TYPE_CHECKING:
    from dicomnode.ledger.lists import Wanted

SHOWN_ON_TERMINAL: Final = 20  # rows, unless --limit or --all says otherwise: a page
SHOWN_ELSEWHERE: Final = 100  # to a pipe, and as JSON

SERIES_STATES: Final = (*SeriesState, *JobState)  # no state of a series is called like one of a job
DELIVERY_STATES: Final = tuple(DeliveryState)

AGE: Final = re.compile(r"([0-9]{1,9})(s|m|h|d|w)")
UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


class Since(click.ParamType[datetime]):
    """A date, a date with a time, or an age. A time without a zone is in this machine's time zone."""

    name = "WHEN"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Convert the word to a moment in UTC."""
        if isinstance(value, datetime):
            return value
        try:
            if age := AGE.fullmatch(str(value)):
                return datetime.now(UTC) - timedelta(**{UNITS[age[2]]: int(age[1])})
            return datetime.fromisoformat(str(value)).astimezone(UTC)
        except (ValueError, OverflowError):
            self.fail(
                f"{value!r} is neither an age (90s, 30m, 2h, 3d, 1w) nor a date (2026-03-04, 2026-03-04T05:06).",
                param,
                ctx,
            )


def list_options(states: Iterable[str]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add the options of a list to a command, which passes their values to ``wanted``."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(
            (
                click.option(
                    "--limit", metavar="N", type=click.IntRange(min=1),
                    help=f"List the newest N. Default: {SHOWN_ON_TERMINAL} on a terminal, {SHOWN_ELSEWHERE} to a pipe "
                    "or as JSON.",
                ),
                click.option("--all", "show_all", is_flag=True, help="List all. Default: as --limit says."),
                click.option(
                    "--state", "states", metavar="STATE", type=click.Choice([str(state) for state in states]),
                    multiple=True, help="List only rows in STATE. Default: every state. May be repeated.",
                ),
                click.option(
                    "--reason", "reasons", metavar="REASON", multiple=True,
                    help="List only rows with REASON. Default: every reason. May be repeated.",
                ),
                click.option(
                    "--peer", "peers", metavar="PEER", multiple=True,
                    help="List only rows of PEER. Default: every peer. May be repeated.",
                ),
                click.option(
                    "--since", type=Since(),
                    help="List only rows since WHEN: 2h, 3d, 2026-03-04, 2026-03-04T05:06. Default: any time.",
                ),
            )
        ):  # fmt: skip
            command = option(command)
        return command

    return decorate


def wanted(
    *,
    limit: int | None,
    show_all: bool,
    states: tuple[str, ...],
    reasons: tuple[str, ...],
    peers: tuple[str, ...],
    since: datetime | None,
    as_json: bool,
) -> Wanted:
    """Build the ledger's filter from the values of the options."""
    from dicomnode.ledger.lists import Wanted

    if show_all and limit is not None:
        raise click.UsageError("--limit and --all exclude each other.")
    if limit is None and not show_all:
        limit = SHOWN_ON_TERMINAL if sys.stdout.isatty() and not as_json else SHOWN_ELSEWHERE
    return Wanted(states=states, reasons=reasons, peers=peers, since=since, limit=limit)


def require_known(what: str, asked: Iterable[str], *known: Callable[[], Collection[str]]) -> None:
    """Raise InputError for a word that is in none of the sets. A later set is read only if an earlier one lacks it.

    Without this check, a misspelt word would print an empty list.
    """
    missing = list(asked)
    found: set[str] = set()
    for look_up in known:
        if not missing:
            return
        found |= set(look_up())
        missing = [word for word in missing if word not in found]
    if missing:
        raise InputError(f"There is no {what} {missing[0]}.", hint=f"Known: {', '.join(sorted(found)) or 'none'}.")


def reasons_of_series() -> set[str]:
    """Every reason that a series or its job can have."""
    from dicomnode.imaging.verdict import VerdictReason
    from dicomnode.ledger.jobs import PARAMETERS
    from dicomnode.ledger.states import OPERATOR
    from dicomnode.ledger.values import NOT_SELECTED, OWN_OUTPUT, PULLED, REMOVED, SET_ASIDE
    from dicomnode.ledger.verdicts import PROCESS
    from dicomnode.settle.judging import NOT_JUDGED
    from dicomnode.work.orders import Cause

    own = {OWN_OUTPUT, PARAMETERS, PROCESS, PULLED, REMOVED, SET_ASIDE, NOT_JUDGED, NOT_SELECTED, OPERATOR}
    return {*map(str, VerdictReason), *map(str, Cause)} | own


def reasons_of_deliveries() -> set[str]:
    """Every reason that a delivery can have."""
    from dicomnode.dimse.outcome import RequestReason
    from dicomnode.errors import NodeError
    from dicomnode.ledger.commitments import NOT_COMMITTED
    from dicomnode.ledger.deliveries import EARLIER_REVISION, GATE, REVIEW
    from dicomnode.ledger.lists import NO_PEER
    from dicomnode.ledger.sending import REFUSED
    from dicomnode.ledger.states import NOT_ACCEPTED, OPERATOR
    from dicomnode.ledger.values import SET_ASIDE
    from dicomnode.push.attempt import Cause
    from dicomnode.push.peer_loop import INTERNAL

    codes = {error.code for error in _family(NodeError)}
    outcomes = set(map(str, RequestReason)) - {str(RequestReason.ANSWERED)}
    own = {EARLIER_REVISION, GATE, NOT_COMMITTED, REFUSED, NOT_ACCEPTED, REVIEW, SET_ASIDE, NO_PEER, OPERATOR, INTERNAL}
    return outcomes | set(map(str, Cause)) | codes | own


def _family(error: type[Any]) -> set[type[Any]]:
    children = set(error.__subclasses__())
    return children | {grandchild for child in children for grandchild in _family(child)}
