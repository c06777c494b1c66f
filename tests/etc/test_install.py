"""The step that builds an image, run here, and what it installs: a node, a worker and a scheduler without any rights.

There is no builder of images on the machines of these tests. ``unshare`` makes what an image meets when it runs: it is
the first process, the root file system is read-only, its user may do nothing, and only a temporary folder is written.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.certificates import Authority
from tests.support.dcmtk import free_port, is_listening
from tests.support.wait import wait_until

pytestmark = [pytest.mark.faults, pytest.mark.thorough, pytest.mark.timeout(1800)]

INSTALL = Path(__file__).resolve().parents[2] / "etc" / "install.sh"
PYTHON = "/usr/bin/python3"  # one that every user may run
NEW_ENOUGH = "import ensurepip, sys; sys.exit(sys.version_info < (3, 11))"
LIMIT_S = 90.0
USER = "10001"
CONTAINER = """
mount --bind "$FOLDER" /srv
mount -o remount,bind,ro /
mount -t tmpfs -o size=1g tmpfs /tmp
cd /srv
exec setpriv --reuid "$OWNER" --regid "$OWNER" --clear-groups --no-new-privs --bounding-set=-all -- "$@"
"""
NODE = """
[node]
listen = "127.0.0.1:{node}"
data = "/srv/data"
[work]
executor = "dask"
cluster = "tls://127.0.0.1:{scheduler}"
device = "cpu"
"""
WORKER = """
[worker]
listen = "127.0.0.1:{worker}"
models = ["thin"]
[work]
cluster = "tls://127.0.0.1:{scheduler}"
device = "cpu"
"""
SCHEDULER = """
[scheduler]
listen = "127.0.0.1:{scheduler}"
"""
CLUSTER = """
[cluster]
ca = "/srv/authority/ca.pem"
cert = "/srv/authority/machine.pem"
key = "/srv/authority/machine.key"
[log]
format = "json"
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a container sees at ``/srv``: what was installed, settings, certificates, and a folder for data."""
    if os.geteuid() or not all(map(shutil.which, ("unshare", "setpriv"))):
        pytest.skip("needs root, unshare and setpriv, to run as in a container")
    if subprocess.run([PYTHON, "-c", NEW_ENOUGH], check=False).returncode:
        pytest.skip(f"{PYTHON} is too old, or cannot make environments")
    made = tmp_path_factory.mktemp("contained")
    made.chmod(0o755)  # else a user without rights sees nothing below
    environment = {**os.environ, "PYTHON": PYTHON}
    done = subprocess.run(
        ["sh", str(INSTALL), str(made / "image")], env=environment, capture_output=True, text=True, check=False
    )
    if "No matching distribution" in done.stderr:
        pytest.skip("no index of packages can be reached")
    assert done.returncode == 0, done.stderr
    Authority(made).issue("machine")
    (made / "data").mkdir()
    ports = {name: free_port() for name in ("node", "worker", "scheduler")}
    (made / "ports.json").write_text(json.dumps(ports))
    for name, text in (("node", NODE), ("worker", WORKER), ("scheduler", SCHEDULER)):
        (made / f"{name}.toml").write_text(text.format(**ports) + CLUSTER)
    for path in (made / "data", made / "authority", made / "authority" / "machine.key"):
        shutil.chown(path, int(USER), int(USER))
    return made


def run(folder: Path, command: str, config: str) -> subprocess.Popen[bytes]:
    """Start a command in a container; what it says goes to a file."""
    inside = ["/srv/image/bin/python", "-B", "-m", "dicomnode", command, "--config", f"/srv/{config}.toml"]
    outside = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-ec", CONTAINER, "sh"]
    environment = {"PATH": os.environ["PATH"], "FOLDER": str(folder), "OWNER": USER}
    with said_by(folder, command).open("wb") as said:
        return subprocess.Popen([*outside, *inside], env=environment, stdout=said, stderr=said)


def said_by(folder: Path, command: str) -> Path:
    """The file with what a command said."""
    return folder / f"{command}.log"


@contextmanager
def running(folder: Path, command: str, config: str) -> Iterator[None]:
    """A command in a container, which is stopped as containers are and has to end by itself."""
    process = run(folder, command, config)
    try:
        yield
        (first,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(first), signal.SIGTERM)
        assert process.wait(LIMIT_S) == 0, said_by(folder, command).read_text()
    finally:
        process.kill()
        process.wait()


def test_nothing_under_the_gpl_and_no_installer_is_left(folder: Path) -> None:
    site = next((folder / "image" / "lib").glob("python3*/site-packages"))
    assert list(site.glob("pylibjpeg_openjpeg*"))
    assert not list(site.glob("pylibjpeg_libjpeg*"))
    assert not list(site.glob("pip*"))


def test_node_worker_and_scheduler_run_without_rights_on_a_system_that_is_read_only(folder: Path) -> None:
    ports = json.loads((folder / "ports.json").read_text())
    registered = lambda: "worker_registered" in said_by(folder, "worker").read_text()  # noqa: E731
    with running(folder, "scheduler", "scheduler"):
        wait_until(lambda: is_listening(ports["scheduler"]), LIMIT_S, "the scheduler listens")
        with running(folder, "worker", "worker"), running(folder, "serve", "node"):
            wait_until(registered, LIMIT_S, "the worker registers")
            wait_until(lambda: is_listening(ports["node"]), LIMIT_S, "the node listens")
            run(folder, "check", "node").wait(LIMIT_S)
            said = said_by(folder, "check").read_text()
            assert "1 workers are registered" in said, said
            assert "MB/s there and back" in said
    assert (folder / "data" / "ledger.sqlite").is_file()
