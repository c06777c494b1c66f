"""The systemd units: systemd reads them, each is fenced in, and each starts a command with a file that is there."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from dicomnode.cli.main import cli

ETC = Path(__file__).resolve().parents[2] / "etc"
UNITS = sorted(ETC.glob("*.service"))
PROGRAM = "/opt/dicomnode/bin/dicomnode"
USERS = {"dicomnode-web": "dicomnode"}  # the page changes the ledger of the service
MOST_EXPOSED = 30  # of 100, as systemd-analyze counts


@pytest.fixture(params=UNITS, ids=lambda unit: unit.stem)
def unit(request: pytest.FixtureRequest) -> Path:
    """Each of them."""
    found: Path = request.param
    return found


@pytest.fixture
def installed(unit: Path, tmp_path: Path) -> Path:
    """The unit with a program that exists on this machine."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    made = tmp_path / unit.name
    made.write_text(unit.read_text("utf-8").replace(PROGRAM, "/bin/true"), "utf-8")
    return made


def values(unit: Path, key: str) -> list[str]:
    """What a unit sets a key to."""
    lines = unit.read_text("utf-8").splitlines()
    return [line.partition("=")[2] for line in lines if line.startswith(f"{key}=")]


def test_there_is_one_for_each_part() -> None:
    assert {unit.stem for unit in UNITS} == {"dicomnode", "dicomnode-scheduler", "dicomnode-web", "dicomnode-worker"}


def test_it_starts_a_command_of_ours_as_its_own_user_with_a_file_that_comes_with_it(unit: Path) -> None:
    (start,) = values(unit, "ExecStart")
    program, command, option, config = start.split()
    assert program == PROGRAM
    assert command in cli.list_commands(None)  # type: ignore[arg-type]
    assert option == "--config"
    assert (ETC / Path(config).name).is_file()
    assert values(unit, "User") == values(unit, "Group") == [USERS.get(unit.stem, unit.stem)]


def test_what_may_use_a_gpu_keeps_its_devices(unit: Path) -> None:
    closes = {key for key in ("PrivateDevices", "ProtectClock", "DevicePolicy", "DeviceAllow") if values(unit, key)}
    assert not closes or unit.stem in ("dicomnode-scheduler", "dicomnode-web")


def test_systemd_reads_every_line(installed: Path) -> None:
    done = subprocess.run(["systemd-analyze", "verify", str(installed)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_it_is_fenced_in(installed: Path) -> None:
    command = ["systemd-analyze", "security", "--offline=true", f"--threshold={MOST_EXPOSED}", str(installed)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "unrecognized option" in done.stderr:
        pytest.skip("this systemd-analyze judges running services only")
    assert done.returncode == 0, done.stdout
