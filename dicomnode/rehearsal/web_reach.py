"""Tests whether a DICOMweb server can be reached: its name, a TCP connection, TLS, and access to its service.

In: the peer of the settings. Out: steps, and what later steps need of a server that answered. The service is asked for
an instance that nobody has. These tests store nothing.
"""

from __future__ import annotations

import email.utils
import socket
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from urllib.parse import urlsplit

from dicomnode.dimse.outcome import RequestReason
from dicomnode.push.stow_carrier import StowCarrier
from dicomnode.rehearsal import network
from dicomnode.rehearsal.findings import Mark, Side, Step, Topic
from dicomnode.seams import Clock
from dicomnode.settings.models import TlsSettings
from dicomnode.settings.peers import PeerSettings
from dicomnode.stow.exchange import HTTP_PORT, HTTPS_PORT
from dicomnode.tls.certificate import Certificate, read
from dicomnode.tls.connection import why
from dicomnode.tls.identity import for_web

# The header has whole seconds, and machines with a time service differ by less than one. Tokens expire by the clock.
CLOCKS_S = 5.0


class WebReaching:
    """One attempt to reach a server. Take the steps; then ``is_reached`` says whether to go on."""

    def __init__(
        self, carrier: StowCarrier, peer: PeerSettings, tls: TlsSettings, ours: Certificate | None, clock: Clock
    ) -> None:
        """``ours``: our certificate, where we have one."""
        self._carrier, self._peer, self._tls, self._ours, self._clock = carrier, peer, tls, ours, clock
        parts = urlsplit(peer.url)
        self._is_secured = parts.scheme == "https"
        port = parts.port or (HTTPS_PORT if self._is_secured else HTTP_PORT)
        self._place = network.Place(host=parts.hostname or "", port=port, key="url", service="DICOMweb")
        self._offset_s: float | None = None  # the server's clock minus ours
        self.our_address = ""  # from which the server was called; empty: there was no connection
        self.is_reached = False

    def steps(self) -> Iterator[Step]:
        """Ask one question after the other, until one is answered with no."""
        for ask in (self._look_up, self._connect, self._secure, self._enter):
            step = ask()
            yield step
            if step.mark is Mark.FAIL:
                return
        self.is_reached = True

    def clocks(self) -> Step:
        """Compare the server's clock, which stands in its answers, with ours."""
        if self._offset_s is None:
            return Step(
                what=Topic.CLOCKS, mark=Mark.OPEN, side=Side.BOTH, sentence="Not known: no answer had the time in it.",
                hint="Ask whether both machines get their time from the same service.",
            )  # fmt: skip
        if abs(self._offset_s) <= CLOCKS_S:
            return Step(what=Topic.CLOCKS, mark=Mark.OK, sentence="Both clocks show the same time, to some seconds.")
        which = "after" if self._offset_s > 0 else "behind"
        return Step(
            what=Topic.CLOCKS, mark=Mark.WARN, side=Side.BOTH,
            sentence=f"By the date of its answer, the server's clock is {abs(self._offset_s):.0f} s {which} ours.",
            hint="Compare both machines with the time service: tokens and certificates hold by the clock.",
        )  # fmt: skip

    def _look_up(self) -> Step:
        return network.look_up(self._place)

    def _connect(self) -> Step:
        step, connected = network.connect(self._place, self._carrier.push.connect_timeout_s)
        self.our_address = connected.our_address if connected else ""
        return step

    def _secure(self) -> Step:
        if not self._is_secured:
            return network.secured(None, self._ours)
        try:
            with (
                socket.create_connection((self._place.host, self._place.port), network.CONNECT_S) as plain,
                for_web(self._tls, self._peer.ca).wrap_socket(plain, server_hostname=self._place.host) as secured,
            ):
                return network.secured(read(secured.getpeercert(binary_form=True) or b""), self._ours)
        except ssl.SSLError as exc:
            said = why(exc, trusted="`peer.ca`", place="`url`") or "it ends the connection during the handshake"
        except (OSError, ValueError) as exc:
            said = f"the handshake failed ({exc})"
        found = network.presented(self._place, self._tls)
        shown = f" The SHA-256 of its certificate is {found.fingerprint}." if found else ""
        return Step(
            what=Topic.TLS, mark=Mark.FAIL, side=Side.OURS,
            sentence=f"There is no TLS connection with the server: {said}.{shown}",
            hint="docs/operations.md#tls says for each such sentence what to do.",
        )  # fmt: skip

    def _enter(self) -> Step:
        """Judge whether the service lets us in. Without a search it may store all the same."""
        server = self._carrier.server(self._peer)
        began = self._clock.now()
        began_s = self._clock.monotonic()
        outcome = server.echo()
        took_s = self._clock.monotonic() - began_s
        self._offset_s = _offset_s(server.date, began, took_s)
        if outcome.status == 0:
            how = "with the token of `peer.token_file`" if self._peer.token_file else "without a token"
            return Step(
                what=Topic.SERVICE, mark=Mark.OK,
                sentence=f"It answered a search by QIDO-RS, {how}, in {took_s * 1000:.0f} ms.",
            )  # fmt: skip
        if outcome.reason is RequestReason.NO_SERVICE:
            return Step(
                what=Topic.SERVICE, mark=Mark.WARN, side=Side.BOTH,
                sentence=f"It answers, and has no search by QIDO-RS below the `url` ({outcome.detail}).",
                hint=f"{outcome.hint} Without a search the node cannot see whether what it sent is there.",
            )  # fmt: skip
        side = Side.BOTH if outcome.reason is RequestReason.UNAUTHORISED else Side.PACS
        return Step(what=Topic.SERVICE, mark=Mark.FAIL, side=side, sentence=outcome.sentence, hint=outcome.hint)


def _offset_s(date: str, began: datetime, took_s: float) -> float | None:
    """Return the time of an answer (RFC 9110 section 6.6.1), mid-second, minus our time in the middle of the request.

    >>> _offset_s("Fri, 02 Jan 2026 03:04:15 GMT", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), 1.0)
    10.0
    """
    try:
        theirs = email.utils.parsedate_to_datetime(date)
    except (TypeError, ValueError):
        return None
    theirs = theirs if theirs.tzinfo else theirs.replace(tzinfo=UTC)
    return (theirs - began).total_seconds() + 0.5 - took_s / 2
