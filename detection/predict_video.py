"""A video, a camera or a stream → an annotated video, and a file of JSON lines with the detections in each frame."""

from __future__ import annotations

import contextlib
import json
import logging
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from backbones.common.errors import UserError
from backbones.common.files import atomic_write
from backbones.common.progress import with_progress
from backbones.common.text import printable
from detection.base_detector import BaseDetector
from detection.common.interrupts import interrupts_held
from detection.common.own_files import require_own
from detection.detector_interface import ImageDetections
from detection.image_stream import images_ahead
from detection.output_folder import distinct_names, identity, lock_folder
from detection.predict import as_dicts, check_options
from detection.report.drawing import class_color, draw_found
from detection.report.lettering import caption_of
from detection.report.video_file import ENDING, VideoWriter, require_replaceable_video, written_video
from detection.tiling import detect_in_tiles
from detection.tracking import Tracker
from detection.video import Frame, Video

logger = logging.getLogger(__name__)

LINES = ".jsonl"
_KEYS = ["frame", "time", "detections"]  # of a line
_LONGEST_STILL = 10  # seconds that the last frame before a gap of a stream is shown


@dataclass(frozen=True)
class VideoSummary:
    """What was done with a video: frames in which was detected, detections drawn, tracks (None without tracking), the
    files written, and whether the source broke."""

    frames: int
    detections: int
    tracks: int | None
    files: list[Path]
    broke: bool


def predict_videos(
    detector: BaseDetector, videos: Sequence[Video], output: Path, **options: Any
) -> Iterator[tuple[Video, VideoSummary]]:
    """`predict_video` for each of several videos, whose files in `output` are named by theirs."""
    names = distinct_names([video.stem for video in videos], "")
    for video, name in zip(videos, names, strict=True):
        yield video, predict_video(detector, video, output / name, **options)


def predict_video(
    detector: BaseDetector,
    video: Video,
    target: Path,
    *,
    min_score: float | Sequence[float] = 0.5,
    tile: int | None = None,
    overlap: float = 0.2,
    batch_size: int = 1,
    track: bool = False,
    draw: bool = True,
) -> VideoSummary:
    """The frames of a video → `target`.mp4 with the detections drawn, and `target`.jsonl with all of them.

    The annotated video has the size of the source's frames and its duration: a frame rate of `rate / every`. A line of
    the other file is `{"frame": number from 0 on, "time": seconds, "detections": [...]}`, the detections as in
    `detections.json` of `predict`, with "track" where objects are tracked.

    Both files get their names when they are complete. After Ctrl-C or an error they are completed with the frames up to
    then, and the error is raised; where it is the annotated video that cannot be written, the other file is kept.

    Args:
        target: the path without an ending.
        min_score, tile, overlap: see `predict`.
        batch_size: frames of a file that are processed at once; those of a stream are taken one by one.
        track: track objects, see `Tracker`.
        draw: write the annotated video.

    Raises:
        UserError: an option is out of range; a file would be overwritten that an earlier call did not write; another
            process is writing there.
        CannotWrite: the folder cannot be written, or the disk is full.
    """
    check_options(detector, min_score, tile, overlap)
    if batch_size < 1:
        raise UserError(f"a batch of {batch_size} frames: give at least 1")
    drawing, lines = target.with_name(target.name + ENDING), target.with_name(target.name + LINES)
    rate = video.rate / video.every
    tracker = Tracker(rate, min_score) if track else None
    ended: BaseException | None = None
    with lock_folder(target.parent), contextlib.closing(video):
        _refuse_to_overwrite(video, drawing if draw else None, lines)
        writer = _Writer(detector.categories.names, min_score, rate if video.is_live else None, tracker)
        with _text_file(lines) as writer.lines:
            try:
                with written_video(drawing, rate) if draw else contextlib.nullcontext() as writer.video:
                    ended = _write_all(writer, detector, video, tile, overlap, batch_size)
                    if ended is not None and not writer.frames:
                        raise ended
            except BaseException as error:  # of the annotated video; the lines are kept
                ended = error
            if ended is not None:
                if not writer.frames:
                    raise ended
                logger.warning("stopped: %s has the first %d frames", printable(str(lines)), writer.frames)
    if ended is not None:
        raise ended
    return VideoSummary(writer.frames, writer.drawn, writer.tracks, [lines, drawing] if draw else [lines], video.broke)


