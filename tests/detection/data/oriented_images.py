"""Images stored in each of EXIF's eight orientations, and what is to be seen of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, features

# JPEG 2000 carries no orientation that Pillow or a browser looks at, and BMP, GIF, PPM none at all.
ORIENTED_KINDS = ["jpg", "png", "webp", "tiff", *(["avif"] if features.check("avif") else [])]


def save_oriented(path: Path, image: np.ndarray | Image.Image, orientation: int, **options: object) -> Path:
    """Writes the pixels as they are, with a note of how to turn them."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    if path.suffix != ".tiff":
        options["quality"] = 95
    stored.save(path, exif=exif, **options)
    return path


def upright(stored: np.ndarray, orientation: int) -> np.ndarray:
    """The stored pixels as a viewer shows them, by the words of Exif 2.3 for each value."""
    mirrored = stored[:, ::-1]
    return {
        1: stored,
        2: mirrored,
        3: np.rot90(stored, 2),
        4: np.rot90(mirrored, 2),
        5: np.rot90(mirrored, 1),  # mirrored and turned by 270° clockwise
        6: np.rot90(stored, -1),  # turned by 90° clockwise
        7: np.rot90(mirrored, -1),
        8: np.rot90(stored, 1),
    }[orientation]
