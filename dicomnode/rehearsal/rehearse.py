"""A rehearsal with one peer, from its name to the proof that it keeps images: `dicomnode check --rehearse`.

In: the settings and a peer of them. Out: a ``Rehearsal``. It sends five test images, says so before, and leaves them
at the peer: only the PACS team can delete them. The archive is not touched, and of the ledger only its events, where
the service runs. It runs when a person asks for it, never by itself.
"""

from __future__ import annotations

import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from dicomnode.dimse.commitment import Report
from dicomnode.dimse.outcome import RequestOutcome
from dicomnode.push.answers import Asked, NotOffered
from dicomnode.push.carriers import Carriers, carriers_of
from dicomnode.rehearsal import exchange
from dicomnode.rehearsal.door import ClosedDoor, Door, Told, Visit, open_for, wait
from dicomnode.rehearsal.findings import ContextLine, Mark, Rehearsal, Side, Step, Topic
from dicomnode.rehearsal.phantom import PATIENT_ID, PATIENT_NAME, SLICES, Phantom, make_phantom
from dicomnode.rehearsal.reach import Reached, Reaching
from dicomnode.rehearsal.sheet import hand_over, ports
from dicomnode.rehearsal.web_reach import WebReaching
from dicomnode.seams import SYSTEM_CLOCK, Clock
from dicomnode.settings.models import Settings
from dicomnode.settings.peers import PeerSettings
from dicomnode.tls.certificate import Certificate, in_pem
from dicomnode.tls.identity import Age, age_of

REPORT_S = 15.0  # most applications that commit report within seconds


