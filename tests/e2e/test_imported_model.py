"""From a trainer's folder to a derived series: import, activate and roll back beside a service that runs."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from dicomnode import catalog
from dicomnode.ledger.store import Ledger, open_ledger
from tests.support.dcmtk import needs_dcmtk
from tests.support.dicom import storescu
from tests.support.model_folders import random_thin, write_thin
from tests.support.mr_series import write_mr_series
from tests.support.node import AE_TITLE, Node, kill, make_node

pytestmark = needs_dcmtk


def _derive(node: Node, folder: Path, done_before: int) -> str:
    """Send a series; the digest of the model that derived it."""
    sent = storescu(node.port, write_mr_series(folder), called=AE_TITLE)
    assert sent.returncode == 0, sent.stderr
    rows = node.wait_for_jobs("done", done_before + 1)
    return node.job(rows[-1].id).model_digest


def _activate(node: Node, ledger: Ledger, digest: str) -> None:
    rows = node.read(lambda reader: reader.imported_models())
    catalog.activate(catalog.find_imported(rows, f"knee@{digest}"), data=node.data, models=ledger.models, by="operator")


def test_the_service_uses_what_is_activated_beside_it_and_what_is_rolled_back_to(tmp_path: Path) -> None:
    node = make_node(tmp_path, rules=[{"name": "every series", "model": "knee"}])
    node.data.mkdir()
    digests = []
    with closing(open_ledger(f"sqlite:///{node.data}/ledger.sqlite")) as ledger:
        for blocks in (1, 2):
            made = write_thin(tmp_path / "made" / str(blocks), net=random_thin(blocks=blocks), name="knee")
            imported, _ = catalog.import_model(made, data=node.data, models=ledger.models, by="operator")
            digests.append(imported.digest)
        old, new = digests
        _activate(node, ledger, old)
        try:
            node.start()
            used = [_derive(node, tmp_path / "first", 0)]
            _activate(node, ledger, new)
            used.append(_derive(node, tmp_path / "second", 1))
            catalog.roll_back("knee", rules=["every series"], data=node.data, models=ledger.models, by="operator")
            used.append(_derive(node, tmp_path / "third", 2))
            warm = node.events("worker_warm")
        finally:
            kill(node)
    assert used == [old, new, old]
    assert [event["model"] for event in warm] == ["knee"]
