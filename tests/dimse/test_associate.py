"""The answer to a request is what the library would negotiate, however many contexts a sender proposes."""

from __future__ import annotations

import pytest
from pydicom.uid import ExplicitVRBigEndian
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ
from pynetdicom.presentation import AllStoragePresentationContexts, build_context, negotiate_as_acceptor

from dicomnode.dimse.associate import Acceptance, AssociationRequest, Proposal, accept, read_request
from dicomnode.wire import IMPLICIT, MR_IMAGE, SOP_CLASSES, TRANSFER_SYNTAXES, VERIFICATION
from tests.support.pdu import EXPLICIT, associate_rq

SUPPORTED = (Proposal(VERIFICATION, (EXPLICIT, IMPLICIT)), *(Proposal(uid, TRANSFER_SYNTAXES) for uid in SOP_CLASSES))
Contexts = list[tuple[int, str, list[str]]]
CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
BIG_ENDIAN = str(ExplicitVRBigEndian)
# Like storescu and many a scanner: whatever storage classes there are.
ALL: Contexts = [
    (2 * number + 1, str(one.abstract_syntax), [EXPLICIT, IMPLICIT])
    for number, one in enumerate(AllStoragePresentationContexts[:128])
]


def answered(contexts: Contexts) -> Acceptance:
    request = read_request(associate_rq(contexts=contexts)[6:])
    assert isinstance(request, AssociationRequest)
    acceptance = accept(request, SUPPORTED, maximum_pdu_bytes=131072)
    assert isinstance(acceptance, Acceptance)
    return acceptance


@pytest.mark.parametrize(
    "contexts",
    [
        ALL,
        ALL[::-1],
        [(1, MR_IMAGE, [IMPLICIT, EXPLICIT]), (3, CT_IMAGE, [EXPLICIT]), (5, MR_IMAGE, [BIG_ENDIAN])],
        [(1, CT_IMAGE, [BIG_ENDIAN, IMPLICIT])],
    ],
    ids=["all", "in another order", "mixed", "none of ours"],
)
def test_each_context_gets_the_answer_that_the_library_negotiates(contexts: Contexts) -> None:
    whole = A_ASSOCIATE_RQ()
    whole.decode(associate_rq(contexts=contexts))
    expected, _ = negotiate_as_acceptor(
        whole.to_primitive().presentation_context_definition_list,
        [build_context(one.abstract_syntax, list(one.transfer_syntaxes)) for one in SUPPORTED],
    )
    read = A_ASSOCIATE_AC()
    read.decode(answered(contexts).pdu)
    assert [(one.context_id, one.result, one.transfer_syntax) for one in read.presentation_context] == [
        (one.context_id, one.result, one.transfer_syntax[0]) for one in expected
    ]


def test_only_accepted_contexts_carry_messages() -> None:
    accepted = answered([(1, MR_IMAGE, [IMPLICIT, EXPLICIT]), (3, CT_IMAGE, [EXPLICIT])]).contexts
    assert {number: (one.abstract_syntax, one.transfer_syntax) for number, one in accepted.items()} == {
        1: (MR_IMAGE, EXPLICIT)
    }
