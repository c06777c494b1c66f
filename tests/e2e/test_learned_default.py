"""A rule that names no model: the one that ships derives, in the worker, and says which it was."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread

from dicomnode.generators.model_dir import LEARNED_DEFAULT, default_model, model_facts
from tests.support.dcmtk import needs_dcmtk
from tests.support.dicom import storescu
from tests.support.misbehaving_pacs import MisbehavingPacs
from tests.support.node import AE_TITLE, running_node
from tests.support.shared import DATA, needs_shared

pytestmark = [
    needs_shared,
    needs_dcmtk,
    pytest.mark.timeout(600),
    pytest.mark.skipif(default_model() != LEARNED_DEFAULT, reason="no learned model is shipped"),
]

SLICES, RATIO = 15, 3


def test_the_shipped_network_derives_a_real_series_and_the_result_names_it(tmp_path: Path) -> None:
    files = sorted((DATA / "prostatex" / "t2_cor").glob("*.dcm"))
    rules = [{"name": "every series", "deliver_to": ["pacs"]}]
    with MisbehavingPacs() as pacs, running_node(tmp_path, pacs_port=pacs.port, rules=rules) as node:
        sent = storescu(node.port, files, "-xt", called=AE_TITLE)
        assert sent.returncode == 0, sent.stderr
        (delivery,) = node.wait_for_deliveries("sent", limit_s=500)
        job = node.job(delivery.series)
        warm = node.events("worker_warm")
    facts = model_facts(default_model())
    assert [event["model"] for event in warm] == [facts.name]
    assert (job.model, job.model_digest, job.attempts) == (facts.name, facts.digest, 0)
    assert delivery.items == len(pacs.arrivals) == SLICES * RATIO
    for arrival in pacs.arrivals:
        dataset = dcmread(BytesIO(arrival.dataset), force=True)
        assert dataset.SeriesDescription.startswith("AI ")
        assert facts.digest[:16] in dataset.DerivationDescription
