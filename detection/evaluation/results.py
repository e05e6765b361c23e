"""Detections as an array → the same array checked, or rounded as in a results file.

The array: float64 (D, 7), one row per detection: image_id, x, y, w, h, score, category_id; boxes in pixels of the
original image. `detection.experiment.results_file` writes and reads the file.
"""

from __future__ import annotations

import numpy as np

from backbones.common.errors import UserError
from detection.common.json_columns import LARGEST_ID

COLUMNS = 7
BOX_DECIMALS = 3  # of a pixel: finer than any annotation; halves the file's size


def checked(detections: np.ndarray, source: str = "the detections") -> np.ndarray:
    """The detections as float64 (D, 7), after a check of every row.

    Raises:
        UserError: wrong shape; an id that is not a whole number of at most 2^53; a box or score that is NaN or infinite
            (pycocotools accepts a NaN score and gives figures that mean nothing); a negative width or height. The
            message names the image id.
    """
    detections = np.asarray(detections, dtype=np.float64)
    if detections.size == 0:
        return np.zeros((0, COLUMNS))
    if detections.ndim != 2 or detections.shape[1] != COLUMNS:
        raise UserError(
            f"{source}: expected rows of image_id, x, y, w, h, score, category_id, "
            f"got an array of shape {tuple(detections.shape)}"
        )
    whole = [(ids == np.round(ids)) & (np.abs(ids) <= LARGEST_ID) for ids in (detections[:, 0], detections[:, 6])]
    _refuse(~(whole[0] & whole[1]), "an id that is no whole number", detections, source)
    if not np.isfinite(detections).all():
        _refuse(~np.isfinite(detections[:, 5]), "a score that is not finite", detections, source)
        _refuse(~np.isfinite(detections[:, 1:5]).all(axis=1), "a box that is not finite", detections, source)
    _refuse((detections[:, 3] < 0) | (detections[:, 4] < 0), "a box of negative width or height", detections, source)
    return detections


def _refuse(bad: np.ndarray, what: str, detections: np.ndarray, source: str) -> None:
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        image_id, *box, score, category_id = detections[row].tolist()
        raise UserError(
            f"{source}: {what} in row {row} (image id {image_id:.15g}, category id {category_id:.15g}, box {box}, "
            f"score {score}), {int(bad.sum())} such rows in all: the network that gave them is broken, or the file is"
        )


def rounded(detections: np.ndarray) -> np.ndarray:
    """The detections as a results file holds them. Evaluating these gives exactly the file's figures.

    Sorted by image id (the order within an image is kept), boxes rounded to a thousandth of a pixel.

    Raises:
        UserError: see `checked`.
    """
    detections = checked(detections)
    detections = detections[np.argsort(detections[:, 0], kind="stable")]
    detections[:, 1:5] = np.round(detections[:, 1:5], BOX_DECIMALS)
    return detections
