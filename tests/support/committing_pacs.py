"""A PACS that stores, commits and answers C-FIND, or fails to do so by script; pynetdicom speaks for it."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from ssl import SSLContext
from types import TracebackType
from typing import Self

from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.events import Event
from pynetdicom.pdu_primitives import SCP_SCU_RoleSelectionNegotiation
from pynetdicom.presentation import build_role

from dicomnode.wire import (
    COMMITMENT,
    COMMITMENT_INSTANCE,
    MR_IMAGE,
    STUDY_ROOT_FIND,
    UNCOMPRESSED,
    VERIFICATION,
)
from tests.support.wait import wait_until

NO_SUCH_INSTANCE = 0x0112


@dataclass(frozen=True, slots=True)
class Asked:
    """A commitment request."""

    transaction_uid: str
    uids: tuple[str, ...]


class CommittingPacs:
    """Listens while it is open. Without a script it stores everything, and commits on a new association."""

    def __init__(
        self,
        *,
        ae_title: str = "PACS",
        commits: bool = True,
        finds: bool = True,
        port: int = 0,
        syntaxes: Sequence[str] = UNCOMPRESSED,
        stores: bool = True,
        checks_title: bool = False,
    ) -> None:
        """``checks_title``: turn away whoever calls another AE title (1/1/7)."""
        self.node = ("127.0.0.1", 0)  # where the node listens
        self.node_title = "DICOMNODE"
        self.calls_with: tuple[SSLContext, str] | None = None  # its TLS when it reports, and the name of the node
        self.held: set[str] = set()
        self.stored: Counter[str] = Counter()  # answered with 0000, by UID
        self.loses = 0  # of the next instances: it answers 0000 and holds none of them
        self.asked: list[Asked] = []
        self.asked_on: list[Association] = []  # the association of each of them
        self.takes = 1 << 16  # requests on one association; the next one breaks it
        self.finds = 0
        self.answers: list[int | None] = []  # to its reports; None: no association for one
        self.action_status = 0x0000
        self.failure_reason = NO_SUCH_INSTANCE
        self.report: Callable[[Event, Asked], None] = self.on_a_new_association
        self._title = ae_title
        self._reporting: list[threading.Thread] = []
        entity = AE(ae_title)
        entity.add_supported_context(VERIFICATION)
        entity.require_called_aet = checks_title
        if stores:
            entity.add_supported_context(MR_IMAGE, list(syntaxes))
        if commits:
            entity.add_supported_context(COMMITMENT, list(syntaxes))
        if finds:
            entity.add_supported_context(STUDY_ROOT_FIND, list(syntaxes))
        server = entity.start_server(
            ("127.0.0.1", port),
            block=False,
            evt_handlers=[
                (evt.EVT_C_STORE, self._store), (evt.EVT_N_ACTION, self._act), (evt.EVT_C_FIND, self._find),
            ],
        )  # fmt: skip
        assert server is not None
        assert server.socket is not None
        self._server = server
        self.port: int = server.socket.getsockname()[1]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        for thread in self._reporting:
            thread.join(30)
        self._server.shutdown()

    # Ways of reporting: values of ``report``.

    def on_a_new_association(self, _event: Event, asked: Asked) -> None:
        """Commit on a new association, as most do."""
        self.later(lambda: self.tell(asked))

    def on_the_same_association(self, event: Event, asked: Asked) -> None:
        """Commit on the same association, soon after the response to the request."""
        self.later(lambda: self.tell_on(event.assoc, asked), after_s=0.3)

    def never(self, _event: Event, _asked: Asked) -> None:
        """Never commit."""

    def tell_on(self, association: Association, asked: Asked) -> None:
        """Report on an association that is open."""
        self.answers.append(self._send(association, asked))

    def tell(
        self,
        asked: Asked,
        *,
        title: str | None = None,
        transaction_uid: str | None = None,
        only: int | None = None,
        with_role: bool = True,
    ) -> int | None:
        """Report on a new association, from the AE title, on the first ``only`` instances; the node's answer."""
        entity = AE(title or self._title)
        entity.add_requested_context(COMMITMENT, list(UNCOMPRESSED))
        roles: list[SCP_SCU_RoleSelectionNegotiation] = [build_role(COMMITMENT, scp_role=True)] if with_role else []
        host, port = self.node
        association = entity.associate(
            host, port, ae_title=self.node_title, ext_neg=list(roles), tls_args=self.calls_with
        )
        if not association.is_established:
            self.answers.append(None)
            return None
        if only is not None:
            asked = Asked(asked.transaction_uid, asked.uids[:only])
        if transaction_uid is not None:
            asked = Asked(transaction_uid, asked.uids)
        status = self._send(association, asked)
        self.answers.append(status)
        association.release()
        return status

    def wait_for_request(self, number: int = 1) -> Asked:
        """The n-th commitment request, once it has come."""
        wait_until(lambda: len(self.asked) >= number, 60, "the node asks for commitment")
        return self.asked[number - 1]

    def later(self, action: Callable[[], object], *, after_s: float = 0.05) -> None:
        """Do something on a thread of its own."""

        def run() -> None:
            time.sleep(after_s)
            action()

        thread = threading.Thread(target=run, name="pacs-report", daemon=True)
        self._reporting.append(thread)
        thread.start()

    def _send(self, association: Association, asked: Asked) -> int | None:
        content = Dataset()
        content.TransactionUID = asked.transaction_uid
        kept = [uid for uid in asked.uids if uid in self.held]
        failed = [uid for uid in asked.uids if uid not in self.held]
        content.ReferencedSOPSequence = [_reference(uid) for uid in kept]
        if failed:
            content.FailedSOPSequence = [_reference(uid, self.failure_reason) for uid in failed]
        status, _ = association.send_n_event_report(
            content, 2 if failed else 1, UID(COMMITMENT), UID(COMMITMENT_INSTANCE)
        )
        return int(status.Status) if "Status" in status else None

    def _store(self, event: Event) -> int:
        assert isinstance(event.request, C_STORE)
        uid = str(event.request.AffectedSOPInstanceUID)
        self.stored[uid] += 1
        if self.loses > 0:
            self.loses -= 1
        else:
            self.held.add(uid)
        return 0x0000

    def _act(self, event: Event) -> tuple[int, None]:
        if self.asked_on.count(event.assoc) >= self.takes:
            event.assoc.abort()
            return 0x0110, None
        told = event.action_information
        uids = tuple(str(one.ReferencedSOPInstanceUID) for one in told.ReferencedSOPSequence)
        asked = Asked(str(told.TransactionUID), uids)
        self.asked.append(asked)
        self.asked_on.append(event.assoc)
        if self.action_status == 0x0000:
            self.report(event, asked)
        return self.action_status, None

    def _find(self, _event: Event) -> Iterator[tuple[int, Dataset | None]]:
        self.finds += 1
        for uid in sorted(self.held):
            match = Dataset()
            match.QueryRetrieveLevel, match.SOPInstanceUID = "IMAGE", uid
            yield 0xFF00, match


def _reference(uid: str, reason: int | None = None) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = MR_IMAGE, uid
    if reason is not None:
        item.FailureReason = reason
    return item
