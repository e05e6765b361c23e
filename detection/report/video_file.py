"""Drawn frames → an MP4 file that records that it was written here. No other file is ever replaced by it.

The mark is a box of the kind "free" at the end of the file, which players skip (ISO/IEC 14496-12, 8.1.2), with the
SHA-256 of all bytes before it; see `drawing_file`, which does the same for images.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from backbones.common.errors import UserError
from backbones.common.files import CannotWrite, atomic_write, sha256_of, sha256_of_stream
from backbones.common.text import printable
from detection.common.own_files import require_own

ENDING = ".mp4"
# MPEG-4 part 2, which every build of OpenCV with FFmpeg writes; H.264 needs an encoder of another licence
_CODEC = "mp4v"
_TEXT = b"drawn by resnext-detection; the SHA-256 of all bytes before this box is "
_BOX = (8 + len(_TEXT) + 64).to_bytes(4, "big") + b"free" + _TEXT


class VideoWriter:
    """Writes frames uint8 (H, W, 3) RGB; all have the size of the first, to which others are scaled.

    The codec stores an even number of rows and columns: of an odd number, the last is left out.
    """

    def __init__(self, path: Path, temporary: Path, rate: float) -> None:
        self._path, self._temporary, self._rate = path, temporary, rate
        self._writer: Any = None
        self._size = (0, 0)
        self.frames = 0

    def write(self, image: np.ndarray) -> None:
        """Adds a frame.

        Raises:
            UserError: this OpenCV writes no MP4.
        """
        if self._writer is None:
            self._size = (image.shape[1], image.shape[0])
            self._writer = cv2.VideoWriter(
                str(self._temporary), cv2.VideoWriter.fourcc(*_CODEC), self._rate, self._size
            )
            if not self._writer.isOpened():
                raise UserError(
                    f"{printable(str(self._path))}: this OpenCV ({cv2.__version__}) writes no video of "
                    f"{self._size[0]} × {self._size[1]} pixels with the codec {_CODEC}; install "
                    "opencv-python-headless, whose wheels do, or leave the video out (--no-video)"
                )
        if (image.shape[1], image.shape[0]) != self._size:
            image = cv2.resize(image, self._size, interpolation=cv2.INTER_AREA)
        self._writer.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        self.frames += 1

    def finish(self) -> None:
        """Completes the file and marks it.

        Raises:
            CannotWrite: frames are missing, which OpenCV tells in no other way.
        """
        if self._writer is None:
            return
        self._writer.release()
        written = cv2.VideoCapture(str(self._temporary))
        count = round(written.get(cv2.CAP_PROP_FRAME_COUNT))
        written.release()
        if count != self.frames:
            raise CannotWrite(
                f"{printable(str(self._path))}: of {self.frames} frames, {max(0, count)} are in the file that was "
                "written: is the disk full? Free space or choose another output folder."
            )
        digest = sha256_of(self._temporary)
        with open(self._temporary, "ab") as file:
            file.write(_BOX + digest.encode("ascii"))


@contextlib.contextmanager
def written_video(path: Path, rate: float) -> Iterator[VideoWriter]:
    """Yields a writer; the file gets its name when the block ends without an error, complete and marked.

    Raises:
        UserError: there is another file at `path`, or this OpenCV writes no MP4.
        CannotWrite: the folder cannot be written, or the disk is full.
    """
    require_replaceable_video(path)
    with atomic_write(path, ending=f".tmp{ENDING}") as temporary:  # OpenCV chooses the container by the ending
        writer = VideoWriter(path, temporary, rate)
        try:
            yield writer
        finally:
            if writer._writer is not None:
                writer._writer.release()
        writer.finish()


def require_replaceable_video(path: Path) -> None:
    """Raises a UserError if there is a file at `path` that was not written here, or was changed since."""
    require_own(path, _is_marked, "has no mark of this tool or was changed since")


def _is_marked(path: Path) -> bool:
    length = max(0, path.stat().st_size - len(_BOX) - 64)
    with path.open("rb") as file:
        file.seek(length)
        box, digest = file.read(len(_BOX)), file.read()
        file.seek(0)
        return box == _BOX and digest.decode("ascii") == sha256_of_stream(file, length)
