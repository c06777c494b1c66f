"""What the published code's arithmetic did, reproduced step by step as its lines have it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.support import published_code
from trainer import published

SIDE = 512


@pytest.fixture(scope="module")
def places() -> NDArray[np.int64]:
    """A stack (3, 512, 512) whose every value is unique."""
    return np.arange(3 * SIDE * SIDE).reshape(3, SIDE, SIDE)


def test_the_tables_metric_of_model_1_is_512_times_the_mean_squared_error() -> None:
    """``model_1/utils.py`` line by line, on the shapes that ``model_1/main.py`` hands it."""
    rng = np.random.default_rng(0)
    predicted, truth = rng.random((2, SIDE, SIDE), dtype=np.float32) * 1000
    gen, target = predicted.reshape(1, SIDE, SIDE, 1), truth.reshape(SIDE, SIDE, 1)
    err = np.sum((gen.astype("float") - target.astype("float")) ** 2)
    err /= float(gen.shape[0] * gen.shape[1])
    assert published.table_mse(predicted, truth) == pytest.approx(err)
    assert published.table_mse(predicted, truth) == pytest.approx(512 * published.true_mse(predicted, truth))


def test_on_an_oblong_slice_the_tables_metric_divides_by_the_rows() -> None:
    predicted, truth = np.full((2, 5), 3.0), np.zeros((2, 5))
    assert published.table_mse(predicted, truth) == 10 * 9 / 2
    assert published.true_mse(predicted, truth) == 9.0


def test_in_true_units_model_2_is_worse_and_not_138_times_better() -> None:
    errors = {(row.model, row.generator): row for row in published_code.TABLE_1}
    one, two = errors[1, "SRResNet"], errors[2, "SRResNet"]
    assert one.printed / two.printed == pytest.approx(138, abs=0.5)
    assert two.true_mse / one.true_mse == pytest.approx(3.7, abs=0.05)
    assert math.sqrt(one.true_mse) == pytest.approx(324, abs=1)  # in raw units
    assert math.sqrt(errors[2, "SRGAN"].true_mse) == pytest.approx(588, abs=1)


def test_2_of_786432_values_of_the_scrambled_target_are_in_place(
    places: NDArray[np.int64],
) -> None:
    scrambled, right = published_code.scrambled_target(places), published_code.stacked_target(places)
    assert scrambled.shape == right.shape == (SIDE, SIDE, 3)
    in_place = np.argwhere(scrambled == right)
    assert in_place.tolist() == [[0, 0, 0], [SIDE - 1, SIDE - 1, 2]]
    assert scrambled.size == 786_432


def test_the_right_target_has_each_slice_in_its_own_channel(
    places: NDArray[np.int64],
) -> None:
    right = published_code.stacked_target(places)
    assert sum(int((right[..., channel] == places[channel]).sum()) for channel in range(3)) == 786_432


def test_the_formula_finds_every_value_of_the_mosaic(places: NDArray[np.int64]) -> None:
    """Against the reshape that the code ran."""
    row, column, channel = np.indices((SIDE, SIDE, 3))
    origin = published_code.scrambled_origin(row, column, channel, height=SIDE, width=SIDE)
    assert np.array_equal(places[origin], places.reshape((1, SIDE, SIDE, 3))[0])


def test_the_mosaic_shows_each_slice_in_a_third_of_the_rows_and_three_times_side_by_side(
    places: NDArray[np.int64],
) -> None:
    """By the numbers: slices change in rows 170 and 341, which hold the last and first rows of both."""
    seen = published_code.scrambled_target(places)[..., 0]
    slices = seen // SIDE**2
    assert [sorted(set(slices[rows].flat)) for rows in (slice(0, 170), slice(171, 341), slice(342, 512))] == [
        [0],
        [1],
        [2],
    ]
    for y in (0, 50, 169):
        assert np.array_equal(seen[y, :171], places[0, 3 * y, 0::3])
        assert np.array_equal(seen[y, 171:342], places[0, 3 * y + 1, 1::3])
        assert np.array_equal(seen[y, 342:], places[0, 3 * y + 2, 2::3])


def test_at_both_ends_the_slice_itself_is_not_the_middle_one() -> None:
    assert published_code.stack_positions(0, 66) == (0, 1, 2)
    assert published_code.stack_positions(30, 66) == (29, 30, 31)
    assert published_code.stack_positions(66, 66) == (64, 65, 66)


@pytest.mark.parametrize(
    ("epochs", "expected"),
    [(5, [1e-4] * 2 + [1e-5] * 2 + [1e-6]), (20, [1e-4] * 10 + [1e-5] * 10), (1, [1e-4]), (2, [1e-4, 1e-5])],
)
def test_the_rate_falls_as_the_codes_loop_lets_it(epochs: int, expected: list[float]) -> None:
    """Seven steps an epoch, first and last step of each."""
    steps = 7 * epochs
    first = [published_code.code_learning_rate(7 * epoch, steps, epochs=epochs) for epoch in range(epochs)]
    last = [published_code.code_learning_rate(7 * epoch + 6, steps, epochs=epochs) for epoch in range(epochs)]
    assert first == pytest.approx(expected)
    assert last == pytest.approx(expected)


def test_at_table_1s_error_the_adversarial_term_is_nothing() -> None:
    """A discriminator that is merely undecided (log 2), and one that is as sure as a float32 sigmoid can say."""
    for adversarial in (math.log(2), 100.0):
        share = published_code.ADVERSARIAL_WEIGHT * adversarial / published_code.TABLE_1[0].true_mse
        assert share < 1e-5


def test_the_code_fed_its_classifier_a_third_of_the_response() -> None:
    """Kernels averaged over the colours on (v + 1) / 2, against a replicated grey image of 1.0 = 255."""
    kernels = torch.randn(4, 3, 3, 3, dtype=torch.float64)
    raw = torch.rand(1, 1, 6, 6, dtype=torch.float64) * 1000
    ran = torch.nn.functional.conv2d((raw + 1) / 2, kernels.mean(1, keepdim=True))
    ours = torch.nn.functional.conv2d(255 * published.code_vgg_input(raw).expand(1, 3, 6, 6), kernels)
    torch.testing.assert_close(ours, ran)
