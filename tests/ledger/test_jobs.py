"""Claims, leases, attempts: a job is run by one holder at a time and by nobody for ever."""

from __future__ import annotations

import multiprocessing
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from dicomnode.ids import SeriesId
from dicomnode.ledger.store import open_ledger
from dicomnode.ledger.values import Priority
from tests.ledger.scene import LEASE_S, FakeClock, Scene, derived


def test_jobs_are_claimed_in_the_order_of_their_planning(scene: Scene) -> None:
    series = []
    for _ in range(3):
        series.append(scene.queued())
        scene.clock.advance(1)
    assert [scene.claim_job().series for _ in range(3)] == series
    assert scene.ledger.jobs.claim("o", lease_s=LEASE_S) is None


def test_a_more_urgent_job_is_claimed_first_and_equals_in_their_order(scene: Scene) -> None:
    series = []
    for priority in (Priority.OFF_PEAK, Priority.NORMAL, Priority.URGENT, Priority.URGENT, Priority.NORMAL):
        series.append(scene.queued())
        scene.set_priority(series[-1], priority)
        scene.clock.advance(1)
    claimed = [scene.claim_job() for _ in series]
    assert [job.series for job in claimed] == [series[place] for place in (2, 3, 1, 4, 0)]


def test_an_off_peak_job_waits_for_its_hours_and_keeps_its_place(scene: Scene) -> None:
    waits, normal = scene.queued(), scene.queued()
    scene.set_priority(waits, Priority.OFF_PEAK)
    for model in (None, ["digest"]):
        assert scene.ledger.jobs.claim("o", lease_s=LEASE_S, models=model, least=Priority.URGENT) is None
    found = scene.ledger.jobs.claim("o", lease_s=LEASE_S, least=Priority.NORMAL)
    assert found is not None
    assert found.series == normal
    assert scene.ledger.jobs.claim("o", lease_s=LEASE_S, least=Priority.NORMAL) is None
    assert scene.claim_job().series == waits


def test_a_job_is_planned_with_normal_priority(scene: Scene) -> None:
    scene.queued()
    assert scene.ask("SELECT priority FROM job") == [(Priority.NORMAL,)]


def test_a_claimed_job_has_a_series_to_fill(scene: Scene) -> None:
    scene.queued()
    job = scene.claim_job()
    ((state, origin, reason, uid, sentence),) = scene.ask(
        "SELECT state, origin, reason, series_uid, sentence FROM series WHERE id = ?", job.output_series
    )
    assert (state, origin, reason, uid) == ("kept", "derived", "own_output", None)
    assert (
        sentence == f"This series was made by this node from series {job.series}; it is kept and never processed again."
    )


def test_every_attempt_fills_the_same_series(scene: Scene) -> None:
    scene.queued()
    first = scene.claim_job()
    scene.ledger.jobs.give_back(first, detail="died", counts=True)
    assert scene.claim_job().output_series == first.output_series


def test_the_third_spent_attempt_fails_the_job(scene: Scene) -> None:
    scene.queued()
    states = [scene.ledger.jobs.give_back(scene.claim_job(), detail=f"died {n}", counts=True) for n in range(3)]
    assert states == ["queued", "queued", "failed"]
    assert scene.ledger.jobs.claim("o", lease_s=LEASE_S) is None
    assert scene.ask("SELECT attempts, sentence FROM job") == [(3, "died 2")]


def test_a_return_that_does_not_count_costs_nothing(scene: Scene) -> None:
    scene.queued()
    for _ in range(5):
        assert scene.ledger.jobs.give_back(scene.claim_job(), detail="stopped", counts=False) == "queued"
    assert scene.claim_job().attempts == 0


def test_a_returned_job_goes_behind_the_others(scene: Scene) -> None:
    poison, good = scene.queued(), scene.queued()
    scene.clock.advance(1)
    job = scene.claim_job()
    assert job.series == poison
    scene.ledger.jobs.give_back(job, detail="died", counts=True)
    assert [scene.claim_job().series, scene.claim_job().series] == [good, poison]


def test_a_restart_returns_what_ran_behind_the_others_without_a_spent_attempt(scene: Scene) -> None:
    first, second = scene.queued(), scene.queued()
    running = scene.claim_job()
    scene.clock.advance(1)
    report = scene.ledger.boots.begin(pid=2, host="h")
    assert (report.returned_jobs, report.returned_deliveries) == (1, 0)
    jobs = [scene.claim_job(), scene.claim_job()]
    assert [job.series for job in jobs] == [second, first]
    assert jobs[1].attempts == 0
    assert not scene.ledger.jobs.beat(running, lease_s=LEASE_S)


def test_a_lease_that_ran_out_is_taken_over(scene: Scene) -> None:
    scene.queued()
    first = scene.claim_job()
    scene.clock.advance(LEASE_S + 1)
    second = scene.claim_job()
    assert (second.id, second.lease_token) == (first.id, first.lease_token + 1)
    assert second.attempts == 0


def test_a_lease_that_ran_out_is_renewed_if_nobody_took_it(scene: Scene) -> None:
    """The process was stopped for an hour, and goes on."""
    scene.queued()
    job = scene.claim_job()
    scene.clock.advance(3600)
    assert scene.ledger.jobs.beat(job, lease_s=LEASE_S)
    assert scene.ledger.jobs.claim("o", lease_s=LEASE_S) is None


