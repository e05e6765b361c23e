"""A drawn image → a JPEG file that records that it was drawn here. No other file is ever replaced by a drawing.

The mark is a comment in the JPEG with the SHA-256 of all its other bytes. A file of another program has no such
comment, and a drawing that was changed since has another SHA-256.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import cv2
import numpy as np

from backbones.common.files import atomic_write
from detection.common.own_files import require_own

_LONGEST = 65_500  # pixels; libjpeg's JPEG_MAX_DIMENSION
_START = 20  # bytes before the comment: the start of the image and the JFIF segment, which has to follow it
_TEXT = b"drawn by resnext-detection; the SHA-256 of all other bytes is "
_COMMENT = b"\xff\xfe" + (2 + len(_TEXT) + 64).to_bytes(2, "big") + _TEXT


def save_drawing(path: Path | str, image: np.ndarray) -> None:
    """Writes a uint8 (H, W, 3) RGB image as a JPEG, atomically. An earlier drawing at `path` is replaced.

    A JPEG has at most 65,500 pixels a side; a longer image is scaled down to that.

    Raises:
        UserError: there is another file at `path`.
        CannotWrite: the folder cannot be written.
    """
    require_replaceable(path)
    pixels = np.ascontiguousarray(_at_most(image)[:, :, ::-1])
    _, encoded = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 92])
    start, rest = encoded[:_START].tobytes(), encoded[_START:].tobytes()
    with atomic_write(path) as temporary:
        temporary.write_bytes(start + _COMMENT + _digest(start + rest) + rest)


def require_replaceable(path: Path | str) -> None:
    """Raises a UserError if there is a file at `path` that is no drawing, or a drawing that was changed since."""
    otherwise = "has no mark of this tool or was changed since it was drawn (earlier versions made no marks)"
    require_own(Path(path), _is_drawing, otherwise)


def _is_drawing(path: Path) -> bool:
    with path.open("rb") as file:
        start, comment, digest = file.read(_START), file.read(len(_COMMENT)), file.read(64)
        return comment == _COMMENT and digest == _digest(start + file.read())


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode("ascii")


def _at_most(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    if max(height, width) <= _LONGEST:
        return image
    scale = _LONGEST / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(np.ascontiguousarray(image), size, interpolation=cv2.INTER_AREA))
