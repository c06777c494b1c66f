"""A report on a request that only a rehearsal sent: known to the ledger, and of no consequence for any delivery."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from dicomnode.ledger.queries import open_reader
from dicomnode.ledger.rehearsals import RehearsalReport
from dicomnode.ledger.store import open_ledger


def test_a_report_on_a_rehearsal_is_taken_and_can_be_read(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.sqlite'}"
    with closing(open_ledger(url)) as ledger, closing(open_reader(url)) as reader:
        ledger.commitments.ask_in_rehearsal("2.25.12", by="operator:anna")
        assert reader.rehearsal_report("2.25.12") is None
        committed, failed = ["1.2.3", "1.2.4"], {"1.2.5": 0x0112}
        assert not ledger.commitments.take_report("2.25.1", peer="pacs", committed=committed, failed=failed), (
            "another UID"
        )
        assert ledger.commitments.take_report("2.25.12", peer="pacs", committed=committed, failed=failed)
        assert reader.rehearsal_report("2.25.12") == RehearsalReport(peer="pacs", committed=2, denied=1)
        assert reader.rehearsal_report("2.25.1") is None
        assert reader.deliveries_list() == []