def test_a_heartbeat_keeps_the_lease(scene: Scene) -> None:
    scene.queued()
    job = scene.claim_job()
    for _ in range(10):
        scene.clock.advance(LEASE_S / 3)
        assert scene.ledger.jobs.beat(job, lease_s=LEASE_S)
        assert scene.ledger.jobs.claim("o", lease_s=LEASE_S) is None


def test_who_lost_the_lease_changes_nothing(scene: Scene) -> None:
    scene.queued("pacs")
    old = scene.claim_job()
    scene.clock.advance(LEASE_S + 1)
    new = scene.claim_job()
    before = scene.ask("SELECT * FROM job"), scene.ask("SELECT count(*) FROM event"), scene.ask("SELECT * FROM series")
    assert not scene.ledger.jobs.beat(old, lease_s=LEASE_S)
    assert not scene.ledger.jobs.finish(old, derived())
    assert not scene.ledger.jobs.hold(old, reason="input", sentence="x")
    assert scene.ledger.jobs.give_back(old, detail="died", counts=True) is None
    assert not scene.ledger.jobs.is_ours(old)
    assert scene.ledger.jobs.is_ours(new)
    after = scene.ask("SELECT * FROM job"), scene.ask("SELECT count(*) FROM event"), scene.ask("SELECT * FROM series")
    assert before == after
    assert scene.ledger.jobs.finish(new, derived())


def test_a_finished_job_is_finished_once(scene: Scene) -> None:
    scene.queued("pacs")
    job = scene.claim_job()
    made = derived()
    assert scene.ledger.jobs.finish(job, made)
    assert not scene.ledger.jobs.finish(job, made)
    assert scene.ledger.jobs.give_back(job, detail="died", counts=True) is None
    assert scene.ledger.jobs.state_of(job.id) == "done"
    assert len(scene.states("delivery")) == 1


def test_a_finished_job_fills_its_series_in_the_order_of_the_slices(scene: Scene) -> None:
    scene.queued()
    job = scene.claim_job()
    made = derived(4, notes=("12 voxels clipped",))
    scene.ledger.jobs.finish(job, made)
    found = scene.ledger.settling.instances_of(job.output_series, 1)
    assert [one.id for one in found] == [one.id for one in made.instances]
    assert found[0].file == f"{job.output_series}/{made.instances[0].file_name}"
    assert scene.ask("SELECT series_uid FROM series WHERE id = ?", job.output_series) == [(made.series_uid,)]
    assert scene.ask("SELECT notes, seconds FROM job") == [('["12 voxels clipped"]', 12.5)]


def test_a_job_without_peers_is_done_without_deliveries(scene: Scene) -> None:
    scene.queued()
    scene.finish_job()
    assert scene.states("job") == ["done"]
    assert scene.states("delivery") == []


def test_a_rule_that_names_a_peer_twice_delivers_once(scene: Scene) -> None:
    scene.queued("pacs", "pacs")
    scene.finish_job()
    assert scene.states("delivery") == ["due"]


def test_a_finish_that_breaks_off_leaves_the_job_running(scene: Scene) -> None:
    """A derived UID that the ledger holds already: the whole act is undone."""
    scene.queued("pacs")
    made = derived()
    scene.ledger.jobs.finish(scene.claim_job(), made)
    scene.queued("pacs")
    job = scene.claim_job()
    with pytest.raises(Exception, match="UNIQUE"):
        scene.ledger.jobs.finish(job, made)
    assert scene.state("job", job.id) == "running"
    assert len(scene.states("delivery")) == 1


def test_threads_claim_each_job_once(scene: Scene) -> None:
    wanted = {scene.queued() for _ in range(24)}
    start = threading.Barrier(8)

    def drain() -> list[SeriesId]:
        start.wait(60)
        found = []
        while (job := scene.ledger.jobs.claim(f"thread {threading.get_ident()}", lease_s=LEASE_S)) is not None:
            found.append(job.series)
        return found

    with ThreadPoolExecutor(8) as pool:
        claimed = [series for future in [pool.submit(drain) for _ in range(8)] for series in future.result(60)]
    assert sorted(claimed) == sorted(wanted)


def _drain_elsewhere(url: str, start: threading.Event, answers: multiprocessing.Queue[list[SeriesId]]) -> None:
    ledger = open_ledger(url, clock=FakeClock())
    start.wait(60)
    found = []
    while (job := ledger.jobs.claim("another process", lease_s=LEASE_S)) is not None:
        found.append(job.series)
    ledger.close()
    answers.put(found)


def test_processes_claim_each_job_once(scene: Scene) -> None:
    wanted = {scene.queued() for _ in range(12)}
    context = multiprocessing.get_context("spawn")
    start, answers = context.Event(), context.Queue()
    processes = [
        context.Process(target=_drain_elsewhere, args=(f"sqlite:///{scene.path}", start, answers)) for _ in range(2)
    ]
    for process in processes:
        process.start()
    start.set()
    claimed = [series for _ in processes for series in answers.get(timeout=60)]
    for process in processes:
        process.join(60)
    assert sorted(claimed) == sorted(wanted)
