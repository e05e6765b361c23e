"""COCO's evaluation parameters: IoU thresholds, recall levels, area ranges, limits of detections."""

from __future__ import annotations

import numpy as np

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALL_LEVELS = np.linspace(0.0, 1.0, 101)
AREA_RANGES: dict[str, tuple[float, float]] = {
    # both ends belong to a range, as in COCOeval: an object of exactly 32² is small and medium
    "all": (0.0, 1e10),
    "small": (0.0, 32.0**2),
    "medium": (32.0**2, 96.0**2),
    "large": (96.0**2, 1e10),
}
DETECTION_LIMITS = (1, 10, 100)  # detections of one class in one image


def limit_for(detections: int) -> int:
    """The largest limit of detections for a detector that gives at most so many an image: COCO's 100, or, so that all
    of them are looked at, their number.

    >>> limit_for(20), limit_for(1000)
    (100, 1000)
    """
    return max(DETECTION_LIMITS[-1], detections)


def detection_limits(most: int) -> tuple[int, ...]:
    """COCO's limits with `most` in place of the largest.

    Raises:
        ValueError: it is not the largest.
    """
    if most <= DETECTION_LIMITS[-2]:
        raise ValueError(f"the limit of detections must be above {DETECTION_LIMITS[-2]}, not {most}")
    return (*DETECTION_LIMITS[:-1], most)
