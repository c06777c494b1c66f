"""Where the real series lie that the project is proved on; absent outside its own machines."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
DATA = SHARED / "data"
WEIGHTS = SHARED / "weights"

needs_shared = pytest.mark.skipif(not DATA.is_dir(), reason="the shared data folder is not beside the checkout")
