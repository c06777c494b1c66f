"""Results of models by month, and of two models on one revision, from jobs that went their whole way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from dicomnode.ids import SeriesId
from dicomnode.ledger import results
from dicomnode.ledger.queries import Reader, open_reader
from dicomnode.ledger.values import Release
from tests.ledger.scene import Scene, derived, figure, plan_for

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture
def reader(scene: Scene) -> Iterator[Reader]:
    reader = open_reader(f"sqlite:///{scene.path}")
    yield reader
    reader.close()


def _made(scene: Scene, *, share: float, seconds: float = 12.0) -> None:
    """The job that waits is done; its one figure takes so much of its limit."""
    made = replace(derived(1), figures=(figure("sharpness", share),), seconds=seconds)
    assert scene.ledger.jobs.finish(scene.claim_job(), made)


def _again(scene: Scene, series: SeriesId, model: str, release: Release) -> None:
    """A person has the series judged again after a rule was changed."""
    scene.ledger.operator.retry_series(series, "operator")
    planned = replace(plan_for(model=model, digest_of_model=f"{model}-digest"), release=release)
    assert scene.ledger.settling.plan(series, 1, planned) is not None


def test_each_model_has_a_line_a_month(scene: Scene, reader: Reader) -> None:
    for share in (0.2, 0.4, 1.9):
        scene.queued()
        _made(scene, share=share)
    scene.clock.advance(31 * 86_400)
    scene.queued()
    _made(scene, share=0.3, seconds=20.0)
    found = reader.results(LONG_AGO)
    assert [(one.month, one.series, one.beyond, one.shadow) for one in found.months] == [
        ("2026-03", 3, 1, 0),
        ("2026-04", 1, 0, 0),
    ]
    assert found.months[0].shares == {"sharpness": 0.4}
    assert found.months[1].seconds == 20.0
    assert found.pairs == ()
    assert [one.month for one in reader.results(scene.clock.now()).months] == ["2026-04"]


def test_two_models_on_one_revision_are_a_pair_where_one_is_in_shadow(scene: Scene, reader: Reader) -> None:
    for number, (sent, shadow) in enumerate(((0.5, 0.2), (0.7, 0.4))):
        series = scene.queued()
        _made(scene, share=sent, seconds=10.0 + number)
        _again(scene, series, "new", Release.SHADOW)
        _made(scene, share=shadow, seconds=30.0)
    (pair,) = reader.results(LONG_AGO).pairs
    assert (pair.sent.name, pair.shadow.name, pair.series) == (plan_for().parameters.model, "new", 2)
    assert pair.sent_shares["sharpness"] == pytest.approx(0.6)
    assert pair.shadow_shares["sharpness"] == pytest.approx(0.3)
    assert (pair.sent_seconds, pair.shadow_seconds) == (10.5, 30.0)
    assert pair.last_series == series
    assert sum(one.shadow for one in reader.results(LONG_AGO).months) == 2


def test_two_models_that_are_both_sent_are_no_pair(scene: Scene, reader: Reader) -> None:
    series = scene.queued()
    _made(scene, share=0.5)
    _again(scene, series, "new", Release.AUTO)
    _made(scene, share=0.2)
    assert reader.results(LONG_AGO).pairs == ()


def test_no_answer_counts_without_end(scene: Scene, reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "MOST", 2)
    monkeypatch.setattr(results, "_DONE", results._DONE.limit(3))
    for share in (0.1, 0.2, 0.3):
        scene.queued()
        _made(scene, share=share)
    found = reader.results(LONG_AGO)
    assert found.is_cut
    assert found.months[0].shares["sharpness"] == pytest.approx(0.25), "the newest two"
