"""What the receiver may import: no sender waits for one of the heavy rooms."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import dicomnode.receive

FORBIDDEN = {"numpy", "torch"}
OTHER_ROOMS = {"imaging", "generators", "settle", "work", "push", "service", "derive", "pipeline", "rules"}


def test_no_module_of_the_room_imports_arrays_or_another_worker() -> None:
    for path in Path(str(dicomnode.receive.__file__)).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [one.name for one in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert name.split(".")[0] not in FORBIDDEN, path.name
                assert not (name.startswith("dicomnode.") and name.split(".")[1] in OTHER_ROOMS), path.name


def test_the_room_works_where_numpy_is_not_installed() -> None:
    """pydicom loads it where it finds it; nothing of ours may need it."""
    script = "import sys; sys.modules['numpy'] = None; import dicomnode.receive.scp; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", script], check=False, timeout=120).returncode == 0
