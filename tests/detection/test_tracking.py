"""Moving shapes keep their numbers: while they cross, where one is not found for some frames, and after it is gone."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from backbones.common.errors import UserError
from detection.common.categories import Categories
from detection.detector_interface import ImageDetections
from detection.predict_video import predict_video
from detection.tracking import Tracker
from detection.video import Video
from tests.detection.videos import SquareDetector, frame, write_video

CATEGORIES = Categories((3, 7, 9), ("cat", "dog", "owl"))


def detections(boxes: list[list[float]], scores: list[float] | None = None) -> ImageDetections:
    scores = [0.9] * len(boxes) if scores is None else scores
    labels = np.ones(len(boxes), dtype=np.int64)
    return ImageDetections.of_labels(
        np.array(boxes, dtype=np.float32).reshape(-1, 4), np.array(scores, dtype=np.float32), labels, CATEGORIES
    )


@pytest.fixture
def tracker() -> Tracker:
    pytest.importorskip("trackers", reason="TRACKERS MISSING: tracking was not tried")
    return Tracker(rate=10.0, min_score=0.5)


def paths(number: int) -> list[list[float]]:
    """Where three objects are in a frame: two cross each other's way at a distance, one stands."""
    x = 5.0 * number
    return [[x, 0, x + 40, 40], [300 - x, 60, 340 - x, 110], [150, 200, 200, 260]]


def test_ids_stay(tracker: Tracker) -> None:
    seen = set()
    for number in range(50):
        order = np.random.default_rng(number).permutation(3)  # whatever the order of the detections
        ids = tracker.update(detections([paths(number)[place] for place in order]))
        seen.add(tuple(ids[np.argsort(order)].tolist()))
    first, always = sorted(seen)
    assert first == (-1, -1, -1)
    assert sorted(always) == [0, 1, 2]


def test_an_object_that_is_not_found_for_some_frames_keeps_its_number(tracker: Tracker) -> None:
    for number in range(30):
        boxes = [box for place, box in enumerate(paths(number)) if place != 1 or number not in (12, 13, 14)]
        ids = tracker.update(detections(boxes)).tolist()
        assert ids == ([-1] * 3 if number == 0 else [0, 1, 2] if len(boxes) == 3 else [0, 2])


def test_a_low_score_continues_a_track_and_starts_none(tracker: Tracker) -> None:
    for number in range(20):
        scores = [0.9 if number < 5 else 0.2, 0.2, 0.05]
        ids = tracker.update(detections(paths(number), scores))
        assert ids.tolist() == [-1 if number == 0 else 0, -1, -1]


def test_an_object_that_comes_after_another_is_gone_has_another_number(tracker: Tracker) -> None:
    for number in range(40):
        boxes = [[10.0, 10, 50, 50]] if number < 5 else [] if number < 30 else [[10.0, 10, 50, 50]]
        ids = tracker.update(detections(boxes)).tolist()
        assert ids == ([] if not boxes else [-1] if number in (0, 30) else [0] if number < 5 else [1])


def test_thresholds_of_classes_decide_what_starts_a_track() -> None:
    pytest.importorskip("trackers", reason="TRACKERS MISSING: tracking was not tried")
    for least, expected in (([0.5, 0.5, 0.5], [0]), ([0.95, 0.5, 0.5], [-1])):
        tracker = Tracker(10.0, least)
        tracker.update(detections(paths(0)[:1]))
        assert tracker.update(detections(paths(1)[:1])).tolist() == expected


def test_frames_of_a_stream_are_as_far_apart_as_they_came(tracker: Tracker) -> None:
    for number in range(20):
        ids = tracker.update(detections(paths(number)), 0.1 * number)
        assert ids.tolist() == ([-1] * 3 if number == 0 else [0, 1, 2])
    assert tracker.update(detections(paths(19)), 60.0).tolist() == [-1] * 3  # a minute later they are others


def test_a_video_of_moving_shapes(tmp_path: Path) -> None:
    pytest.importorskip("trackers", reason="TRACKERS MISSING: tracking was not tried")

    def shapes(number: int) -> list[tuple[int, int, int, int, int]]:
        x = 4 * number
        found = [(x, 10, x + 30, 40, 1), (260 - x, 70, 300 - x, 110, 3), (140, 150, 180, 190, 2)]
        return [one for one in found if one[4] != 3 or number not in (20, 21)]

    clip = write_video(tmp_path / "clip.mp4", [frame(shapes(number), 220, 320) for number in range(40)], 20.0)
    summary = predict_video(SquareDetector(), Video(clip), tmp_path / "out", track=True)
    assert summary.tracks == 3
    tracks: dict[str, set[int]] = {}
    for line in map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines()[1:]):
        for one in line["detections"]:
            tracks.setdefault(one["category"], set()).add(one["track"])
    assert sorted(map(len, tracks.values())) == [1, 1, 1]
    assert set.union(*tracks.values()) == {0, 1, 2}


def test_a_missing_package_is_named_with_its_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trackers", None)
    clip = write_video(tmp_path / "clip.mp4", [frame([])] * 3)
    with pytest.raises(UserError, match=r"cannot be imported, which tracks objects; run: pip install .*--no-deps"):
        predict_video(SquareDetector(), Video(clip), tmp_path / "out" / "clip", track=True)
    assert not (tmp_path / "out").exists()