def rehearse(
    settings: Settings,
    peer: PeerSettings,
    *,
    wait_s: float,
    by: str,
    say: Callable[[str], None],
    clock: Clock = SYSTEM_CLOCK,
) -> Rehearsal:
    """Go through every step that can be tried with this peer, which has an address or a url.

    ``wait_s``: how long to wait for a call of the peer, if that is longer than a report takes. ``by``: the person who
    rehearses, for the ledger. ``say`` gets a sentence for people before anything is sent, and before waiting. Raises
    SettingsError where a file of ``[tls]`` cannot be used.
    """
    now = clock.now().astimezone()
    carriers = carriers_of(settings)
    with tempfile.TemporaryDirectory(prefix="dicomnode-rehearsal-") as folder:
        phantom = make_phantom(Path(folder), settings.node.ae_title, now)
        say(_warning(peer, phantom))
        at = Scene(
            settings=settings, peer=peer, carriers=carriers, phantom=phantom, ours=_our_certificate(settings), now=now,
            clock=clock, by=by, say=say,
        )  # fmt: skip
        return (_by_dicomweb if peer.url else _by_dicom)(at, wait_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """The context of one rehearsal, which every part of it needs."""

    settings: Settings
    peer: PeerSettings
    carriers: Carriers
    phantom: Phantom
    ours: Certificate | None  # our certificate, where we have one
    now: datetime  # when it began
    clock: Clock
    by: str
    say: Callable[[str], None]


def _by_dicom(at: Scene, wait_s: float) -> Rehearsal:
    reaching = Reaching(at.carriers.dimse, at.peer, at.settings.tls, at.ours)
    steps = [_look_at_settings(at.settings, at.peer), *reaching.steps()]
    contexts: tuple[ContextLine, ...] = ()
    sent = 0
    if reaching.reached is not None:
        step, contexts = exchange.contexts(at.carriers.dimse, at.peer)
        steps.append(step)
        sent = _send(at, steps, wait_s)
    steps.append(_compare_clocks(steps, reaching.reached, at.ours, at.now))
    return _found(at, steps, reaching.our_address, sent, contexts)


def _by_dicomweb(at: Scene, wait_s: float) -> Rehearsal:
    reaching = WebReaching(at.carriers.stow, at.peer, at.settings.tls, at.ours, at.clock)
    steps = [_look_at_settings(at.settings, at.peer), *reaching.steps()]
    sent = _send(at, steps, wait_s) if reaching.is_reached else 0
    steps.append(reaching.clocks())
    return _found(at, steps, reaching.our_address, sent, ())


def _send(at: Scene, steps: list[Step], wait_s: float) -> int:
    """Send the test images, ask the peer for them, and wait for its call; return how many images it stored."""
    step, sent = exchange.send(at.carriers, at.peer, at.phantom)
    steps.append(step)
    if sent == len(at.phantom.instances):
        steps.append(exchange.count(at.carriers, at.peer, at.phantom))
        steps += _call_back(at, wait_s)
    return sent


def _found(at: Scene, steps: list[Step], our_address: str, sent: int, contexts: tuple[ContextLine, ...]) -> Rehearsal:
    study_uid = at.phantom.study_uid
    sheet = hand_over(at.settings, at.peer, steps, our_address=our_address, deletes=study_uid if sent else "")
    return Rehearsal(
        peer=at.peer.name,
        ae_title=at.peer.ae_title,
        address=at.peer.address or at.peer.url,
        our_ae_title=at.settings.node.ae_title,
        our_address=our_address,
        patient=PATIENT_NAME,
        study_uid=study_uid,
        images_sent=sent,
        steps=tuple(steps),
        contexts=contexts,
        sheet=sheet,
    )


def _warning(peer: PeerSettings, phantom: Phantom) -> str:
    return (
        f"Sends {SLICES} test images of {PATIENT_NAME} (Patient ID {PATIENT_ID}) to {peer.name}: {_place(peer)}. They "
        f"stay there until the PACS team deletes the study {phantom.study_uid}."
    )


def _place(peer: PeerSettings) -> str:
    return peer.url or f"{peer.ae_title} at {peer.address}"


def _our_certificate(settings: Settings) -> Certificate | None:
    """Return our certificate, the first of its file, where those of its authorities may follow; None: there is none.

    ``carriers_of`` has read the file before.
    """
    if not settings.tls.certificate:
        return None
    return in_pem(Path(settings.tls.certificate).read_text("ascii"))[0]


def _look_at_settings(settings: Settings, peer: PeerSettings) -> Step:
    how = "with TLS" if peer.tls or peer.url.startswith("https:") else "without TLS"
    said = f"{settings.node.ae_title} sends to {_place(peer)}, {how}."
    if settings.is_delivered_to(peer.name):
        return Step(what=Topic.SETTINGS, mark=Mark.OK, sentence=said)
    return Step(
        what=Topic.SETTINGS, mark=Mark.WARN, side=Side.OURS, sentence=f"{said} No rule delivers to it.",
        hint=f'Name it in `deliver_to = ["{peer.name}"]` of a rule.',
    )  # fmt: skip


def _call_back(at: Scene, wait_s: float) -> Iterator[Step]:
    """Ask for commitment, and see whether the peer reaches us."""
    settings, peer = at.settings, at.peer
    until_s = time.monotonic() + max(REPORT_S, wait_s)
    committer = next((one for one in settings.peer if one.name == peer.committer), None)
    if not peer.networks and (committer is None or committer.url):
        yield _commit(at, committer, None, until_s)
        yield Step(
            what=Topic.CALL_BACK, mark=Mark.OK,
            sentence="Not needed: by the settings it neither sends to us nor reports by DICOM what it keeps.",
        )  # fmt: skip
        return
    request = f"Ask the PACS team to send a C-ECHO to {settings.node.ae_title}, port {ports(settings)}"
    with closing(open_for(settings, at.carriers.dimse.identity, at.by)) as door:
        if wait_s and door.sees_visits:
            at.say(f"{request}, now; the rehearsal waits {wait_s:.0f} s for it.")
        yield _commit(at, committer, door, until_s)
        yield _called(peer, door, request, until_s=until_s if wait_s and door.sees_visits else 0.0)


def _commit(at: Scene, committer: PeerSettings | None, door: Door | None, until_s: float) -> Step:
    """Ask for commitment. ``door``: where a report comes in; not needed where the committer has a url."""
    if committer is None:
        return Step(
            what=Topic.COMMITMENT, mark=Mark.WARN, side=Side.OURS,
            sentence="Switched off: the settings ask nobody whether the images are kept.",
            hint='Set `peer.commitment = "auto"`, or name the peer that commits.',
        )  # fmt: skip
    transaction_uid = f"2.25.{uuid.uuid4().int}"

    def expect() -> None:
        if door is not None:
            door.expect(transaction_uid)

    answer = exchange.ask(at.carriers, committer, at.phantom, transaction_uid, before=expect)
    if isinstance(answer, Asked) and answer.after_s is not None:
        answer = exchange.look(at.carriers, committer, transaction_uid, answer.after_s, until_s)
    if isinstance(answer, NotOffered):
        return _not_offered(committer, answer)
    if isinstance(answer, RequestOutcome):
        return Step(what=Topic.COMMITMENT, mark=Mark.FAIL, side=Side.PACS, sentence=answer.sentence, hint=answer.hint)
    if isinstance(answer, Report):
        told = Told(peer=committer.name, committed=len(answer.committed), denied=len(answer.failed))
        return _committed(told, at.phantom, "by DICOMweb" if committer.url else "on our association")
    if committer.url:
        return Step(
            what=Topic.COMMITMENT, mark=Mark.OPEN, side=Side.PACS,
            sentence=f"{committer.name} took the request, and works on it still.",
            hint="Nothing to do unless its deliveries stay `asked`: the node looks for the result again and again.",
        )  # fmt: skip
    assert door is not None, "a report of a peer with an address comes in at the door"
    return _wait_for_report(at, committer, door, until_s)


def _not_offered(committer: PeerSettings, answer: NotOffered) -> Step:
    hint = (
        "Few servers offer it. Without it the node looks by QIDO-RS whether the images are there."
        if committer.url
        else "The PACS team has to switch on Storage Commitment Push Model for our AE title. Until then the node "
        "looks by C-FIND."
    )
    sentence = f"{committer.ae_title or committer.name}: {answer.why}."
    return Step(what=Topic.COMMITMENT, mark=Mark.WARN, side=Side.PACS, sentence=sentence, hint=hint)


def _wait_for_report(at: Scene, committer: PeerSettings, door: Door, until_s: float) -> Step:
    if isinstance(door, ClosedDoor):
        return Step(
            what=Topic.COMMITMENT, mark=Mark.OPEN, side=Side.OURS,
            sentence=f"{committer.ae_title} took the request. Whether it reports is not known: {door.sentence}.",
            hint="Start the service, which listens there, and rehearse again.",
        )  # fmt: skip
    began_s = time.monotonic()
    wait(lambda: door.report() is not None, until_s)
    if (found := door.report()) is not None:
        return _committed(found, at.phantom, f"on an association of its own; {door.sentence}")
    return _no_report(at.settings, committer, door, waited_s=time.monotonic() - began_s)


def _committed(told: Told, phantom: Phantom, how: str) -> Step:
    if told.committed == len(phantom.instances):
        return Step(
            what=Topic.COMMITMENT,
            mark=Mark.OK,
            sentence=f"{told.peer} committed to all {told.committed} images, {how}.",
        )
    return Step(
        what=Topic.COMMITMENT, mark=Mark.FAIL, side=Side.PACS,
        sentence=f"{told.peer} stored {len(phantom.instances)} images, committed to {told.committed} and denied "
        f"{told.denied}, {how}.",
        hint="Ask the PACS team what its log says of these images.",
    )  # fmt: skip


def _no_report(settings: Settings, committer: PeerSettings, door: Door, *, waited_s: float) -> Step:
    said = f"{committer.ae_title} took the request and sent no report within {waited_s:.0f} s"
    turned_away = _turned_away(door)
    if turned_away:
        return Step(what=Topic.COMMITMENT, mark=Mark.FAIL, side=Side.BOTH, sentence=f"{said}.", hint=turned_away)
    return Step(
        what=Topic.COMMITMENT, mark=Mark.FAIL, side=Side.PACS, sentence=f"{said}; {door.sentence}.",
        hint=f"The PACS team has to register {settings.node.ae_title} with the address of this machine and port "
        f"{ports(settings)} as a place to report to. A firewall may keep it from calling.",
    )  # fmt: skip


def _turned_away(door: Door) -> str:
    """Describe the last connection that was turned away, with the reason; empty: there was none."""
    refused = [one for one in door.visits() if one.sentence]
    if not refused:
        return ""
    last: Visit = refused[-1]
    certificate = f" Its certificate has SHA-256 {last.fingerprint}." if last.fingerprint else ""
    return f"A connection from {last.address} was turned away: {last.sentence}.{certificate}"


def _called(peer: PeerSettings, door: Door, request: str, *, until_s: float) -> Step:
    """Judge whether the peer, or its committer, reached us. ``request``: what to ask of the PACS team if it did not."""
    expected = {peer.name, peer.committer or peer.name}

    def calls() -> list[Visit]:
        return [one for one in door.visits() if one.peer in expected]

    wait(lambda: bool(calls()), until_s)
    if came := calls():
        presented = next((one.fingerprint for one in came if one.fingerprint), "")
        certificate = f" Its certificate has SHA-256 {presented}." if presented else ""
        return Step(what=Topic.CALL_BACK, mark=Mark.OK, sentence=f"It reaches us; {door.sentence}.{certificate}")
    turned_away = _turned_away(door)
    if turned_away:
        return Step(
            what=Topic.CALL_BACK, mark=Mark.FAIL, side=Side.BOTH, sentence=turned_away,
            hint="Compare AE titles, addresses and certificates with the peers of the settings.",
        )  # fmt: skip
    how = "with --wait 60" if door.sees_visits else "and look for `association_ended` with this peer in the log"
    return Step(
        what=Topic.CALL_BACK, mark=Mark.OPEN, side=Side.BOTH, sentence=f"Not seen; {door.sentence}.",
        hint=f"{request}, {how}. A firewall has to let it through.",
    )  # fmt: skip


def _compare_clocks(steps: list[Step], reached: Reached | None, ours: Certificate | None, now: datetime) -> Step:
    """Compare the clocks by certificates, which show only a large error: DICOM has no way to ask for a time."""
    of_tls = next((step for step in steps if step.what is Topic.TLS), None)
    if (
        of_tls is not None
        and of_tls.mark is Mark.FAIL
        and any(word in of_tls.sentence for word in ("not valid yet", "expired"))
    ):
        return Step(
            what=Topic.CLOCKS, mark=Mark.FAIL, side=Side.BOTH,
            sentence=f"A certificate does not hold at {now:%Y-%m-%d %H:%M %Z}, which is the time of this machine.",
            hint="Compare the clocks of both machines with the time service; if both are right, renew the certificate.",
        )  # fmt: skip
    if reached is not None and reached.certificate is not None:
        ages = [age_of(one, now) for one in (reached.certificate, ours) if one is not None]
        if not any(age in (Age.EXPIRED, Age.NOT_YET) for age in ages):
            said = "Both certificates hold at the time of this machine, so no clock is wrong by much"
            return Step(
                what=Topic.CLOCKS, mark=Mark.OPEN, side=Side.BOTH, sentence=f"{said}; seconds are not known.",
                hint="Ask whether both machines get their time from the same service.",
            )  # fmt: skip
    return Step(
        what=Topic.CLOCKS, mark=Mark.OPEN, side=Side.BOTH,
        sentence=f"Not known: DICOM has no question for the time. Here it is {now:%Y-%m-%d %H:%M:%S %Z}.",
        hint="Ask whether both machines get their time from the same service.",
    )  # fmt: skip
