"""A TIFF of any size → the pixels of windows, uint8 RGB (h, w, 3), in the memory of one window.

By the package tifffile, which is imported on use only. Of a file with tiles, those are decoded that a window touches;
of a file with strips, whose width is the image's, those of its rows. What the next window touches too is kept for it.
Pixels are converted as `detection.data.images` does.
"""

from __future__ import annotations

import importlib
import itertools
import os
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from backbones.common.text import printable
from detection.data.images import PIXEL_LIMIT, ImageError

ENDINGS = {".tif", ".tiff"}
COMMAND = "pip install tifffile imagecodecs"  # the extra `tiff`
_ROWS = 64  # of an uncompressed image in one piece that are read at once


class TiffWindows:
    """An open TIFF; `image[y0:y1, x0:x1]` reads a window, as of an array. The first image of the file is taken.

    Attributes:
        shape: (H, W, 3).

    Raises:
        ImageError: the file cannot be read, is no TIFF or damaged, or its pixels are of a kind that is not converted;

    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._name = printable(os.fspath(path))
        try:
            tifffile: Any = importlib.import_module("tifffile")
        except ImportError as error:
            raise ImageError(
                f"{self._name}: {error.name} is not installed, which reads large TIFFs; run: {COMMAND}"
            ) from None
        try:
            self._file = tifffile.TiffFile(path)
            self._page = self._file.pages[0]
        except Exception as error:  # for a damaged header it raises almost anything
            raise ImageError(f"{self._name}: cannot be read as a TIFF ({error})") from error
        try:
            self._samples = int(self._page.samplesperpixel)
            self._convert = self._conversion()
            self._prepare_grid()
        except BaseException:
            self._file.close()
            raise
        self.shape = (int(self._page.imagelength), int(self._page.imagewidth), 3)
        self._decoded: dict[int, np.ndarray] = {}

    def __enter__(self) -> TiffWindows:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._decoded.clear()
        self._file.close()

    def __getitem__(self, place: tuple[slice, slice]) -> np.ndarray:
        """The pixels of a window within the image. Raises ImageError where the file is damaged."""
        rows, columns = place
        window = np.zeros((rows.stop - rows.start, columns.stop - columns.start, self._samples), self._page.dtype)
        height, width = self._segment
        across = range(columns.start // width, -(-columns.stop // width))
        down = range(rows.start // height, -(-rows.stop // height))
        needed = {
            (plane * self._down + row) * self._across + column: (plane, row * height - rows.start, column * width)
            for plane, row, column in itertools.product(range(self._planes), down, across)
        }
        self._decoded = {index: segment for index, segment in self._decoded.items() if index in needed}
        for index, (plane, top, left) in needed.items():
            if index not in self._decoded:
                self._decoded[index] = self._decode(index)
            left -= columns.start
            target = window[max(0, top) : top + height, max(0, left) : left + width]
            part = self._decoded[index][max(0, -top) :, max(0, -left) :][: target.shape[0], : target.shape[1]]
            target[: part.shape[0], : part.shape[1], plane : plane + part.shape[2]] = part
        return self._convert(window)

    def _prepare_grid(self) -> None:
        page = self._page
        length, width = int(page.imagelength), int(page.imagewidth)
        self._is_one_piece = bool(page.is_contiguous) and not page.is_tiled and page.planarconfig == 1
        if self._is_one_piece:
            self._segment = (_ROWS, width)
        elif page.is_tiled:
            self._segment = (int(page.tilelength), int(page.tilewidth))
        else:
            self._segment = (min(int(page.rowsperstrip), length), width)
        if self._segment[0] * self._segment[1] > PIXEL_LIMIT:
            raise ImageError(
                f"{self._name}: is stored in pieces of {self._segment[1]}×{self._segment[0]} pixels, more than the "
                f"{PIXEL_LIMIT} accepted; save it with tiles (for example: gdal_translate -co TILED=YES)"
            )
        self._down, self._across = -(-length // self._segment[0]), -(-width // self._segment[1])
        self._planes = self._samples if page.planarconfig == 2 else 1

    def _decode(self, index: int) -> np.ndarray:
        """A tile, strip, or some rows: (h, w, samples of a plane)."""
        page, file = self._page, self._file.filehandle
        try:
            if self._is_one_piece:
                row = self._segment[1] * self._samples * page.dtype.itemsize
                first = index * self._segment[0]
                count = min(self._segment[0], page.imagelength - first)
                file.seek(page.dataoffsets[0] + first * row)
                data = file.read(count * row)
                pixels = np.frombuffer(data, page.dtype.newbyteorder(self._file.byteorder))
                return pixels.reshape(count, self._segment[1], self._samples)
            if page.databytecounts[index] == 0:  # a sparse file
                return np.zeros((1, 1, 1), page.dtype)
            file.seek(page.dataoffsets[index])
            data = file.read(page.databytecounts[index])
            segment = page.decode(data, index, jpegtables=page.jpegtables)[0]
            return np.asarray(segment).reshape(segment.shape[-3:])
        except Exception as error:  # decoders raise almost anything on damaged data
            raise ImageError(f"{self._name}: is damaged, or stored in a way that is not read ({error})") from error

    def _conversion(self) -> Any:
        """The function that makes uint8 RGB of samples (h, w, S).

        Raises:
            ImageError: there is none.
        """
        page = self._page
        kind, samples, photometric = np.dtype(page.dtype), self._samples, int(page.photometric)
        turned = int(page.tags.valueof(274, 1))
        if turned != 1:
            raise ImageError(f"{self._name}: is stored turned (orientation {turned}); save it upright")
        extra = [int(value) for value in page.extrasamples]
        colors = samples - len(extra)
        if photometric == 3 and kind == np.uint8 and colors == 1:
            table = np.ascontiguousarray((page.colormap >> 8).astype(np.uint8).T)
            return lambda pixels: table[pixels[:, :, 0]]
        grey, rgb = photometric in (0, 1) and colors == 1, photometric in (2, 6) and colors == 3
        if kind not in (np.uint8, np.uint16, np.bool_) or len(extra) > 1 or not (grey or rgb):
            raise ImageError(
                f"{self._name}: its pixels have {samples} samples of {kind} ({page.photometric!r:.40}); save it as "
                "grey or RGB with 8 or 16 bits"
            )
        is_inverse = photometric == 0
        has_alpha = any(value in (1, 2) for value in extra[:1])

        def convert(pixels: np.ndarray) -> np.ndarray:
            if kind == np.uint16:
                pixels = np.rint(pixels * np.float32(255 / 65535)).astype(np.uint8)
            elif kind == np.bool_:
                pixels = pixels * np.uint8(255)
            color = 255 - pixels[:, :, :colors] if is_inverse else pixels[:, :, :colors]
            if has_alpha:
                alpha = pixels[:, :, colors : colors + 1].astype(np.uint16)
                share = color.astype(np.uint16) if extra[0] == 1 else (color.astype(np.uint16) * alpha + 127) // 255
                color = np.minimum(share + 255 - alpha, 255).astype(np.uint8)
            return np.ascontiguousarray(np.broadcast_to(color, (*color.shape[:2], 3)))

        return convert


def is_tiff(path: Path) -> bool:
    """Whether the file has the ending of a TIFF."""
    return path.suffix.lower() in ENDINGS
