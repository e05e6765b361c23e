"""The objects of an index → how often each image is seen in a pass: images of rare classes more often than once.

Source: Gupta, Dollár and Girshick, "LVIS" (2019), section 5.2 and appendix B, as in detectron2's
`RepeatFactorTrainingSampler`.
"""

from __future__ import annotations

import numpy as np

from detection.data.index import DatasetIndex


def repeat_factors(index: DatasetIndex, threshold: float) -> np.ndarray:
    """The repeat factor of each image, float64 (M,), at least 1.

    With f the share of the images that contain a class, the class has the factor max(1, √(threshold / f)); an image has
    the largest factor of its classes, and 1 without objects. Crowd regions are not counted.

    Args:
        threshold: in (0, 1]; classes in at least this share of the images are not repeated. LVIS: 0.001.
    """
    images = np.repeat(np.arange(len(index)), np.diff(index.offsets))
    pairs = np.unique(np.stack([images, index.labels])[:, ~index.crowds], axis=1)
    share = np.bincount(pairs[1], minlength=len(index.category_ids) + 1) / max(len(index), 1)
    of_class = np.sqrt(threshold / np.maximum(share, 1e-300)).clip(min=1)
    factors = np.ones(len(index))
    np.maximum.at(factors, pairs[0], of_class[pairs[1]])
    return factors
