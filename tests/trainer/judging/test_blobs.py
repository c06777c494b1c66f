"""A structure that is not in the truth is counted as a blob, and noise is not."""

from __future__ import annotations

import numpy as np

from tests.support.phantom_sources import phantom
from tests.trainer.judging.test_cases import SOURCE, volume_of
from trainer.judging.blobs import count_blobs
from trainer.judging.cases import prepare


def test_a_blob_that_is_not_in_the_truth_is_counted_and_noise_is_not() -> None:
    case = prepare(SOURCE, volume_of(phantom(3, extent=64)), plane=0, ratio=4)
    noise = 0.02 * np.random.default_rng(0).standard_normal(case.truth.shape, dtype=np.float32)
    assert count_blobs(case.truth + noise, case.truth, case.mask, case.ratio) == 0
    invented = case.truth + noise
    for middle in ((20, 24, 24), (40, 40, 40)):
        place = tuple(slice(at - 3, at + 3) for at in middle)
        assert case.mask[place].all()
        invented[place] += np.float32(0.3 if middle[0] == 20 else -0.3)
    assert count_blobs(invented, case.truth, case.mask, case.ratio) == 2
