"""An image file → uint8 RGB pixels (H, W, 3), or an error that names the file.

8-bit JPEG and PNG, grey or RGB, are decoded by OpenCV (several times faster than Pillow); everything else by Pillow,
which knows more kinds. What a file claims in its header is checked before anything is decoded.

Orientation: cameras store an image as the sensor saw it and note in EXIF how to turn it. Viewers and labelling tools
turn it, so it is turned here, unless the annotations' width and height fit only the image as stored: the annotations
decide.

Other kinds of pixels: alpha is laid over white; palettes are looked up; 16-bit grey is scaled from 0–65535;
floating-point grey must lie in 0–1; of an animation the first frame is taken; CMYK is converted without a colour
profile, as Pillow does.
"""

from __future__ import annotations

import functools
import io
import os
import re
import stat
import zlib

import cv2
import numpy as np
from PIL import Image

from backbones.common.errors import UserError

# Pillow's own bound for what is not yet suspected to be a decompression bomb: a quarter of a GiB as RGB.
PIXEL_LIMIT = 89_478_485
# No reader that starts another program, as Pillow's for EPS does.
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "BMP", "GIF", "TIFF", "PPM", "JPEG2000")
ORIENTATION_TAG = 0x0112
FILE_LIMIT = 1 << 30  # bytes; an image of PIXEL_LIMIT pixels as uncompressed 16-bit RGB with alpha has 0.7 GiB
# In a JPEG's scans a byte 255 is followed by 0, or is a restart marker; any other marker ends them.
_MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])", re.DOTALL)
# Frames and their tables, SOS, DQT, DNL, DRI, APP0 … APP15, COM
_SEGMENTS = frozenset(bytes([code]) for code in (*range(0xC0, 0xD0), *range(0xDA, 0xDE), *range(0xE0, 0xF0), 0xFE))


class ImageError(UserError):
    """An image that cannot be used; the message names the file."""


def read_image(path: str | os.PathLike[str], size: tuple[int, int] | None = None) -> np.ndarray:
    """Decodes an image to uint8 RGB (H, W, 3), contiguous.

    size: (height, width) that the annotations state; decides whether the EXIF orientation is applied. None: it is.

    Raises:
        ImageError: the file is missing, unreadable, no image, damaged, larger than `PIXEL_LIMIT` pixels, or of
        another size than `size`.
    """
    data = _read(path)
    header = _open(path, data)
    orientation = _orientation(header)
    stored = (header.height, header.width)
    turned = stored[::-1] if orientation >= 5 else stored
    if size is not None and tuple(size) != turned:
        if tuple(size) != stored:
            raise ImageError(
                f"{os.fspath(path)}: the image is {turned[1]}×{turned[0]} pixels (width × height), its annotations "
                f"say {size[1]}×{size[0]}; correct the annotations, or give the image that they were made on"
            )
        orientation = 1
    _check_whole(path, data, header)
    pixels = _decode_fast(data, header)
    if pixels is None:
        pixels = _decode_any(path, header)
    return np.ascontiguousarray(_turn(pixels, orientation))


def image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """(height, width) as `read_image` without `size` will return it, from the header alone. Raises ImageError."""
    header = _open(path, _read(path))
    return (header.width, header.height) if _orientation(header) >= 5 else (header.height, header.width)


def rgb_over_white(image: Image.Image) -> np.ndarray:
    """A Pillow image of 8-bit samples as uint8 RGB (H, W, 3); what is transparent is laid over white."""
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return np.array(image.convert("RGB"))


def _read(path: str | os.PathLike[str]) -> bytes:
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):  # opening a pipe could wait for ever
            raise ImageError(f"{os.fspath(path)}: is no file")
        if status.st_size > FILE_LIMIT:
            raise ImageError(f"{os.fspath(path)}: has {status.st_size} bytes, more than the {FILE_LIMIT} accepted")
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError as error:
        raise ImageError(f"{os.fspath(path)}: no such image; is the image folder the right one?") from error
    except (OSError, ValueError) as error:
        raise ImageError(
            f"{os.fspath(path)}: cannot be read ({getattr(error, 'strerror', None) or error})"
        ) from error


