"""The data folder on a disk that fills up: nothing acknowledged is lost, nothing is failed, room lets it go on."""

from __future__ import annotations

from pathlib import Path

from tests.support.dcmtk import needs_dcmtk
from tests.support.dicom import storescu
from tests.support.mounts import resize, tmpfs
from tests.support.mr_series import write_mr_series
from tests.support.node import AE_TITLE, WORK_LIMIT_S, running_node
from tests.support.wait import wait_until

pytestmark = needs_dcmtk

OUT_OF_RESOURCES = 0xA7  # storescu's exit code is the high byte of the status that stopped it


def test_a_job_whose_output_finds_no_room_waits_for_it_and_spends_no_attempt(tmp_path: Path) -> None:
    """8 slices of 512² take 4 MB and fit; the 32 thin ones of the result take 17 MB and do not."""
    files = write_mr_series(tmp_path / "thick", slices=8, size=512)
    with tmpfs(tmp_path / "node" / "data", "size=12m") as data, running_node(tmp_path / "node") as node:
        sent = storescu(node.port, files, called=AE_TITLE)
        assert sent.returncode == 0, sent.stderr
        wait_until(lambda: node.events("job_returned"), WORK_LIMIT_S, "the job comes back")
        job = node.job(1)
        assert (job.state, job.attempts) == ("queued", 0)
        assert "No space left on device" in node.events("job_returned")[0]["sentence"]
        resize(data, "64m")
        node.wait_for_jobs("done")
        assert node.stop() == 0


def test_a_sender_is_asked_to_come_again_and_what_was_acknowledged_is_there(tmp_path: Path) -> None:
    files = write_mr_series(tmp_path / "thick", slices=40, size=512)
    settings = {"settle": {"quiet_s": 60.0, "aborted_wait_s": 60.0}}
    with (
        tmpfs(tmp_path / "node" / "data", "size=12m") as data,
        running_node(tmp_path / "node", settings=settings) as node,
    ):
        sent = storescu(node.port, files, called=AE_TITLE)
        assert sent.returncode == OUT_OF_RESOURCES, sent.stderr
        (line,) = node.series()
        stored = [path for path in (data / "archive").rglob("*") if path.is_file()]
        assert 0 < line.instances == len(stored) < len(files)
        assert all(path.suffix == ".dcm" for path in stored), "no temporary file is left"
        resize(data, "96m")
        # A disk that refused is believed to be full for some seconds: new associations are put off, not lost.
        wait_until(
            lambda: storescu(node.port, files, called=AE_TITLE).returncode == 0, WORK_LIMIT_S, "the sender gets through"
        )
        (line,) = node.series()
        assert line.instances == len(files)
        assert node.stop() == 0
