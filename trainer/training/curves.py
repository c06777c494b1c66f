"""The lines of a run as curves of TensorBoard; needs the extra ``board``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dicomnode.errors import InputError
from trainer.training.loop import Line

FOLDER = "board"  # of the run


@contextmanager
def tensorboard_curves(run: Path) -> Iterator[Callable[[Line], None]]:
    """Writes each line below ``RUN/board``, one curve a number and stage. InputError where TensorBoard is missing."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as exc:
        raise InputError(
            "TensorBoard is not installed; nothing was trained.", hint="Install it: pip install 'dicomnode[board]'."
        ) from exc
    writer = SummaryWriter(str(run / FOLDER))

    def write(line: Line) -> None:
        numbers = {f"loss/{name}": value for name, value in line.terms.items()} | {
            "loss/all": line.loss,
            "learning rate": line.learning_rate,
            "gradient norm": line.gradient_norm,
            "patches per second": line.images_per_s,
            "discriminator/loss": line.discriminator_loss,
            "discriminator/accuracy": line.accuracy,
            "discriminator/gradient share": line.adversarial_gradient,
            "validation/PSNR": line.validation_psnr,
        }
        for name, value in numbers.items():
            if value is not None:
                writer.add_scalar(f"{line.stage}/{name}", value, line.step)

    try:
        yield write
    finally:
        writer.close()
