"""A model whose weights are noise: its job is done, nothing of it leaves the node, and the operator is told why."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from dicomnode import catalog
from dicomnode.ledger.store import open_ledger
from tests.support.dcmtk import needs_dcmtk
from tests.support.dicom import storescu
from tests.support.misbehaving_pacs import MisbehavingPacs
from tests.support.model_folders import random_thin, write_thin
from tests.support.mr_series import write_mr_series
from tests.support.node import AE_TITLE, kill, make_node

pytestmark = [needs_dcmtk, pytest.mark.timeout(240)]


def test_a_result_that_is_not_fit_to_leave_is_held_until_the_operator_releases_it(tmp_path: Path) -> None:
    with MisbehavingPacs() as pacs:
        rule = {"name": "every series", "model": "noise", "deliver_to": ["pacs"]}
        node = make_node(tmp_path, pacs_port=pacs.port, rules=[rule])
        node.data.mkdir()
        with closing(open_ledger(f"sqlite:///{node.data}/ledger.sqlite")) as ledger:
            made = write_thin(tmp_path / "made", net=random_thin(), name="noise")
            imported, _ = catalog.import_model(made, data=node.data, models=ledger.models, by="operator")
            assert imported.id is not None
            ledger.models.activate(imported.id, "operator")
        try:
            node.start()
            files = write_mr_series(tmp_path / "thick", slices=8, size=96)
            sent = storescu(node.port, files, called=AE_TITLE)
            assert sent.returncode == 0, sent.stderr
            node.wait_for_deliveries("held", limit_s=120)
            (line,) = node.deliveries()
            explained = " ".join(node.explain(1)["sentences"])
            (attention,) = node.read(lambda reader: reader.status()).attention
            before = len(pacs.digests())
            node.run("deliveries", "release", str(line.id))
            node.wait_for_deliveries("sent", limit_s=60)
            explained_after = " ".join(node.explain(1)["sentences"])
        finally:
            kill(node)
    assert (line.state, line.reason, before) == ("held", "gate", 0)
    assert "The result gate found that" in line.sentence
    assert explained.count("The result gate found that") == 1
    assert (attention.table, attention.reason) == ("delivery", "gate")
    assert len(pacs.digests()) == line.items > 0
    assert "The result gate found that" in explained_after, "the job keeps the figures"
