"""A video file, a camera, or a stream on the network → its frames in order, each with its index and time, by OpenCV.

The frames of a file are all read. A camera and a stream do not wait: where their frames arrive faster than they are
taken, the newest is given and those before it are skipped. A stream that breaks is opened again.
Shapes: a frame is uint8 (H, W, 3) RGB.
"""

from __future__ import annotations

import logging
import math
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from backbones.common.errors import UserError
from backbones.common.files import require_plain_file, user_path
from backbones.common.text import printable

logger = logging.getLogger(__name__)

# Containers that FFmpeg reads, which OpenCV is built with. A GIF is an image here.
ENDINGS = {".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".ts", ".mts", ".m2ts"}
ENDINGS |= {".3gp", ".ogv"}
_SCHEMES = ("rtsp", "rtsps", "rtmp", "rtmps", "http", "https", "udp", "tcp", "srt")
TRIES = 5  # of opening a broken stream again, one after the other
_LONGEST_PAUSE = 30  # seconds between two tries
_OPEN_SECONDS, _READ_SECONDS = 15, 15  # that a stream may be silent
_USUAL_RATE = 25.0  # frames a second, where a source states none
_HIGHEST_RATE = 1000.0  # what is above it is the unit of time of a container, such as 90,000


@dataclass(frozen=True)
class Frame:
    """A frame: its number in the source, counting from 0, its time in seconds, and its pixels uint8 (H, W, 3) RGB."""

    index: int
    time: float
    image: np.ndarray


def is_video(source: Any) -> bool:
    """Whether this names a video: a file with the ending of one, a URL, or the number of a camera ("0"), unless there
    is a file of that name."""
    if isinstance(source, int):
        return not isinstance(source, bool)
    if not isinstance(source, (str, os.PathLike)):
        return False
    text = os.fspath(source)
    if is_url(text):
        return True
    if os.path.isdir(text):
        return False
    return Path(text).suffix.lower() in ENDINGS or (_is_number(text) and not os.path.lexists(text))


def is_url(text: str) -> bool:
    """Whether this is the address of a stream."""
    return re.match(rf"(?:{'|'.join(_SCHEMES)})://", text, re.IGNORECASE) is not None


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 4


class Video:
    """The frames of a source, to be iterated over once.

    Args:
        source: the path of a file, a URL (rtsp, http and others), or the number of a camera.
        every: only each frame whose number is a multiple of this is given.
        tries: how often a stream or camera that breaks is opened again, until a frame arrives.
        open_capture: opens a source as a `cv2.VideoCapture`; None: OpenCV's.

    Attributes:
        name: the source for messages, without the password of a URL.
        stem: a name for files about it.
        path: of a file; else None.
        rate: frames a second that it states, 25 where it states none.
        frames: how many frames it states; None if it has no end.
        is_live: a camera or a stream, whose frames do not wait.
        broke: a stream ended because it broke, after the iteration.

    Raises:
        UserError: there is no such source, or none that this OpenCV reads; `every` or `tries` is out of range.
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | int,
        *,
        every: int = 1,
        tries: int = TRIES,
        open_capture: Callable[[Any], Any] | None = None,
    ) -> None:
        if every < 1:
            raise UserError(f"every frame whose number is a multiple of {every}: give a number from 1 on")
        if tries < 0:
            raise UserError(f"{tries} tries to open a stream again: give a number from 0 on")
        self._opener, self.every, self._tries = open_capture or _capture, every, tries
        self.name, self.stem, self._what = _named(source)
        self.path = self._what if isinstance(self._what, Path) else None
        if self.path is not None:
            _require_file(self.path, self.name)
        self._capture = self._open()
        self._first = self._read() if self._capture.isOpened() else None
        if self._first is None:
            self._capture.release()
            raise UserError(f"{self.name}: {self._why_not()}")
        rate, count = self._property("FPS"), self._property("FRAME_COUNT")
        self.rate = rate if 0 < rate <= _HIGHEST_RATE else _USUAL_RATE
        if self.rate != rate:
            logger.warning("%s states no frame rate: %g frames a second are assumed", self.name, self.rate)
        self.frames = int(count) if 0 < count < 2**53 else None
        self.is_live = self.path is None and (isinstance(self._what, int) or self.frames is None)
        if self.is_live:
            self.frames = None
        self.broke = False
        self._end, self._is_read = threading.Event(), False

    def __iter__(self) -> Iterator[Frame]:
        self._is_read = True
        try:
            yield from self._newest_frames() if self.is_live else self._all_frames()
        finally:
            self._end.set()
            if not self.is_live:  # the thread that reads a stream releases it
                self._capture.release()

    def close(self) -> None:
        """Ends the iteration, also that of another thread, after the frame that it reads."""
        self._end.set()
        if not self._is_read:
            self._capture.release()

    def _all_frames(self) -> Iterator[Frame]:
        image, index = self._first, 0
        self._first = None
        while image is not None and not self._end.is_set():
            if index % self.every == 0:
                yield Frame(index, self._time(index), image)
            index += 1
            if index % self.every == 0:
                image = self._read()
            elif not self._capture.grab():  # without the conversion of its pixels
                break
        if self.frames is not None and index < 0.98 * self.frames - 2 and not self._end.is_set():
            logger.warning(
                "%s ends after %d of the %d frames that it states: it is cut short, or damaged there",
                self.name, index, self.frames,
            )  # fmt: skip

    def _time(self, index: int) -> float:
        """The time of the frame that was read last, as the file states it or by the frame rate."""
        stated = self._property("POS_MSEC") / 1000
        return stated if index and stated > 0 else index / self.rate

    def _newest_frames(self) -> Iterator[Frame]:
        slot = _Slot()
        reader = threading.Thread(target=self._fill, args=(slot,), name="frames of a stream", daemon=True)
        reader.start()
        try:
            while (frame := slot.take(self._end)) is not None:
                yield frame
        finally:
            self._end.set()
            reader.join(1)  # it may wait for a frame that does not come

    def _fill(self, slot: _Slot) -> None:
        """Puts each frame of a stream into the slot, and opens the stream again where it breaks."""
        began = time.monotonic()
        try:
            image, index = self._first, 0
            self._first = None
            while not self._end.is_set():
                if image is None:
                    image = self._reopened()
                    if image is None:
                        self.broke = not self._end.is_set()
                        return
                if index % self.every == 0:
                    slot.put(Frame(index, time.monotonic() - began, image))
                index += 1
                image = self._read()
        finally:
            self._capture.release()
            slot.put(None)

    def _reopened(self) -> np.ndarray | None:
        """The first frame of a broken stream that was opened again; None if it could not be."""
        for number in range(1, self._tries + 1):
            self._capture.release()
            pause = min(2 ** (number - 1), _LONGEST_PAUSE)
            logger.warning(
                "%s broke: opening it again in %d s (%d of %d tries)", self.name, pause, number, self._tries
            )  # fmt: skip
            if self._end.wait(pause):
                return None
            self._capture = self._open()
            image = self._read() if self._capture.isOpened() else None
            if image is not None:
                logger.warning("%s goes on", self.name)
                return image
        logger.warning("%s broke, and could not be opened again in %d tries", self.name, self._tries)
        return None

    def _open(self) -> Any:
        return self._opener(self._what if isinstance(self._what, int) else str(self._what))

    def _read(self) -> np.ndarray | None:
        import cv2

        was_read, image = self._capture.read()
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image) if was_read else None

    def _property(self, name: str) -> float:
        import cv2

        value = float(self._capture.get(getattr(cv2, f"CAP_PROP_{name}")))
        return value if math.isfinite(value) else 0.0

    def _why_not(self) -> str:
        if isinstance(self._what, int):
            return "there is no camera of this number that OpenCV can open, or another program has it"
        if not isinstance(self._what, Path):
            return "no stream can be opened there; try the address in another player"
        code = int(self._property("FOURCC"))
        codec = f" (codec {printable(code.to_bytes(4, 'little').decode('latin-1'))})" if 0 < code < 2**32 else ""
        return (
            f"is no video, is damaged, or has a codec{codec} that this OpenCV does not read; "
            "convert it, for example: ffmpeg -i FILE -c:v libx264 converted.mp4"
        )


class _Slot:
    """The newest frame of a stream; a frame that was not taken is replaced by the next."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._frame: Frame | None = None
        self._is_last = False

    def put(self, frame: Frame | None) -> None:
        """None: no frame follows; the frame before it can still be taken."""
        with self._changed:
            if frame is None:
                self._is_last = True
            else:
                self._frame = frame
            self._changed.notify()

    def take(self, end: threading.Event) -> Frame | None:
        """The newest frame, once; None after the last one, or after `end` is set."""
        with self._changed:
            while self._frame is None and not self._is_last and not end.is_set():
                self._changed.wait(0.2)
            frame, self._frame = self._frame, None
            return None if end.is_set() else frame


def _capture(source: str | int) -> Any:
    import cv2

    if isinstance(source, int):
        return cv2.VideoCapture(source)
    limits = [
        cv2.CAP_PROP_OPEN_TIMEOUT_MSEC,
        1000 * _OPEN_SECONDS,
        cv2.CAP_PROP_READ_TIMEOUT_MSEC,
        1000 * _READ_SECONDS,
    ]
    return cv2.VideoCapture(source, cv2.CAP_FFMPEG, limits) if is_url(source) else cv2.VideoCapture(source)


def _named(source: str | os.PathLike[str] | int) -> tuple[str, str, Path | str | int]:
    """The name of a source for messages, that for files, and what OpenCV opens."""
    text = os.fspath(source) if not isinstance(source, int) else str(source)
    if isinstance(source, int) or (_is_number(text) and not os.path.lexists(text)):
        return f"camera {text}", f"camera_{int(text)}", int(text)
    if not is_url(text):
        path = user_path(text)
        return printable(str(path)), path.stem, path
    parts = urlsplit(text)
    host = parts.hostname or "stream"
    stem = "_".join([host, *(part for part in parts.path.split("/") if part)])
    shown = text.replace(parts.netloc, parts.netloc.rpartition("@")[2], 1)
    return printable(shown), re.sub(r"[^\w.-]+", "_", stem)[:100], text


def _require_file(path: Path, name: str) -> None:
    try:
        require_plain_file(path)
    except FileNotFoundError:
        raise UserError(f"{name}: no such file") from None
    except OSError as error:
        raise UserError(f"{name}: cannot be read ({error.strerror or error})") from error
