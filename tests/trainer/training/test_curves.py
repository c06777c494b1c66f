"""TensorBoard: an extra, whose absence is one sentence."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from dicomnode.errors import InputError
from trainer.training.curves import FOLDER, tensorboard_curves
from trainer.training.loop import Line

LINE = Line(
    stage="sharp", step=50, steps=100, loss=0.1, terms={"mse": 0.1}, gradient_norm=1.0, learning_rate=1e-4,
    images_per_s=5.0, seconds_left=60.0, accuracy=0.7,
)  # fmt: skip
IS_THERE = importlib.util.find_spec("tensorboard") is not None


@pytest.mark.skipif(IS_THERE, reason="TensorBoard is installed")
def test_without_tensorboard_one_sentence_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="TensorBoard is not installed"), tensorboard_curves(tmp_path):
        pass
    assert not (tmp_path / FOLDER).exists()


@pytest.mark.skipif(not IS_THERE, reason="TensorBoard is not installed: an extra")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_a_line_becomes_a_file_of_events(tmp_path: Path) -> None:
    with tensorboard_curves(tmp_path) as write:
        write(LINE)
    (events,) = (tmp_path / FOLDER).iterdir()
    assert b"sharp/discriminator/accuracy" in events.read_bytes()
