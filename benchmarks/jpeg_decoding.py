"""JPEG files → the time to decode them: by each decoder that is installed, and whole or at a reduced size."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from benchmarks.common import interleaved, seconds, table
from benchmarks.photographs import JPEG_QUALITY, draw
from detection.data.images import read_image

_SAME = 100.0  # dB; OpenCV's answer for equal images is 361
_REDUCED = {2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8}
# (height, width) of files and the shorter side wanted
REDUCED_CASES = (((480, 640), 240), ((1500, 2000), 600), ((3000, 4000), 600))


def decoders() -> dict[str, Callable[[Path], np.ndarray]]:
    """Decoders of JPEGs that are installed: name → path to pixels (H, W, 3)."""
    found: dict[str, Callable[[Path], np.ndarray]] = {
        "ours, which checks the file": read_image,
        "OpenCV": lambda path: cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR_RGB),
        "Pillow": lambda path: np.asarray(Image.open(path).convert("RGB")),
    }
    with contextlib.suppress(ImportError):
        import simplejpeg

        found["simplejpeg"] = lambda path: simplejpeg.decode_jpeg(path.read_bytes())
    with contextlib.suppress(ImportError, RuntimeError, OSError):  # it needs the library of libjpeg-turbo besides
        import turbojpeg

        turbo = turbojpeg.TurboJPEG()
        found["PyTurboJPEG"] = lambda path: turbo.decode(path.read_bytes(), pixel_format=turbojpeg.TJPF_RGB)
    return found


def decoders_table(paths: Sequence[Path], repeats: int) -> dict[str, Any]:
    """Milliseconds of decoding by each decoder that is installed, and how far its pixels are from ours."""
    functions = decoders()
    expected = [read_image(path).astype(np.int16) for path in paths]
    differences = {
        name: max(int(np.abs(decode(path) - own).max()) for path, own in zip(paths, expected, strict=True))
        for name, decode in functions.items()
    }
    timings = interleaved({name: partial(_decode_all, decode, paths) for name, decode in functions.items()}, repeats)
    first = timings[next(iter(timings))]
    rows = [
        [name, seconds(timing.median / len(paths)), f"{first.ratio_to(timing):.2f}", str(differences[name])]
        for name, timing in timings.items()
    ]
    columns = ["", "an image", "our time by theirs", "largest difference of a value from ours"]
    return table("Decoders of JPEGs, with reading the file", columns, rows)


def _decode_all(decode: Callable[[Path], np.ndarray], paths: Sequence[Path]) -> None:
    for path in paths:
        decode(path)


def reduced_row(size: tuple[int, int], side: int, repeats: int) -> list[str]:
    """A JPEG of `size` decoded whole, or reduced as far as it stays no smaller than wanted, and then resized until its
    shorter side is `side`: both times, and how close either comes to the mean over areas of the whole image."""
    _, encoded = cv2.imencode(".jpg", draw(np.random.default_rng(0), size), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    divisor = max(one for one in _REDUCED if min(size) / one >= side)
    target = (round(size[1] * side / min(size)), side)

    def decode(flag: int, method: int = cv2.INTER_LINEAR) -> np.ndarray:
        decoded = cv2.imdecode(encoded, flag)
        assert decoded is not None
        return cv2.resize(decoded, target, interpolation=method)

    ideal = decode(cv2.IMREAD_COLOR, cv2.INTER_AREA)
    functions = {"whole": partial(decode, cv2.IMREAD_COLOR), "reduced": partial(decode, _REDUCED[divisor])}
    timings = interleaved(functions, repeats, least_seconds=0.5)
    quality = [cv2.PSNR(function(), ideal) for function in functions.values()]
    return [
        f"{size[1]} × {size[0]} → {target[0]} × {target[1]}",
        f"1/{divisor}",
        *(seconds(timing.median) for timing in timings.values()),
        f"{timings['reduced'].ratio_to(timings['whole']):.2f}",
        *("the same" if decibels > _SAME else f"{decibels:.1f} dB" for decibels in quality),
    ]


def reduced_table(repeats: int, cases: Sequence[tuple[tuple[int, int], int]]) -> dict[str, Any]:
    """What decoding at a reduced size would gain."""
    title = "Decoding at a reduced size, not used: decode and resize, and the likeness (PSNR) to the mean over areas"
    columns = ["image", "reduced to", "whole", "reduced", "ratio", "likeness, whole", "likeness, reduced"]
    return table(title, columns, [reduced_row(size, side, repeats) for size, side in cases])
