"""Commitment and C-FIND over our own messages, against pynetdicom as the other end."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pydicom import Dataset
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import SCP_SCU_RoleSelectionNegotiation
from pynetdicom.presentation import build_role

from dicomnode.dimse.associate import (
    Acceptance,
    Associated,
    AssociationRequest,
    Context,
    Proposal,
    accept,
    associate,
    read_request,
)
from dicomnode.dimse.commitment import Reference, Report
from dicomnode.dimse.identifiers import IMAGE, encode_identifier, read_match
from dicomnode.dimse.messages import Message
from dicomnode.dimse.proofs import encode_request, read_report
from dicomnode.dimse.requestor import Requestor
from dicomnode.ids import AeTitle
from dicomnode.wire import (
    COMMITMENT,
    COMMITMENT_INSTANCE,
    IMPLICIT,
    MR_IMAGE,
    STUDY_ROOT_FIND,
    UNCOMPRESSED,
    VERIFICATION,
)
from tests.support.committing_pacs import CommittingPacs
from tests.support.pdu import EXPLICIT, associate_rq

UIDS = ("1.2.3.1", "1.2.3.2")


@pytest.fixture
def pacs() -> Iterator[CommittingPacs]:
    with CommittingPacs() as pacs:
        pacs.held.update(UIDS)
        yield pacs


class Asking:
    """An association for commitment and C-FIND, and the reports that came on it."""

    def __init__(self, pacs: CommittingPacs) -> None:
        proposed = [Proposal(COMMITMENT, UNCOMPRESSED), Proposal(STUDY_ROOT_FIND, UNCOMPRESSED)]
        associated = associate(
            ("127.0.0.1", pacs.port), proposed,
            calling=AeTitle("DICOMNODE"), called=AeTitle("PACS"), connect_timeout_s=10,
        )  # fmt: skip
        assert isinstance(associated, Associated)
        self.reports: list[Report | None] = []
        self.requestor = Requestor(associated, response_timeout_s=10, reported=self._take)
        self.by_class = {one.abstract_syntax: one for one in associated.contexts.values()}

    def ask(self, transaction_uid: str) -> int | None:
        context = self.by_class[COMMITMENT]
        content = encode_request(transaction_uid, [Reference(MR_IMAGE, uid) for uid in UIDS], context.transfer_syntax)
        return self.requestor.act(context.id, COMMITMENT_INSTANCE, 1, content).status

    def _take(self, context: Context, message: Message) -> int:
        self.reports.append(read_report(message.dataset or b"", context.transfer_syntax))
        return 0x0000


def test_a_report_on_the_same_association_is_taken_and_answered(pacs: CommittingPacs) -> None:
    pacs.report = pacs.on_the_same_association
    asking = Asking(pacs)
    assert asking.ask("2.25.7") == 0x0000
    asking.requestor.listen(10, lambda: bool(asking.reports))
    assert asking.requestor.release(10)
    assert asking.reports == [Report(transaction_uid="2.25.7", committed=frozenset(UIDS), failed={})]
    assert pacs.asked[0].uids == UIDS
    assert pacs.answers == [0x0000]


def test_a_wait_without_a_report_ends_and_the_association_goes_on(pacs: CommittingPacs) -> None:
    pacs.report = pacs.never
    asking = Asking(pacs)
    assert asking.ask("2.25.7") == 0x0000
    asking.requestor.listen(0.2, lambda: bool(asking.reports))
    assert (asking.reports, asking.ask("2.25.8")) == ([], 0x0000)
    assert asking.requestor.release(10)


def test_every_match_of_a_query_comes_and_too_many_end_it(pacs: CommittingPacs) -> None:
    asking = Asking(pacs)
    context = asking.by_class[STUDY_ROOT_FIND]
    asked = {"StudyInstanceUID": "1.2", "SeriesInstanceUID": "1.2.3", "SOPInstanceUID": ""}
    identifier = encode_identifier(IMAGE, asked, context.transfer_syntax)
    found: list[str] = []

    def keep(match: bytes) -> bool:
        found.append((read_match(match, context.transfer_syntax, ["SOPInstanceUID"]) or {}).get("SOPInstanceUID", ""))
        return True

    assert asking.requestor.find(context.id, identifier, keep).status == 0x0000
    assert found == sorted(UIDS)
    outcome = asking.requestor.find(context.id, identifier, lambda _match: False)
    assert (outcome.status, outcome.detail) == (None, "more matches than can be meant")


def test_a_failure_is_read_with_its_reason_and_counts_more_than_a_success() -> None:
    report = Dataset()
    report.TransactionUID = "2.25.7"
    first, second = Dataset(), Dataset()
    first.ReferencedSOPInstanceUID, second.ReferencedSOPInstanceUID = UIDS
    second.FailureReason = 0x0112
    report.ReferencedSOPSequence, report.FailedSOPSequence = [first, second], [second]
    from pynetdicom.dsutils import encode

    for is_implicit, syntax in ((True, IMPLICIT), (False, EXPLICIT)):
        content = encode(report, is_implicit, True)
        assert content is not None
        assert read_report(content, syntax) == Report(
            transaction_uid="2.25.7", committed=frozenset(UIDS[:1]), failed={UIDS[1]: 0x0112}
        )


@pytest.mark.parametrize("content", [b"", b"\x08\x00", bytes(64), b"\xff" * 200, bytes(1 << 23)])
def test_what_is_no_report_is_none(content: bytes) -> None:
    for syntax in UNCOMPRESSED:
        assert read_report(content, syntax) is None


def accepted(role: SCP_SCU_RoleSelectionNegotiation) -> A_ASSOCIATE_AC:
    asked = A_ASSOCIATE_RQ()
    asked.decode(associate_rq(contexts=[(1, COMMITMENT, [IMPLICIT]), (3, VERIFICATION, [IMPLICIT])]))
    primitive = asked.to_primitive()
    primitive.user_information.append(role)
    request = read_request(A_ASSOCIATE_RQ(primitive).encode()[6:])
    assert isinstance(request, AssociationRequest)
    supported = [
        Proposal(COMMITMENT, UNCOMPRESSED, is_provided_by_requestor=True),
        Proposal(VERIFICATION, UNCOMPRESSED),
    ]
    acceptance = accept(request, supported, maximum_pdu_bytes=16384)
    assert isinstance(acceptance, Acceptance)
    answer = A_ASSOCIATE_AC()
    answer.decode(acceptance.pdu)
    return answer


def test_a_peer_that_proposes_to_provide_the_service_is_told_that_it_may() -> None:
    answer = accepted(build_role(COMMITMENT, scu_role=True, scp_role=True))
    assert answer.user_information is not None
    (role,) = answer.user_information.role_selection.values()
    assert (role.uid, role.scu_role, role.scp_role) == (COMMITMENT, False, True)


def test_a_role_for_another_class_is_not_answered() -> None:
    answer = accepted(build_role(VERIFICATION, scp_role=True))
    assert answer.user_information is not None
    assert not answer.user_information.role_selection