def _write_all(
    writer: _Writer, detector: BaseDetector, video: Video, tile: int | None, overlap: float, batch_size: int
) -> BaseException | None:
    """Writes the results of all frames; returns the error, or Ctrl-C, that ended it before the last frame."""
    total = None if video.frames is None else -(-video.frames // video.every)
    try:
        with contextlib.closing(_detections(detector, video, tile, overlap, batch_size)) as results:
            for frame, found in with_progress(results, total, f"detecting on {video.name}", unit="frames"):
                with interrupts_held():  # the line and the frame, or neither
                    writer.add(frame, found)
    except BaseException as error:
        return error
    return None


def _detections(
    detector: BaseDetector, video: Video, tile: int | None, overlap: float, batch_size: int
) -> Generator[tuple[Frame, ImageDetections], None, None]:
    """Each frame with its detections. The frames of a file are read ahead in a thread; a stream has a thread of its
    own, and each of its frames is processed when it comes."""
    if video.is_live:
        for frame in video:
            yield (
                frame,
                (detector(frame.image) if tile is None else detect_in_tiles(detector, frame.image, tile, overlap)),
            )
        return
    waiting: deque[Frame] = deque()

    def images() -> Iterator[np.ndarray]:
        for frame in video:
            waiting.append(frame)
            yield frame.image

    if tile is None:
        results = detector.stream(images(), batch_size=batch_size, ahead=max(4, 2 * batch_size))
    else:
        results = (detect_in_tiles(detector, image, tile, overlap) for image in images_ahead(images()))
    for found in results:
        yield waiting.popleft(), found


class _Writer:
    """Writes the results of frames, one after the other, to `lines` and, unless it is None, to `video`.

    live_rate: for a stream, the frame rate of the video, whose last frame is repeated while none came.
    """

    def __init__(
        self,
        names: Sequence[str],
        min_score: float | Sequence[float],
        live_rate: float | None,
        tracker: Tracker | None,
    ) -> None:
        self._names, self._min_score = names, min_score
        self._live_rate, self._tracker = live_rate, tracker
        self.lines: Any = None
        self.video: VideoWriter | None = None
        self._last: tuple[float, np.ndarray] | None = None
        self._seen: set[int] = set()
        self.frames = self.drawn = 0

    @property
    def tracks(self) -> int | None:
        """The number of tracks; None without tracking."""
        return None if self._tracker is None else len(self._seen)

    def add(self, frame: Frame, found: ImageDetections) -> None:
        """Writes the line of a frame, and the frame with its detections."""
        entries = as_dicts(found)
        ids = None
        if self._tracker is not None:
            ids = self._tracker.update(found, frame.time if self._live_rate is not None else None)
            self._seen.update(ids[ids >= 0].tolist())
            for entry, track in zip(entries, ids.tolist(), strict=True):
                entry["track"] = track if track >= 0 else None
        line = dict(zip(_KEYS, (frame.index, round(frame.time, 6), entries), strict=True))
        self.lines.write(json.dumps(line) + "\n")
        self.lines.flush()  # so that the lines of a stream can be read while it runs
        shown = found.above(self._min_score)
        self.drawn += len(shown)
        self.frames += 1
        if self.video is not None:
            self._draw(self.video, frame, shown, None if ids is None else ids[found.places_above(self._min_score)])

    def _draw(self, video: VideoWriter, frame: Frame, shown: ImageDetections, ids: np.ndarray | None) -> None:
        texts = [caption_of(self._names[label - 1], label) for label in shown.labels.tolist()]
        texts = [f"{text} {score:.2f}" for text, score in zip(texts, shown.scores.tolist(), strict=True)]
        keys = shown.labels.tolist()
        if ids is not None:
            texts = [
                f"{text} #{track}" if track >= 0 else text for text, track in zip(texts, ids.tolist(), strict=True)
            ]
            keys = [track + 1 if track >= 0 else 0 for track in ids.tolist()]
        drawn = draw_found(frame.image, shown.boxes, texts, [class_color(key) for key in keys], shown.scores)
        height, width = frame.image.shape[:2]
        if drawn.shape[:2] != (height, width):  # a small frame was enlarged for its captions
            drawn = cv2.resize(drawn, (width, height), interpolation=cv2.INTER_AREA)
        if self._live_rate is not None and self._last is not None:
            before, still = self._last
            gap = min(frame.time - before, _LONGEST_STILL)
            for _ in range(round(gap * self._live_rate) - 1):
                video.write(still)
        video.write(drawn)
        self._last = (frame.time, drawn)


@contextlib.contextmanager
def _text_file(path: Path) -> Iterator[Any]:
    """An open text file that gets its name when the block ends without an error."""
    with atomic_write(path) as temporary, open(temporary, "w", encoding="utf-8", newline="\n") as file:
        yield file


def _refuse_to_overwrite(video: Video, drawing: Path | None, lines: Path) -> None:
    """Raises a UserError if the source would be overwritten, or a file that no earlier call wrote."""
    for path in (drawing, lines):
        if path is not None and video.path is not None and path.exists() and identity(path) == identity(video.path):
            raise UserError(
                f"{printable(str(path))}: is the input, and would be overwritten; name another output (--output)"
            )
    if drawing is not None:
        require_replaceable_video(drawing)
    require_own(lines, _has_lines, "has no detections of this tool")


def _has_lines(path: Path) -> bool:
    """Whether a file's first line is one that is written here."""
    with open(path, encoding="utf-8") as file:
        first = json.loads(file.readline(1 << 20))
    return isinstance(first, dict) and list(first) == _KEYS