@functools.cache
def _formats() -> tuple[str, ...]:
    """Those of `FORMATS` that this build of Pillow reads."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _open(path: str | os.PathLike[str], data: bytes) -> Image.Image:
    """The image's header, with the pixels still undecoded."""
    try:
        header = Image.open(io.BytesIO(data), formats=_formats())
        width, height = header.size
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ImageError(f"{os.fspath(path)}: {str(error).split(', could be')[0]}; scale it down") from error
    except Exception as error:  # a damaged header makes the readers raise almost anything
        raise ImageError(
            f"{os.fspath(path)}: is no image of a kind that can be read{_guess(data[:512])}"
        ) from error
    if width * height > PIXEL_LIMIT:
        raise ImageError(
            f"{os.fspath(path)}: claims {width}×{height} pixels, more than the {PIXEL_LIMIT} accepted; scale it down"
        )
    return header


def _guess(start: bytes) -> str:
    """What a file that is no image may be instead."""
    if not start:
        return ": it is empty"
    if start.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        return ": it is a web page; was it the answer to a failed download?"
    return ""


def _orientation(header: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 (as stored) if there is none or it is damaged."""
    try:
        value = header.getexif().get(ORIENTATION_TAG, 1)
    except Exception:  # damaged EXIF raises almost anything, and says nothing against the pixels
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _turn(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """The stored pixels as they are to be seen (Exif 2.3, table 6: the tag names where row 0 and column 0 belong)."""
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def _check_whole(path: str | os.PathLike[str], data: bytes, header: Image.Image) -> None:
    """Raises if a JPEG or PNG is cut short or damaged where its decoder would print a line and fill in something."""
    if header.format in ("JPEG", "MPO"):
        whole = _jpeg_is_sound(data)
    else:
        whole = header.format != "PNG" or _png_is_sound(data)
    if not whole:
        raise ImageError(f"{os.fspath(path)}: the {header.format} is cut short or damaged; get it again")


def _decode_fast(data: bytes, header: Image.Image) -> np.ndarray | None:
    """OpenCV's decoding of the kinds that it decodes exactly; None for any other."""
    if header.mode not in ("L", "RGB") or "transparency" in header.info:
        return None
    if header.format == "PNG" and data[24] != 8:  # bits a sample
        return None
    if header.format not in ("JPEG", "MPO", "PNG"):  # MPO: a JPEG with another behind it
        return None
    pixels = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if pixels is None or pixels.shape[:2] != (header.height, header.width):
        return None  # Pillow decodes it, or says what is wrong
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB, dst=pixels)


def _jpeg_is_sound(data: bytes) -> bool:
    """Whether the end marker is reached with nothing on the way but scans and the segments that may stand there
    (ITU-T T.81, annex B). A thumbnail in EXIF, with an end marker of its own, lies within a segment.

    Data that was overwritten mostly holds a marker that cannot stand there. Where it happens to hold none, it decodes
    to wrong pixels, and nothing can tell.
    """
    found = _MARKER.search(data, 2)
    while found and found[1] in _SEGMENTS:
        found = _MARKER.search(data, found.end() + int.from_bytes(data[found.end() : found.end() + 2], "big"))
    return found is not None and found[1] == b"\xd9"


def _png_is_sound(data: bytes) -> bool:
    """Whether all chunks are there and those without which there is no image (capital letter) fit their checksums."""
    view, position = memoryview(data), 8
    while position + 12 <= len(data):
        end = position + 8 + int.from_bytes(view[position : position + 4], "big")
        critical = data[position + 4 : position + 5].isupper()
        if critical and int.from_bytes(view[end : end + 4], "big") != zlib.crc32(view[position + 4 : end]):
            return False
        if view[position + 4 : position + 8] == b"IEND":
            return True
        position = end + 4
    return False


def _decode_any(path: str | os.PathLike[str], header: Image.Image) -> np.ndarray:
    """Pillow's decoding of any kind of image to RGB."""
    try:
        header.load()
        if header.has_transparency_data:
            return rgb_over_white(header)
        if header.mode.startswith("I;16") or (header.mode == "I" and header.format in ("PNG", "PPM")):
            grey = np.asarray(header).astype(np.float64) / 65535
        elif header.mode in ("I", "F"):
            grey = np.asarray(header).astype(np.float64)
        else:
            return rgb_over_white(header)
    except Exception as error:  # decoders raise almost anything on damaged data
        raise ImageError(f"{os.fspath(path)}: the {header.format} is damaged ({error}); get it again") from error
    if (header.mode == "I" and header.format == "TIFF") or not (grey.min() >= 0 and grey.max() <= 1):
        raise ImageError(f"{os.fspath(path)}: its numbers have no known white level; save it with 8 bits a pixel")
    return np.repeat(np.rint(grey * 255).astype(np.uint8)[:, :, None], 3, axis=2)
