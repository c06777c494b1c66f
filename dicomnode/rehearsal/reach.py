"""Tests whether a peer can be reached: its name, a TCP connection, TLS, an association, and how long an answer takes.

In: the peer of the settings. Out: steps, and what later steps need of a peer that answered. Where an attempt fails, the
likely mistakes are tried: TLS where the settings say none, none where they say TLS, and the AE title in the other case.
These tests store nothing, here or at the peer.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from dicomnode import wire
from dicomnode.dimse.associate import Associated, Proposal
from dicomnode.dimse.outcome import RequestOutcome, RequestReason
from dicomnode.dimse.requestor import Requestor
from dicomnode.ids import AeTitle
from dicomnode.push.dimse_carrier import RELEASE_TIMEOUT_S, DimseCarrier
from dicomnode.rehearsal import network
from dicomnode.rehearsal.findings import Mark, Side, Step, Topic
from dicomnode.settings.models import TlsSettings
from dicomnode.settings.peers import PeerSettings
from dicomnode.tls.certificate import Certificate

ECHOES = 12
# A delayed acknowledgement takes 40 ms on Linux and up to 200 ms elsewhere. A peer that only thinks for so long is
# rare: an echo needs no disk.
DELAYED_S = 0.030

_VERIFICATION = [Proposal(wire.VERIFICATION, (syntax,)) for syntax in wire.UNCOMPRESSED]
_DURING_TLS = "handshake of TLS"  # of outcomes that do not have the reason TLS


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """A peer that takes associations of ours."""

    certificate: Certificate | None  # of the peer; None: without TLS


class Reaching:
    """One attempt to reach a peer. Take the steps; then ``reached`` says whether to go on."""

    def __init__(self, carrier: DimseCarrier, peer: PeerSettings, tls: TlsSettings, ours: Certificate | None) -> None:
        """``ours``: our certificate, where we have one."""
        self._carrier = carrier
        self._peer = peer
        self._tls = tls
        self._ours = ours
        self._place = network.Place(host=peer.host, port=peer.port, key="address", service="DICOM")
        self._round_trip_s = 0.0
        self.our_address = ""  # from which the peer was called; empty: there was no connection
        self.reached: Reached | None = None

    def steps(self) -> Iterator[Step]:
        """Ask one question after the other, until one is answered with no."""
        found = network.look_up(self._place)
        yield found
        if found.mark is Mark.FAIL:
            return
        found, connected = network.connect(self._place, self._carrier.push.connect_timeout_s)
        yield found
        if connected is None:
            return
        self._round_trip_s, self.our_address = connected.took_s, connected.our_address
        associated = self._carrier.associate(self._peer, _VERIFICATION)
        if isinstance(associated, RequestOutcome):
            yield from self._refused(associated)
            return
        certificate = associated.link.certificate
        self.reached = Reached(certificate=certificate)
        yield network.secured(certificate, self._ours)
        yield from self._echo(associated)

    def _refused(self, outcome: RequestOutcome) -> Iterator[Step]:
        """Say why there is no association; first whether TLS is the reason."""
        is_of_tls = outcome.reason is RequestReason.TLS or _DURING_TLS in outcome.detail
        if self._peer.tls and is_of_tls:
            yield self._not_secured(outcome)
            return
        is_silent = outcome.reason in (RequestReason.LOST, RequestReason.UNANSWERED, RequestReason.ILLEGAL)
        if not self._peer.tls and (is_silent or outcome.reason is RequestReason.ABORTED):
            presented = network.presented(self._place, self._tls)
            if presented is not None:
                yield Step(
                    what=Topic.TLS, mark=Mark.FAIL, side=Side.OURS,
                    sentence=f"The peer speaks TLS at {self._peer.address}, and the settings call it without. "
                    f"The SHA-256 of its certificate is {presented.fingerprint}.",
                    hint="Set `peer.tls = true`, or correct the port.",
                )  # fmt: skip
                return
        yield (
            network.secured(None, self._ours)
            if not self._peer.tls
            else Step(what=Topic.TLS, mark=Mark.OK, sentence="The handshake succeeded.")
        )
        yield self._not_associated(outcome)

    def _not_secured(self, outcome: RequestOutcome) -> Step:
        presented = network.presented(self._place, self._tls)
        if presented is None and self._answers_without_tls():
            return Step(
                what=Topic.TLS, mark=Mark.FAIL, side=Side.BOTH,
                sentence=f"The peer speaks no TLS at {self._peer.address}, and the settings demand it.",
                hint="The PACS team has to switch TLS on, or to name the port that has it; without TLS: "
                "`peer.tls = false`.",
            )  # fmt: skip
        found = f" The SHA-256 of its certificate is {presented.fingerprint}." if presented else ""
        ours = f" Ours has {self._ours.fingerprint}." if self._ours else ""
        is_about_ours = "our certificate" in outcome.detail or "of ours" in outcome.detail
        hint = (
            "The PACS team has to register our certificate or its authority."
            if is_about_ours
            else "docs/operations.md#tls says for each such sentence what to do."
        )
        return Step(
            what=Topic.TLS, mark=Mark.FAIL, side=Side.PACS if is_about_ours else Side.OURS,
            sentence=f"{outcome.sentence}{found}{ours}", hint=hint,
        )  # fmt: skip

    def _not_associated(self, outcome: RequestOutcome) -> Step:
        ours, theirs = self._carrier.ae_title, self._peer.ae_title
        side, hint = Side.BOTH, outcome.hint
        if outcome.detail.startswith(wire.CALLED_UNKNOWN.code):
            side = Side.OURS
            hint = "Ask the PACS team for its AE title, letter by letter, and correct the peer's `ae_title`."
            if (other := self._other_case()) is not None:
                hint = f'Set the peer\'s `ae_title = "{other}"`: it accepts that one. Upper and lower case differ.'
        elif outcome.detail.startswith(wire.CALLING_UNKNOWN.code):
            side = Side.PACS
            hint = (
                f"The PACS team has to register our AE title {ours}, in this case, with the address "
                f"{self.our_address}, and to allow it to store."
            )
        elif outcome.reason is RequestReason.NO_CONTEXT:
            side, hint = Side.PACS, f"Let {theirs} accept Verification (C-ECHO) from our AE title."
        return Step(what=Topic.ASSOCIATION, mark=Mark.FAIL, side=side, sentence=outcome.sentence, hint=hint)

    def _echo(self, associated: Associated) -> Iterator[Step]:
        requestor = Requestor(associated, response_timeout_s=self._carrier.push.response_timeout_s)
        number = next(iter(requestor.contexts))
        took_s = []
        outcome = RequestOutcome(reason=RequestReason.ENDED)
        for _ in range(ECHOES):
            began_s = time.monotonic()
            outcome = requestor.echo(number)
            if outcome.status != 0:
                break
            took_s.append(time.monotonic() - began_s)
        requestor.release(RELEASE_TIMEOUT_S)
        if not took_s:
            yield Step(
                what=Topic.ASSOCIATION, mark=Mark.WARN, side=Side.PACS,
                sentence=f"It took the association, and did not answer a C-ECHO. {outcome.sentence}",
                hint=f"The PACS team has to register our AE title {self._carrier.ae_title} with the address "
                f"{self.our_address}, and to let it use C-ECHO.",
            )  # fmt: skip
            return
        yield Step(
            what=Topic.ASSOCIATION, mark=Mark.OK,
            sentence=f"It took an association of {self._carrier.ae_title} and answered a C-ECHO.",
        )  # fmt: skip
        yield _judge_delay(took_s, self._round_trip_s)

    def _other_case(self) -> str | None:
        """Return the peer's AE title in another case if the peer accepts that one; else None."""
        title = self._peer.ae_title
        for other in dict.fromkeys((title.upper(), title.lower(), title.capitalize())):
            if other == title:
                continue
            named = self._peer.model_copy(update={"ae_title": AeTitle(other)})
            if self._release(self._carrier.associate(named, _VERIFICATION)):
                return other
        return None

    def _answers_without_tls(self) -> bool:
        """Does an application answer an association request there without TLS, be it with a rejection?"""
        answer = self._carrier.associate(self._peer.model_copy(update={"tls": False}), _VERIFICATION)
        return self._release(answer) or (
            isinstance(answer, RequestOutcome)
            and answer.reason in (RequestReason.REJECTED, RequestReason.BUSY, RequestReason.NO_CONTEXT)
        )

    def _release(self, answer: Associated | RequestOutcome) -> bool:
        if isinstance(answer, RequestOutcome):
            return False
        Requestor(answer, response_timeout_s=self._carrier.push.response_timeout_s).release(RELEASE_TIMEOUT_S)
        return True


def _judge_delay(took_s: list[float], round_trip_s: float) -> Step:
    """Judge whether Nagle's algorithm delays the peer's answers.

    With it, the second half of each answer waits for our delayed acknowledgement. The first answers may be fast, since
    a new connection acknowledges at once. Of the others every single one waits; so the fastest counts, which a busy
    machine does not make slow.
    """
    fastest_s = min(took_s[len(took_s) // 2 :])
    said = f"A C-ECHO takes {fastest_s * 1000:.1f} ms, a connection {round_trip_s * 1000:.1f} ms"
    if fastest_s - round_trip_s < DELAYED_S:
        return Step(what=Topic.NAGLE, mark=Mark.OK, sentence=f"{said}: nothing waits.")
    return Step(
        what=Topic.NAGLE, mark=Mark.WARN, side=Side.PACS,
        sentence=f"{said}: probably each answer waits for a delayed acknowledgement, and each image as well.",
        hint="Switch Nagle's algorithm off at the PACS; if it is built on dcmtk (Orthanc is): environment "
        "`TCP_NODELAY=1` for its process.",
    )  # fmt: skip
