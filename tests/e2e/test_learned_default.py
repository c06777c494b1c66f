"""The models that ship, in the worker: a rule that names none gets the default, one that names the paper's gets it."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread

from dicomnode.generators.model_dir import FAST_DEFAULT, LEARNED_DEFAULT, model_facts, shipped_models
from tests.support.dcmtk import needs_dcmtk
from tests.support.dicom import storescu
from tests.support.misbehaving_pacs import MisbehavingPacs
from tests.support.mr_series import write_mr_series
from tests.support.node import AE_TITLE, running_node
from tests.support.shared import PROSTATE

pytestmark = needs_dcmtk

SLICES, RATIO = 6, 3
PAPER_SRGAN = "paper-model1-srgan"


@pytest.mark.parametrize(("speed", "model"), [("quality", LEARNED_DEFAULT), ("fast", FAST_DEFAULT)])
def test_the_shipped_network_derives_a_real_series_and_the_result_names_it(
    speed: str, model: str, tmp_path: Path
) -> None:
    files = sorted(PROSTATE.glob("*.dcm"))[:SLICES]  # neighbours, and enough for what this shows
    rules = [{"name": "every series", "deliver_to": ["pacs"]}]
    wanted = {"work": {"model_speed": speed}}
    with MisbehavingPacs() as pacs, running_node(tmp_path, pacs_port=pacs.port, rules=rules, settings=wanted) as node:
        sent = storescu(node.port, files, "-xt", called=AE_TITLE)
        assert sent.returncode == 0, sent.stderr
        (delivery,) = node.wait_for_deliveries("sent", limit_s=600)
        job = node.job(delivery.series)
        warm = node.events("worker_warm")
    facts = model_facts(model)
    assert [event["model"] for event in warm] == [facts.name]
    assert (job.model, job.model_digest, job.attempts) == (facts.name, facts.digest, 0)
    assert delivery.items == len(pacs.arrivals) == SLICES * RATIO
    for arrival in pacs.arrivals:
        dataset = dcmread(BytesIO(arrival.dataset), force=True)
        assert dataset.SeriesDescription.startswith("AI ")
        assert facts.digest[:16] in dataset.DerivationDescription


@pytest.mark.skipif(PAPER_SRGAN not in shipped_models(), reason="the paper's model is not shipped")
def test_a_rule_selects_the_papers_srgan_and_its_series_is_delivered(tmp_path: Path) -> None:
    """Six slices of 4 mm with pixels of 1 mm: ratio 4, the slices of cubic-dc through the network, projected."""
    files = write_mr_series(tmp_path / "thick", slices=6, slice_spacing_mm=4.0, size=48)
    rules = [{"name": "paper", "model": PAPER_SRGAN, "deliver_to": ["pacs"]}]
    with MisbehavingPacs() as pacs, running_node(tmp_path, pacs_port=pacs.port, rules=rules) as node:
        sent = storescu(node.port, files, called=AE_TITLE)
        assert sent.returncode == 0, sent.stderr
        (delivery,) = node.wait_for_deliveries("sent", limit_s=600)
        job = node.job(delivery.series)
    facts = model_facts(PAPER_SRGAN)
    assert (job.model, job.model_digest) == (facts.name, facts.digest)
    assert len(pacs.arrivals) == 6 * 4
    thin = sorted((dcmread(BytesIO(one.dataset), force=True) for one in pacs.arrivals), key=lambda d: d.InstanceNumber)
    assert all(facts.digest[:16] in dataset.DerivationDescription for dataset in thin)
