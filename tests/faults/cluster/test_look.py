"""What `check` and `status` say of a cluster: who is there, who offers what, and in words why nothing runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dicomnode.checks.row import CheckRow, Mark
from dicomnode.checks.sheet import check
from dicomnode.settings.load import parse
from dicomnode.settings.models import Settings
from tests.support.certificates import Authority
from tests.support.cluster import ClusterNode, TestCluster, running_cluster
from tests.support.dcmtk import free_port
from tests.support.node import make_node

pytestmark = [pytest.mark.faults, pytest.mark.thorough]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestCluster]:
    """One worker, which offers ``cubic-dc``."""
    with running_cluster(tmp_path_factory.mktemp("cluster"), workers=1) as made:
        yield made


def _settings(folder: Path, made: TestCluster, model: str = "cubic-dc", **changes: Any) -> Settings:
    tables = made.tables()
    for table, keys in changes.items():
        tables[table] |= keys
    node = {"listen": f"127.0.0.1:{free_port()}", "data": str(folder / "data")}
    return parse({"node": node, "rule": [{"name": "all", "model": model}], **tables})


def _rows(settings: Settings) -> dict[str, CheckRow]:
    return {row.what: row for row in check(settings) if row.what.startswith("cluster")}


def test_check_names_each_worker_and_a_model_that_nobody_offers(cluster: TestCluster, tmp_path: Path) -> None:
    rows = _rows(_settings(tmp_path, cluster))
    assert {row.mark for row in rows.values()} == {Mark.OK}, rows
    assert rows["cluster"].sentence == f"The scheduler at {cluster.address} answers; 1 workers are registered."
    said = rows[f"cluster tls://127.0.0.1:{cluster.workers[0].port}"].sentence
    assert said.startswith("Idle, cpu, Python 3.")
    assert "1 models" in said
    assert "MB/s there and back" in said
    assert rows["cluster certificate"].sentence.endswith("in 89 days.")

    rows = _rows(_settings(tmp_path, cluster, model="thin"))
    assert [what for what, row in rows.items() if row.mark is Mark.FAIL] == ["cluster model thin"]
    assert rows["cluster model thin"].sentence.startswith("No worker of the cluster offers model thin (digest ")


def test_check_says_in_words_why_a_cluster_cannot_be_used(cluster: TestCluster, tmp_path: Path) -> None:
    strangers = Authority(tmp_path, "strangers")
    stranger = strangers.issue("stranger")
    certificate, key = str(stranger.certificate), str(stranger.key)

    def why(**changes: Any) -> str:
        row = _rows(_settings(tmp_path, cluster, **changes))["cluster"]
        assert row.mark is Mark.FAIL
        return row.sentence

    begin = f"The cluster {cluster.address} cannot be used: "
    foreign = why(cluster={"cert": certificate, "key": key})
    assert foreign.startswith(f"{begin}it does not accept our certificate (")
    assert why(cluster={"ca": str(strangers.certificate)}).startswith(
        f"{begin}its certificate is not one of the authority"
    )
    assert why(cluster={"key": key}) == (
        f"{begin}the files of cluster.ca, cluster.cert and cluster.key do not belong together."
    )
    assert why(cluster={"cert": "/nowhere"}).startswith(f"{begin}a file of cluster.ca, cluster.cert or cluster.key: No")
    assert why(work={"cluster": "tls://127.0.0.1:9"}).endswith("cannot be used: Connection refused.")


def test_a_key_that_every_user_may_read_is_a_failure(cluster: TestCluster, tmp_path: Path) -> None:
    issued = cluster.authority.issue("open")
    issued.key.chmod(0o644)
    settings = _settings(tmp_path, cluster, cluster={"cert": str(issued.certificate), "key": str(issued.key)})
    failed = [row for row in check(settings) if row.mark is Mark.FAIL]
    assert [row.sentence for row in failed] == [f"Every user of this machine may read the key {issued.key}."]


def test_status_names_the_workers_and_why_jobs_wait_and_the_exit_code_of_check_says_whose_matter_it_is(
    cluster: TestCluster, tmp_path: Path
) -> None:
    node = ClusterNode(tmp_path / "data", cluster)
    node.planned(model="thin")
    node.planned(model="thin")
    node.close()
    service = make_node(tmp_path, settings=cluster.tables(), rules=[{"name": "all", "model": "thin"}])
    seen = service.ask("status")["cluster"]
    assert [(one["state"], one["device"], one["models"]) for one in seen["workers"]] == [
        ("idle", "cpu", ["cubic-dc/1"])
    ]
    (sentence,) = seen["sentences"]
    assert sentence.startswith("No worker of the cluster offers model thin (digest ")
    assert "; 2 jobs wait since " in sentence
    assert service.run("check", check=False).returncode == 4
