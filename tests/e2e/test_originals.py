"""The received series itself is sent on: to a real Orthanc, byte for byte, and once whatever kills the node."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from dicomnode.part10 import read_meta
from tests.support.committing_pacs import CommittingPacs
from tests.support.dcmtk import needs_dcmtk
from tests.support.dicom import storescu
from tests.support.mr_series import write_mr_series
from tests.support.node import AE_TITLE, kill, make_node, running_node
from tests.support.orthanc import needs_orthanc, orthanc
from tests.support.wait import wait_until

pytestmark = needs_dcmtk

RULES = [{"name": "all", "model": "cubic-dc", "forward_originals": ["pacs"], "min_ratio": 6.0}]  # kept: thin already
SEAMS = ("settle.kept", "push.associated", "push.sent", "push.acknowledged", "push.concluded")


def datasets(paths: list[Path]) -> dict[str, bytes]:
    """SOP Instance UID → the data set without file meta."""
    found = {}
    for path in paths:
        with path.open("rb") as file:
            meta = read_meta(file)
        assert meta is not None
        found[meta.sop_instance_uid] = path.read_bytes()[meta.start :]
    return found


@needs_orthanc
def test_orthanc_gets_a_kept_series_byte_for_byte_and_a_late_instance_after_it(tmp_path: Path) -> None:
    paths = write_mr_series(tmp_path / "series")
    with (
        orthanc(tmp_path / "pacs", settings={"DicomAlwaysAllowFind": True}) as pacs,
        running_node(tmp_path / "node", pacs_port=pacs.dicom_port, rules=RULES) as node,
    ):
        assert storescu(node.port, paths[:-1], called=AE_TITLE).returncode == 0
        node.wait_for_deliveries("sent", 1)
        assert storescu(node.port, paths[-1:], called=AE_TITLE).returncode == 0
        node.wait_for_deliveries("sent", 2)
        assert [(line.content, line.items) for line in node.deliveries()] == [
            ("originals", len(paths) - 1),
            ("originals", 1),
        ]
        (tmp_path / "back").mkdir()
        back = []
        for uid, content in pacs.files().items():
            back.append(tmp_path / "back" / f"{uid}.dcm")
            back[-1].write_bytes(content)
        assert datasets(back) == datasets(paths)


def test_a_kill_at_each_seam_loses_no_original(tmp_path: Path) -> None:
    paths = write_mr_series(tmp_path / "series")
    with CommittingPacs() as pacs:
        node = make_node(tmp_path / "node", pacs_port=pacs.port, pacs={"ae_title": "PACS"}, rules=RULES)
        pacs.node, pacs.node_title = ("127.0.0.1", node.port), AE_TITLE
        try:
            node.start("--kill", SEAMS[0])
            assert storescu(node.port, paths, called=AE_TITLE).returncode == 0
            for following in SEAMS[1:]:
                wait_until(lambda: node.is_over, 60, "the node is killed at a seam")
                with suppress(AssertionError):  # it may be killed again before it is seen to listen
                    node.start("--kill", following)
            wait_until(lambda: node.is_over, 60, "the node is killed at the last seam")
            node.start()
            wait_until(lambda: [one.state for one in node.deliveries()] == ["sent"], 60, "all are sent")
            assert set(pacs.stored) == set(datasets(paths))
        finally:
            kill(node)
