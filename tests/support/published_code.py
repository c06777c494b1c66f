"""More of the published code of Narcomey and Gu (2018), kept as evidence for what their numbers mean.

Read in narcomey/mri-superresolution @2918dcd (MIT); docs/paper.md tells the story. No recipe and no report needs it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Values = TypeVar("Values", bound=np.generic)
Indices = NDArray[np.int64]

TABLE_1_COLUMNS = 512
ADVERSARIAL_WEIGHT = 1e-3  # of the second stage's losses (``main.py``)
INITIAL_RATE, RATE_DECAY = 1e-4, 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedRow:
    """A number of the paper's Table 1, and what it is: raw values as the scanner stored them, squared."""

    model: int
    generator: str
    printed: float
    true_mse: float  # per value; of Model 2 against the scrambled target


TABLE_1 = (
    PublishedRow(model=1, generator="SRResNet", printed=5.39e7, true_mse=5.39e7 / TABLE_1_COLUMNS),
    PublishedRow(model=1, generator="SRGAN", printed=4.73e7, true_mse=4.73e7 / TABLE_1_COLUMNS),
    PublishedRow(model=2, generator="SRResNet", printed=3.90e5, true_mse=3.90e5),
    PublishedRow(model=2, generator="SRGAN", printed=3.46e5, true_mse=3.46e5),
)


def stack_positions(index: int, last: int) -> tuple[int, int, int]:
    """The thin slices in Model 2's target of thin slice ``index``; ``last`` is the last matched one.

    The slice itself is not the middle one at either end, though another lies beyond the last matched.
    """
    if index == 0:
        return (0, 1, 2)
    if index == last:
        return (index - 2, index - 1, index)
    return (index - 1, index, index + 1)


def stacked_target(stack: NDArray[Values]) -> NDArray[Values]:
    """Slices (3, H, W) as the channels of one image (H, W, 3): what Model 2 should have been shown."""
    return np.moveaxis(stack, 0, -1)


def scrambled_target(stack: NDArray[Values]) -> NDArray[Values]:
    """The target that Model 2 was shown: ``model_2/main.py`` reshapes (3, H, W) to (H, W, 3) in place of a transpose.

    Only the first and the last value stay where they belong. The result is a mosaic of the three slices one above
    the other, a third as high each, and in each three copies side by side of every third column.
    """
    return stack.reshape(*stack.shape[1:], 3)


def scrambled_origin(
    row: Indices, column: Indices, channel: Indices, *, height: int, width: int
) -> tuple[Indices, Indices, Indices]:
    """The origin of a value of ``scrambled_target``: slice, row and column of the stack, by counting through it."""
    count = (row * width + column) * 3 + channel
    return count // (height * width), count % (height * width) // width, count % width


def code_learning_rate(step: int, steps: int, *, epochs: int) -> float:
    """The learning rate at ``step`` of ``steps`` of the second stage: a tenth after every ⌊epochs / 2⌋ epochs.

    Model 1, five epochs: 1e-4 for two, 1e-5 for two, 1e-6 for the last. Model 2, twenty: as the paper says, 1e-5
    from half-way. A single epoch has no steps to take.
    """
    assert 0 <= step < steps
    epoch, every = step * epochs // steps, epochs // 2
    decays = epoch // every if every else 0
    return float(INITIAL_RATE * RATE_DECAY**decays)
