"""Record a peer's report on a commitment request: its bytes in, rows of the ledger and the status of the answer out.

A report comes on our own association, on one that the peer opened, or as the answer to a request by DICOMweb; all
three end here. The status is success only after the ledger holds the content of the report. A report that cannot be
read, or that answers no request of ours, gets a processing failure, as PS3.4 section J.3.3 allows, so that a peer that
is in order sends it again or says so.
"""

from __future__ import annotations

import logging

from dicomnode import log
from dicomnode.dimse.commitment import Report
from dicomnode.dimse.proofs import read_report
from dicomnode.errors import NodeError
from dicomnode.ledger.store import Ledger
from dicomnode.seams import checkpoint

LOGGER = logging.getLogger(__name__)

TAKEN = 0x0000
NOT_TAKEN = 0x0110  # processing failure (PS3.7 Annex C.5.20)


def take_report(ledger: Ledger, dataset: bytes | bytearray, transfer_syntax: str, *, peer: str) -> int:
    """Record a report as it came, and return the status that answers it."""
    return record(ledger, read_report(dataset, transfer_syntax), peer=peer)


def record(ledger: Ledger, report: Report | None, *, peer: str) -> int:
    """Record a report (None: it could not be read), and return the status that answers it."""
    if report is None:
        log.event(LOGGER, "report_refused", level=logging.WARNING, peer=peer, detail="it cannot be read")
        return NOT_TAKEN
    try:
        is_known = ledger.commitments.take_report(
            report.transaction_uid, peer=peer, committed=report.committed, failed=report.failed
        )
    except NodeError as exc:
        log.event(LOGGER, "report_refused", level=logging.ERROR, peer=peer, code=exc.code, sentence=exc.sentence)
        return NOT_TAKEN
    checkpoint("proof.reported")
    if not is_known:
        detail = "no request of ours has its Transaction UID"
        log.event(LOGGER, "report_refused", level=logging.WARNING, peer=peer, detail=detail)
        return NOT_TAKEN
    log.event(
        LOGGER, "report_taken", level=logging.WARNING if report.failed else logging.INFO, peer=peer,
        instances=len(report.committed), detail=f"{len(report.failed)} denied" if report.failed else None,
    )  # fmt: skip
    return TAKEN
