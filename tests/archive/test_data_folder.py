"""The data folder: one service at a time, and the room on its disk."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from dicomnode.archive.store import Archive


def test_a_second_process_cannot_lock_the_data_folder(tmp_path: Path) -> None:
    archive = Archive(tmp_path / "data")
    archive.data_folder.lock()
    script = (
        "import sys; from pathlib import Path; from dicomnode.archive.store import Archive;"
        "from dicomnode.errors import StorageError\n"
        "try: Archive(Path(sys.argv[1])).data_folder.lock()\n"
        "except StorageError as exc: sys.exit(exc.exit_code)"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "data")]
    assert subprocess.run(command, check=False, timeout=120).returncode == 3
    archive.data_folder.unlock()
    assert subprocess.run(command, check=False, timeout=120).returncode == 0


def test_free_space_is_a_percentage_of_the_disk(tmp_path: Path) -> None:
    archive = Archive(tmp_path)
    assert 0 < archive.data_folder.free_percent() <= 100
    assert archive.data_folder.free_bytes() > 0
