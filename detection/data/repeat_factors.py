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
    classes = len(index.category_ids) + 1
    cells = np.sort(_cells(index, classes))  # np.unique's hash table is many times slower on millions of numbers
    images, labels = np.divmod(cells[np.diff(cells, prepend=-1) > 0], classes)
    share = np.bincount(labels, minlength=classes) / max(len(index), 1)
    of_class = np.sqrt(threshold / np.maximum(share, 1e-300)).clip(min=1)
    factors = np.ones(len(index))
    np.maximum.at(factors, images, of_class[labels])
    return factors


def _cells(index: DatasetIndex, classes: int) -> np.ndarray:
    """A number for each object's image and class, those of equal ones equal, int64; without crowd regions."""
    cells = np.repeat(np.arange(len(index)) * classes, np.diff(index.offsets))
    cells += index.labels
    return cells[~index.crowds] if index.crowds.any() else cells
