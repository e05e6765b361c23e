"""Detections in the frames of a video → the number of the object that each is of.

By ByteTrack (Zhang et al., ECCV 2022), as in the package `trackers`, which is imported on use only.

Shapes: D detections.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from backbones.common.errors import UserError
from detection.detector_interface import ImageDetections

COMMAND = "pip install '.[track]'; pip install --no-deps trackers"
_LOWEST = 0.1  # score of a detection that may continue a track; the paper's reference code drops those below it, too


class Tracker:
    """Follows objects through the frames of one video. Boxes are matched by their IoU, whatever their class.

    A detection of at least `min_score` starts a track, which gets its number in the next frame in which it is found; a
    detection of a lower score can only continue one. An object that is not found for a second loses its track.

    Args:
        rate: frames a second.
        min_score: one for each of the K classes, or one for all.

    Raises:
        UserError: `trackers` cannot be imported.
    """

    def __init__(self, rate: float, min_score: float | Sequence[float] = 0.5) -> None:
        try:
            import supervision
            from trackers import ByteTrackTracker
        except ImportError as error:
            # trackers requires opencv-python, whose files would replace those of opencv-python-headless.
            raise UserError(f"{error.name} cannot be imported, which tracks objects; run: {COMMAND}") from error
        self._detections, self._min_score = supervision.Detections, min_score
        self._tracker: Any = ByteTrackTracker(
            frame_rate=rate, lost_track_buffer=30, track_activation_threshold=0.5, high_conf_det_threshold=0.5
        )

    def update(self, found: ImageDetections, time: float | None = None) -> np.ndarray:
        """The tracks (D,) int64 of the detections in the next frame, counted from 0; −1: of none.

        time: of the frame in seconds, where frames are not equally far apart.
        """
        given = found.places_above(_LOWEST)
        is_certain = np.isin(given, found.places_above(self._min_score))
        tracked = self._tracker.update(
            self._detections(
                xyxy=found.boxes[given].astype(np.float64),
                confidence=is_certain.astype(np.float32),  # it is compared with the thresholds above, and not else
                data={"place": given},
            ),
            timestamp=time,
        )
        ids = np.full(len(found), -1, dtype=np.int64)
        if len(tracked):
            ids[tracked.data["place"]] = tracked.tracker_id
        return ids
