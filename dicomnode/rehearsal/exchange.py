"""Tries a reached peer with test images: does it accept them, store them, show them, and commit to keep them?

In: the peer and the test images. Out: one step for each question. What the settings would send is proposed and sent,
and nothing else. The images are sent once; what follows is decided by the reader of the steps.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence

from pydicom.uid import UID

from dicomnode import wire
from dicomnode.dimse.associate import Proposal
from dicomnode.dimse.commitment import Reference, Report
from dicomnode.dimse.outcome import RequestOutcome, RequestReason
from dicomnode.dimse.requestor import Requestor
from dicomnode.push.answers import Asked, NotOffered
from dicomnode.push.carriers import Carriers
from dicomnode.push.dimse_carrier import RELEASE_TIMEOUT_S, DimseCarrier
from dicomnode.push.witness import Witness
from dicomnode.rehearsal.findings import ContextLine, Mark, Side, Step, Topic
from dicomnode.rehearsal.phantom import Phantom
from dicomnode.reports import NOT_TAKEN, TAKEN
from dicomnode.settings.peers import PeerSettings

INDEX_S = 10.0  # a PACS may show an image some seconds after it stored it
POLL_S = 0.5
ASKED_FOR = (wire.VERIFICATION, wire.MR_IMAGE, wire.STUDY_ROOT_FIND, wire.COMMITMENT)


def contexts(carrier: DimseCarrier, peer: PeerSettings) -> tuple[Step, tuple[ContextLine, ...]]:
    """Propose every class that is used with this peer, each in both syntaxes."""
    pairs = [(uid, syntax) for uid in ASKED_FOR for syntax in wire.UNCOMPRESSED]
    associated = carrier.associate(peer, [Proposal(uid, (syntax,)) for uid, syntax in pairs])
    accepted: set[tuple[str, str]] = set()
    if isinstance(associated, RequestOutcome):
        if associated.reason is not RequestReason.NO_CONTEXT:
            step = Step(
                what=Topic.CONTEXTS, mark=Mark.FAIL, side=Side.BOTH, sentence=associated.sentence, hint=associated.hint
            )
            return step, ()
    else:
        accepted = {(one.abstract_syntax, one.transfer_syntax) for one in associated.contexts.values()}
        Requestor(associated, response_timeout_s=carrier.push.response_timeout_s).release(RELEASE_TIMEOUT_S)
    lines = tuple(
        ContextLine(sop_class=UID(uid).name, transfer_syntax=UID(syntax).name, accepted=(uid, syntax) in accepted)
        for uid, syntax in pairs
    )
    taken = [syntax for syntax in wire.UNCOMPRESSED if (wire.MR_IMAGE, syntax) in accepted]
    said = " ".join(_in_words(uid, [one for one in pairs if one in accepted]) for uid in ASKED_FOR)
    if taken:
        recoded = "" if taken[0] != wire.IMPLICIT else " Images are encoded in implicit VR for it."
        return Step(what=Topic.CONTEXTS, mark=Mark.OK, sentence=f"{said}{recoded}"), lines
    hint = "The PACS team has to let MR Image Storage in, in explicit or implicit VR little endian, from our AE title."
    return Step(what=Topic.CONTEXTS, mark=Mark.FAIL, side=Side.PACS, sentence=said, hint=hint), lines


def _in_words(uid: str, accepted: Sequence[tuple[str, str]]) -> str:
    names = [UID(syntax).name for one, syntax in accepted if one == uid]
    how = "accepted" if len(names) == len(wire.UNCOMPRESSED) else f"{names[0]} only" if names else "not accepted"
    return f"{UID(uid).name.partition(' - ')[0]}: {how}."


def send(carriers: Carriers, peer: PeerSettings, phantom: Phantom) -> tuple[Step, int]:
    """Send the test images; return the step, and how many the peer says it stored."""
    began_s = time.monotonic()
    session = carriers.open(peer, {one.format for one in phantom.instances})
    request = "STOW-RS request" if peer.url else "C-STORE"
    if isinstance(session, RequestOutcome):
        return _not_sent(session, 0, request), 0
    outcomes: list[RequestOutcome] = []
    for instance in phantom.instances:
        outcomes += session.store([instance])
        if outcomes[-1].status is None:
            break
    session.close()
    stored = [one for one in outcomes if one.status is not None and _is_stored(one.status)]
    for outcome in outcomes:
        if outcome not in stored:
            return _not_sent(outcome, len(stored), request), len(stored)
    statuses = Counter(outcome.status for outcome in outcomes if outcome.status is not None)
    took = f"{len(stored)} images were stored in {time.monotonic() - began_s:.1f} s"
    if set(statuses) == {0}:
        return Step(what=Topic.IMAGES, mark=Mark.OK, sentence=f"{took}."), len(stored)
    said = "; ".join(
        f"{number} x {status:04X}, {wire.status_of(status).meaning}" for status, number in statuses.items()
    )
    hint = "Compare patient and study of the test images at the PACS with what the images say."
    return Step(
        what=Topic.IMAGES, mark=Mark.WARN, side=Side.PACS, sentence=f"{took}, with warnings: {said}.", hint=hint
    ), len(stored)


def _is_stored(status: int) -> bool:
    return wire.status_of(status).action in (wire.Action.ACCEPT, wire.Action.WARN)


def _not_sent(outcome: RequestOutcome, stored: int, request: str) -> Step:
    before = f"{stored} images were stored. " if stored else ""
    if outcome.status is None:
        return Step(
            what=Topic.IMAGES, mark=Mark.FAIL, side=Side.PACS, sentence=f"{before}{outcome.sentence}", hint=outcome.hint
        )
    known = wire.status_of(outcome.status)
    elements = f" It complains about {', '.join(outcome.offending)}." if outcome.offending else ""
    return Step(
        what=Topic.IMAGES, mark=Mark.FAIL, side=Side.PACS,
        sentence=f"{before}The peer answered a {request} with {outcome.status:04X}: {known.meaning}.{elements}",
        hint=known.remedy,
    )  # fmt: skip


def count(carriers: Carriers, peer: PeerSettings, phantom: Phantom) -> Step:
    """Ask by C-FIND at the level of images, or by QIDO-RS, how many of the test images the peer shows."""
    wanted = {one.sop_instance_uid for one in phantom.instances}
    witness = Witness(carriers)
    until_s = time.monotonic() + INDEX_S
    question = "search by QIDO-RS" if peer.url else "C-FIND"
    hint = (
        "The PACS team has to offer QIDO-RS below the `url`."
        if peer.url
        else "The PACS team has to allow Study Root C-FIND at the level IMAGE for our AE title."
    )
    while True:
        answer = witness.query(peer, phantom.study_uid, phantom.series_uid)
        if isinstance(answer, NotOffered):
            return Step(
                what=Topic.QUERY, mark=Mark.WARN, side=Side.PACS, sentence=f"No {question}: {answer.why}.", hint=hint
            )
        if isinstance(answer, RequestOutcome):
            return Step(
                what=Topic.QUERY, mark=Mark.WARN, side=Side.PACS, sentence=f"No {question}: {answer.sentence}",
                hint=hint,
            )  # fmt: skip
        found = len(answer.uids & wanted)
        if found == len(wanted):
            return Step(what=Topic.QUERY, mark=Mark.OK, sentence=f"A {question} shows all {found} images.")
        if time.monotonic() > until_s:
            return Step(
                what=Topic.QUERY, mark=Mark.FAIL, side=Side.PACS,
                sentence=f"A {question} shows {found} of {len(wanted)} images after {INDEX_S:.0f} s.",
                hint="Look for the study at the PACS: it may wait for a person, or lie under another UID.",
            )  # fmt: skip
        time.sleep(POLL_S)


def ask(
    carriers: Carriers,
    committer: PeerSettings,
    phantom: Phantom,
    transaction_uid: str,
    *,
    before: Callable[[], None],
) -> Asked | NotOffered | RequestOutcome | Report:
    """Ask for commitment; return the report if it came at once: on our association, or as the answer by DICOMweb.

    ``before`` is called before a report can come any other way.
    """
    reports: list[Report] = []

    def begin(_after_s: float | None) -> bool:
        before()
        return True

    references = [Reference(one.format.sop_class_uid, one.sop_instance_uid) for one in phantom.instances]
    taking = _taking(reports, transaction_uid)
    asked = Witness(carriers).ask(committer, transaction_uid, references, before=begin, reported=taking)
    if reports:
        return reports[0]
    assert isinstance(asked, Asked | NotOffered | RequestOutcome), "nobody withdraws this request"
    return asked


def look(
    carriers: Carriers, committer: PeerSettings, transaction_uid: str, after_s: float, until_s: float
) -> Asked | NotOffered | RequestOutcome | Report:
    """Look for the result of a request at a server that works on it, until that has one or the time is over."""
    reports: list[Report] = []
    taking = _taking(reports, transaction_uid)
    while True:
        wait_s = max(after_s, POLL_S)
        if time.monotonic() + wait_s > until_s:
            return Asked(after_s)
        time.sleep(wait_s)
        answer = Witness(carriers).result(committer, transaction_uid, reported=taking)
        if reports:
            return reports[0]
        if not isinstance(answer, Asked):
            assert isinstance(answer, NotOffered | RequestOutcome), "a report was taken"
            return answer
        after_s = answer.after_s or 0.0


def _taking(reports: list[Report], transaction_uid: str) -> Callable[[Report | None], int]:
    """Take the report on this request, and no other."""

    def take(report: Report | None) -> int:
        if report is None or report.transaction_uid != transaction_uid:
            return NOT_TAKEN
        reports.append(report)
        return TAKEN

    return take
