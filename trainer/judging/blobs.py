"""Count the structures that a result shows and the truth does not: as large as half a small lesion, and half as strong.

Interpolation makes such regions, too: a slab that is spread over its neighbours lies beside its truth. So a count says
something beside that of another method on the same case only.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from dicomnode.imaging import metrics
from trainer.judging.lesions import LESION_CONTRAST, LESION_RADIUS_PIXELS

FloatArray = NDArray[np.float32]

SMOOTHING_VOXELS = 1.0  # so that noise joins no region
CONTRAST = LESION_CONTRAST / 2
VOLUME_SHARE = 0.5  # of a lesion as long as one thick slice


def count_blobs(image: FloatArray, truth: FloatArray, mask: metrics.Mask, ratio: int) -> int:
    """Connected regions of ``mask`` that are too bright or too dark. ``image``, ``truth`` (n·ratio, H, W), range 1."""
    deviation = ndimage.gaussian_filter(image - truth, SMOOTHING_VOXELS)
    smallest = VOLUME_SHARE * 4 / 3 * np.pi * (ratio / 2) * LESION_RADIUS_PIXELS**2
    count = 0
    for sign in (1, -1):
        labels, _ = ndimage.label((sign * deviation > CONTRAST) & mask)
        count += int((np.bincount(labels.ravel())[1:] >= smallest).sum())
    return count
