"""Storage commitment of the DICOMweb double, by script (PS3.18 sections 13.4 and 13.5)."""

from __future__ import annotations

import json
import time
from collections import Counter, deque
from collections.abc import Collection
from dataclasses import dataclass, field

CUT = 0  # in place of a status: the request is taken and the connection ends without an answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An answer; ``CUT``: none."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class WebCommitment:
    """Commits to what the server holds, at once unless it is told otherwise."""

    statuses: deque[int] = field(default_factory=deque)  # of the next answers to requests, in place of the right ones
    look_statuses: deque[int] = field(default_factory=deque)  # the same of looks for a result
    works_for: int = 0  # looks before there is a result
    is_working: bool = False  # there is no result for now
    names: int | None = None  # how many instances the result names at the most
    loses_all: bool = False  # it says of every instance that it has none
    hangs_s: float = 0.0  # before it answers a request
    retry_after: str = ""
    knows: dict[str, list[tuple[str, str]]] = field(
        default_factory=dict
    )  # transaction → class and UID of each instance
    asked: list[str] = field(default_factory=list)  # transactions, in order; also of requests that were refused
    looks: Counter[str] = field(default_factory=Counter)

    def request(self, transaction_uid: str, content_type: str, content: bytes, held: Collection[str]) -> Reply:
        """Answer a POST."""
        self.asked.append(transaction_uid)
        status = self.statuses.popleft() if self.statuses else 200
        if status not in (200, CUT):
            return Reply(status=status)
        time.sleep(self.hangs_s)
        if transaction_uid in self.knows:
            return Reply(status=409)
        assert content_type == "application/dicom+json"
        (sequence,) = json.loads(content).values()
        references = [(one["00081150"]["Value"][0], one["00081155"]["Value"][0]) for one in sequence["Value"]]
        self.knows[transaction_uid] = references
        return Reply(status=CUT) if status == CUT else self._result(transaction_uid, held)

    def look(self, transaction_uid: str, held: Collection[str]) -> Reply:
        """Answer a GET."""
        self.looks[transaction_uid] += 1
        if self.look_statuses:
            return Reply(status=self.look_statuses.popleft())
        if transaction_uid not in self.knows:
            return Reply(status=404)
        return self._result(transaction_uid, held)

    def _result(self, transaction_uid: str, held: Collection[str]) -> Reply:
        if self.is_working or self.looks[transaction_uid] < self.works_for:
            return Reply(status=202, headers={"Retry-After": self.retry_after} if self.retry_after else {})
        references = self.knows[transaction_uid][: self.names]
        held = () if self.loses_all else held
        kept = [_item(*one) for one in references if one[1] in held]
        lost = [_item(*one) | {"00081197": {"vr": "US", "Value": [0x0112]}} for one in references if one[1] not in held]
        sequences = {"00081199": kept, "00081198": lost}
        body = {tag: {"vr": "SQ", "Value": items} for tag, items in sequences.items() if items}
        return Reply(status=200, body=json.dumps(body).encode())


def _item(sop_class_uid: str, sop_instance_uid: str) -> dict[str, dict[str, object]]:
    return {
        "00081150": {"vr": "UI", "Value": [sop_class_uid]},
        "00081155": {"vr": "UI", "Value": [sop_instance_uid]},
    }
