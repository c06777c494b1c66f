"""The thread that looks for what is wrong, and sends it to each destination once.

In: the conditions that hold now. Out: messages, and in the ledger which destination got which alert. An alert that was
raised and not sent is in the ledger, so a restart loses nothing; a kill between sending and recording sends it twice.

A message waits a minute, so that five hundred failures make one. More of the same is sent again after four hours. An
all-clear is sent when a condition has been over for five minutes, so that what comes and goes makes no flood of mails.
A destination that cannot be reached is tried again, later and later, and keeps nothing from the other one. Nothing here
disturbs the node: every error is logged, and the next look comes.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from dicomnode import log
from dicomnode.alert.destination import Destination, NotSentError
from dicomnode.alert.mail import Mail
from dicomnode.alert.message import Message, of_alerts
from dicomnode.alert.webhook import Webhook
from dicomnode.ledger.alerts import LETTER
from dicomnode.ledger.facades.alerts import Alerts
from dicomnode.ledger.values import Alert, Condition
from dicomnode.seams import SYSTEM_CLOCK, Clock, checkpoint
from dicomnode.settings.alert import AlertSettings
from dicomnode.worker_thread import WorkerThread, doubled_s

LOGGER = logging.getLogger(__name__)

LOOK_S = 30.0
STOP_LIMIT_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """The seconds that the watch waits before it sends something."""

    gather_s: float = 60.0  # after the first alert, for others that come with it
    calm_s: float = 300.0  # without the condition, before its all-clear
    again_s: float = 4 * 3600.0  # before more of the same is sent
    retry_min_s: float = 60.0  # after a failed try; it doubles
    retry_max_s: float = 3600.0


@dataclass(slots=True, kw_only=True)
class _Way:
    """A destination, and the moment from which it may be tried again. After a restart it is tried at once."""

    destination: Destination
    failures: int = 0
    not_before_s: float = 0.0  # on the monotonic clock
    last_seen_s: dict[str, float] = field(default_factory=dict)  # condition → when it held last


def destinations(alert: AlertSettings) -> list[Destination]:
    """Return the destinations that the settings name."""
    found: list[Destination] = []
    if alert.smtp:
        found.append(Mail(alert=alert))
    if alert.webhook:
        found.append(Webhook(alert=alert))
    return found


class Watch:
    """One thread for all destinations. Started once, stopped once."""

    def __init__(
        self,
        alerts: Alerts,
        ways: Sequence[Destination],
        *,
        node: str,
        conditions: Callable[[datetime], list[Condition]],
        letter: Callable[[datetime], Message],
        patience: Patience | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """``conditions`` and ``letter`` give the conditions that hold, and the letter, at a moment."""
        self._alerts = alerts
        self._ways = [_Way(destination=one) for one in ways]
        self._next_ways: Sequence[Destination] | None = None  # to be used from the next look on
        self._node = node
        self._conditions = conditions
        self._letter = letter
        self._patience = patience or Patience()
        self._clock = clock
        self._owed: deque[datetime | None] = deque()  # letters to write; with a moment: only if none came since
        # A daemon: a server that hangs must not keep the node from ending, and the ledger holds what was not sent.
        self._thread = WorkerThread(
            self._turn, name="alert", events="alerts", logger=LOGGER, pause_s=LOOK_S, is_daemon=True
        )

    def start(self, *, letter_due_at: datetime | None) -> None:
        """Begin. ``letter_due_at``: the moment when the last letter was due, written now if the node was down then."""
        if letter_due_at is not None:
            self._owed.append(letter_due_at)
        self._thread.start()

    def stop(self) -> None:
        """Stop; wait a moment for a message that is being sent. The ledger says whether it was sent."""
        self._thread.stop(STOP_LIMIT_S)

    def take(self, ways: Sequence[Destination]) -> None:
        """Use these destinations from the next look on."""
        self._next_ways = tuple(ways)
        self._thread.wake()

    def write_letter(self) -> None:
        """Write the weekly letter, because its moment has come."""
        self._owed.append(None)
        self._thread.wake()

    def look(self) -> None:
        """Bring the ledger up to date and send what is due. For one thread."""
        self._change_ways()
        while self._owed:  # a ledger that is busy costs a look, not the letter
            for way in self._ways:
                self._alerts.write_letter(way.destination.name, due_at=self._owed[0])
            self._owed.popleft()
        if not self._ways:
            return
        holding = self._conditions(self._clock.now())
        for way in self._ways:
            self._observe(way, holding)
            self._tell(way)

    def _turn(self) -> float:
        self.look()
        return LOOK_S

    def _change_ways(self) -> None:
        """Use the new destinations. One whose name stays keeps the record of when its conditions held last."""
        ways, self._next_ways = self._next_ways, None
        if ways is not None:
            seen = {way.destination.name: way.last_seen_s for way in self._ways}
            self._ways = [_Way(destination=one, last_seen_s=seen.get(one.name, {})) for one in ways]

    def _observe(self, way: _Way, holding: Sequence[Condition]) -> None:
        """Raise the conditions that hold, and end those that have not held for a while."""
        name, now_s = way.destination.name, self._clock.monotonic()
        way.last_seen_s |= dict.fromkeys((condition.name for condition in holding), now_s)
        for known in self._alerts.holding_names(name):
            way.last_seen_s.setdefault(known, now_s)  # raised before a restart
        ended = [one for one, seen_s in way.last_seen_s.items() if now_s - seen_s >= self._patience.calm_s]
        self._alerts.observe(name, holding, ended, again_s=self._patience.again_s)
        for one in ended:
            del way.last_seen_s[one]

    def _tell(self, way: _Way) -> None:
        """Send the letter, and the alerts in one message, where they are due and the destination may be tried."""
        name = way.destination.name
        waiting = self._alerts.to_send(name)
        if not waiting or self._clock.monotonic() < way.not_before_s:
            return
        letters = [one for one in waiting if one.name == LETTER]
        alerts = [one for one in waiting if one.name != LETTER]
        if letters:
            self._send(way, letters, self._letter(self._clock.now()))
        if alerts and self._is_gathered(alerts) and self._clock.monotonic() >= way.not_before_s:
            self._send(way, alerts, of_alerts(self._node, alerts))

    def _is_gathered(self, alerts: Sequence[Alert]) -> bool:
        """Tell whether the oldest alert has waited for others. True also where the wall clock was set back since."""
        waited_s = (self._clock.now() - min(one.state_at for one in alerts)).total_seconds()
        return not 0 <= waited_s < self._patience.gather_s

    def _send(self, way: _Way, alerts: Sequence[Alert], message: Message) -> None:
        name = way.destination.name
        try:
            way.destination.send(message)
        except NotSentError as exc:
            wait_s = doubled_s(self._patience.retry_min_s, self._patience.retry_max_s, way.failures)
            way.failures += 1
            way.not_before_s = self._clock.monotonic() + wait_s
            self._alerts.not_sent(alerts, str(exc))
            log.event(
                LOGGER, "alerts_not_sent", level=logging.WARNING, destination=name, count=len(alerts), wait_s=wait_s,
                sentence=str(exc),
            )  # fmt: skip
            return
        checkpoint("alert.sent")
        way.failures, way.not_before_s = 0, 0.0
        self._alerts.sent(alerts)
        log.event(LOGGER, "alerts_sent", destination=name, count=len(alerts))
