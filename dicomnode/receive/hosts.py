"""Find the peers at an IP address: hosts that may report, though no network of the settings holds them.

In: names of peers with the host of their ``address``. Out: the names at an IP address. A host name is looked up on a
thread of its own, never on the one that accepts connections, which a name service that is down must not stop. So a
report that comes before the first look-up is over, or right after a host has moved, is turned away once.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Mapping
from ipaddress import ip_address

from dicomnode.seams import SYSTEM_CLOCK, Clock
from dicomnode.settings.addresses import unmapped

LOOK_AGAIN_S = 60.0  # at the soonest, and only when an unknown address connects


class Hosts:
    """The addresses of peers. Safe to use from many threads."""

    def __init__(self, hosts: Mapping[str, str], clock: Clock = SYSTEM_CLOCK) -> None:
        """``hosts``: name of a peer → its IP address or host name."""
        self._clock = clock
        self._known = {name: frozenset({str(unmapped(host))}) for name, host in hosts.items() if _is_address(host)}
        self._named = {name: host for name, host in hosts.items() if name not in self._known}
        self._looked_s: float | None = None
        self._lock = threading.Lock()

    def at(self, address: str) -> frozenset[str]:
        """Return the names of the peers at an IP address."""
        there = str(unmapped(address))
        found = frozenset(name for name, addresses in self._known.items() if there in addresses)
        if not found:
            self.look_up()
        return found

    def look_up(self) -> None:
        """Begin to look the host names up, unless that was done a moment ago."""
        with self._lock:
            now_s = self._clock.monotonic()
            if not self._named or (self._looked_s is not None and now_s - self._looked_s < LOOK_AGAIN_S):
                return
            self._looked_s = now_s
        threading.Thread(target=self._look_up, name="host-names", daemon=True).start()

    def _look_up(self) -> None:
        for name, host in self._named.items():
            try:
                answers = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
            except (OSError, UnicodeError):
                continue  # the addresses of the last look-up stay
            self._known = {**self._known, name: frozenset(str(unmapped(str(one[4][0]))) for one in answers)}


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
