"""An image file → uint8 RGB pixels (H, W, 3), or an error that names the file.

8-bit JPEG and PNG, grey or RGB, are decoded by OpenCV (several times faster than Pillow); everything else by Pillow,
which reads more formats. The size in a file's header is checked before anything is decoded.

Orientation: cameras store an image as the sensor recorded it and note in EXIF how to rotate it. Viewers and labelling
tools rotate it, so it is rotated here, unless the annotations' width and height fit only the image as stored.

Other kinds of pixels: alpha is blended with white; palettes are converted; 16-bit grey is scaled from 0–65535;
floating-point grey must lie in 0–1; of an animation the first frame is taken; CMYK is converted without a colour
profile, as Pillow does.

Memory: with the result and without the file itself, decoding takes at most 1.5 GiB, for any format.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import stat
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import IO

import numpy as np
from PIL import Image

from backbones.common.errors import UserError
from backbones.common.text import printable
from detection.data.image_kinds import RAW_FILE, is_raw, readable_formats, what_it_is
from detection.data.image_soundness import jpeg_scans, png_has_late_metadata, png_is_sound
from detection.data.orientation import is_as_stored, turn, turn_back
from detection.data.shards import MemberPath, open_file

try:
    import cv2
except ImportError:  # where only the runtime of exported files is installed; Pillow decodes to the same pixels
    cv2 = None  # type: ignore[assignment]

# Pillow's own limit above which it warns of a decompression bomb: a quarter of a GiB as RGB.
PIXEL_LIMIT = 89_478_485
ORIENTATION_TAG = 0x0112
_TILE_WIDTH, _TILE_LENGTH = 322, 323  # TIFF 6.0, section 15
FILE_LIMIT = 1 << 30  # bytes; an image of PIXEL_LIMIT pixels as uncompressed 16-bit RGB with alpha has 0.7 GiB
# A progressive JPEG has about ten scans; each covers all pixels. libtiff has the same limit (tif_jpeg.c,
# TIFF_JPEG_MAX_ALLOWED_SCAN_NUMBER).
SCAN_LIMIT = 100
# OpenJPEG decodes every component to 32 bits a pixel; with Pillow's copies 25 bytes a pixel, against 16 for the others.
_PIXEL_LIMITS = {"JPEG2000": 64_000_000}
_BAND = 1 << 22  # pixels that are converted at a time
_GREY_OF_16_BITS = np.rint(np.arange(65536) / 65535 * 255).astype(np.uint8)


class ImageError(UserError):
    """An image that cannot be used; the message names the file."""


def read_image(path: str | os.PathLike[str], size: tuple[int, int] | None = None) -> np.ndarray:
    """Decodes an image to uint8 RGB (H, W, 3), contiguous.

    size: (height, width) that the annotations state; decides whether the EXIF orientation is applied. None: apply it.

    Raises:
        ImageError: the file is missing, unreadable, no image, damaged, larger than `PIXEL_LIMIT` pixels, or of
        another size than `size`.
    """
    return _decode(path, _read(path), size)


def decode_image(data: bytes, name: str, pixel_limit: int = PIXEL_LIMIT) -> np.ndarray:
    """The content of an image file → its pixels, as `read_image` returns them.

    Args:
        name: what messages call the image; nothing of this name is opened.
        pixel_limit: the most pixels that are decoded; never more than `PIXEL_LIMIT`.

    Raises:
        ImageError: it is no image, damaged, or has more pixels.
    """
    return _decode(name, data, None, pixel_limit)


def _decode(
    path: str | os.PathLike[str], data: bytes, size: tuple[int, int] | None, pixel_limit: int = PIXEL_LIMIT
) -> np.ndarray:
    header = _open(path, io.BytesIO(data), pixel_limit)
    orientation = _orientation(header, io.BytesIO(data))
    upright = _upright_size(header, orientation)
    as_stored = size is not None and is_as_stored((size[0], size[1]), upright, orientation)
    if size is not None and tuple(size) != upright and not as_stored:
        raise ImageError(
            f"{_name(path)}: the image is {upright[1]}×{upright[0]} pixels (width × height), its annotations "
            f"say {size[1]}×{size[0]}; correct the annotations, or give the image that they were made on"
        )
    _check_whole(path, data, header)
    pixels = _decode_fast(data, header)
    if pixels is None:
        pixels = _decode_any(path, header)
    if _is_turned_by_pillow(header):
        return np.ascontiguousarray(turn_back(pixels, orientation) if as_stored else pixels)
    return np.ascontiguousarray(pixels if as_stored else turn(pixels, orientation))


def image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """(height, width) as `read_image` without `size` will return it, from the header alone. Raises ImageError."""
    return image_size_and_orientation(path)[0]


def image_sizes(paths: Sequence[str | os.PathLike[str]]) -> np.ndarray:
    """(height, width, orientation) of each file as `image_size_and_orientation` gives them, int64 (M, 3); zeros for a
    file that cannot be read. Several are read at once."""

    def size(path: str | os.PathLike[str]) -> tuple[int, int, int]:
        try:
            upright, orientation = image_size_and_orientation(path)
        except ImageError:
            return 0, 0, False
        return *upright, orientation

    with ThreadPoolExecutor(min(16, 4 * (os.cpu_count() or 1))) as pool:
        return np.array(list(pool.map(size, paths)), dtype=np.int64).reshape(-1, 3)


def image_size_and_orientation(path: str | os.PathLike[str]) -> tuple[tuple[int, int], int]:
    """`image_size`, and the orientation in EXIF, 1 to 8; from 5 on, it swaps the stored sides. Raises ImageError."""
    _check_file(path)
    with _error_of_file(path), open_file(path) as file:
        header = _open(path, file)
        orientation = _orientation(header, file)
        return _upright_size(header, orientation), orientation


def _name(path: str | os.PathLike[str]) -> str:
    """The file's name in messages."""
    return printable(os.fspath(path))


def rgb_over_white(image: Image.Image) -> np.ndarray:
    """A Pillow image of 8-bit samples as uint8 RGB (H, W, 3); transparent pixels are blended with white."""
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return np.array(image.convert("RGB"))


def _check_file(path: str | os.PathLike[str]) -> None:
    """Raises ImageError if there is no such file, or it is none that can be read."""
    with _error_of_file(path):
        status = os.stat(path.tar if isinstance(path, MemberPath) else path)
        size = path.size if isinstance(path, MemberPath) else status.st_size
        if not stat.S_ISREG(status.st_mode):  # opening a pipe could block for ever
            raise ImageError(f"{_name(path)}: is no file")
        if size > FILE_LIMIT:
            raise ImageError(f"{_name(path)}: has {size} bytes, more than the {FILE_LIMIT} accepted")


def _read(path: str | os.PathLike[str]) -> bytes:
    _check_file(path)
    with _error_of_file(path), open_file(path) as file:
        return file.read()


@contextlib.contextmanager
def _error_of_file(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turns the system's errors within the block into ImageError."""
    try:
        yield
    except ImageError:
        raise
    except FileNotFoundError as error:
        if os.path.islink(path):
            raise ImageError(f"{_name(path)}: is a link to {_name(os.readlink(path))}, which is not there") from error
        raise ImageError(f"{_name(path)}: no such image; is the image folder the right one?") from error
    except (OSError, ValueError) as error:
        raise ImageError(f"{_name(path)}: cannot be read ({getattr(error, 'strerror', None) or error})") from error


def _open(path: str | os.PathLike[str], file: IO[bytes], pixel_limit: int = PIXEL_LIMIT) -> Image.Image:
    """The image's header, with the pixels still undecoded."""
    try:
        header = Image.open(file, formats=readable_formats())
        width, height = max(header.size, _tile_size(header), key=math.prod)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ImageError(f"{_name(path)}: {str(error).split(', could be')[0]}; scale it down") from error
    except Exception as error:  # for a damaged header the readers raise almost anything
        file.seek(0)
        raise ImageError(
            f"{_name(path)}: is no image of a kind that can be read{what_it_is(file.read(512))}"
        ) from error
    if is_raw(path, header):
        raise ImageError(f"{_name(path)}: is no image of a kind that can be read{RAW_FILE}")
    of_format = _PIXEL_LIMITS.get(header.format or "", PIXEL_LIMIT)
    limit = min(of_format, pixel_limit)
    if width * height > limit:
        kind = f" of a {header.format}" if limit == of_format < PIXEL_LIMIT else ""
        raise ImageError(
            f"{_name(path)}: claims {width}×{height} pixels, more than the {limit} accepted{kind}; scale it down"
        )
    return header


def _tile_size(header: Image.Image) -> tuple[int, int]:
    """(width, height) of a TIFF's tiles, which are decoded whole and may be larger than the image; else (0, 0)."""
    tags = getattr(header, "tag_v2", {})
    return int(tags.get(_TILE_WIDTH, 0)), int(tags.get(_TILE_LENGTH, 0))


def _orientation(header: Image.Image, file: IO[bytes]) -> int:
    """The EXIF orientation, 1 to 8; 1 (as stored) if there is none or it is damaged."""
    try:
        # Pillow's PNG reader decodes all pixels to find EXIF after them.
        look_behind = header.format != "PNG" or png_has_late_metadata(file)
        exif = header.getexif() if look_behind else Image.Image.getexif(header)
        value = exif.get(ORIENTATION_TAG, 1)
    except Exception:  # damaged EXIF raises almost anything; the pixels may be sound
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _is_turned_by_pillow(header: Image.Image) -> bool:
    """Whether Pillow has applied the orientation: only its TIFF reader does (TiffImagePlugin.load_end), and its size is
    that of the upright image."""
    return header.format == "TIFF"


def _upright_size(header: Image.Image, orientation: int) -> tuple[int, int]:
    """(height, width) of the image after rotation."""
    swapped = orientation >= 5 and not _is_turned_by_pillow(header)
    return (header.width, header.height) if swapped else (header.height, header.width)


def _check_whole(path: str | os.PathLike[str], data: bytes, header: Image.Image) -> None:
    """Raises ImageError if a JPEG or PNG is truncated or damaged, which its decoder would only report on stderr, or if
    a JPEG has so many scans that decoding it would take minutes."""
    whole = True
    if header.format in ("JPEG", "MPO"):
        scans = jpeg_scans(data)
        whole = scans is not None
        if scans is not None and scans > SCAN_LIMIT:
            raise ImageError(
                f"{_name(path)}: the JPEG goes over its pixels {scans} times (progressive scans), more than the "
                f"{SCAN_LIMIT} accepted; save it again as a plain JPEG"
            )
    elif header.format == "PNG":
        whole = png_is_sound(data)
    if not whole:
        raise ImageError(f"{_name(path)}: the {header.format} is cut short or damaged; get it again")


def _decode_fast(data: bytes, header: Image.Image) -> np.ndarray | None:
    """OpenCV's decoding of the kinds that it decodes exactly; None for any other."""
    if cv2 is None or header.mode not in ("L", "RGB") or "transparency" in header.info:
        return None
    if header.format == "PNG" and data[24] != 8:  # bits a sample
        return None
    if header.format not in ("JPEG", "MPO", "PNG"):  # MPO: a JPEG followed by another
        return None
    pixels = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if pixels is None or pixels.shape[:2] != (header.height, header.width):
        return None  # Pillow decodes it or raises an error
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB, dst=pixels)


def _decode_any(path: str | os.PathLike[str], header: Image.Image) -> np.ndarray:
    """Pillow's decoding of any image to RGB, converted band by band: otherwise each step would need the memory of
    another whole image."""
    try:
        header.load()
        rows = max(1, _BAND // header.width)
        if rows >= header.height:
            return _to_rgb(header, header.format)
        pixels = np.empty((header.height, header.width, 3), dtype=np.uint8)
        for top in range(0, header.height, rows):
            bottom = min(top + rows, header.height)
            pixels[top:bottom] = _to_rgb(header.crop((0, top, header.width, bottom)), header.format)
        return pixels
    except _NoWhiteLevel:
        raise ImageError(f"{_name(path)}: its numbers have no known white level; save it with 8 bits a pixel") from None
    except Exception as error:  # decoders raise almost anything on damaged data
        raise ImageError(f"{_name(path)}: the {header.format} is damaged ({error}); get it again") from error


class _NoWhiteLevel(Exception):
    """Pixel values whose white level is unknown."""


def _to_rgb(image: Image.Image, kind: str | None) -> np.ndarray:
    """A decoded image, or some rows of one, from a file of this kind → uint8 RGB (H, W, 3)."""
    if image.mode.startswith("I;16") or (image.mode == "I" and kind in ("PNG", "PPM")):
        numbers = np.asarray(image)
        if numbers.min() < 0 or numbers.max() > 65535:
            raise _NoWhiteLevel
        grey = _GREY_OF_16_BITS[numbers]
        # Pillow's conversion to RGBA would saturate 16 bits. A PNG's tRNS is one grey level that is transparent.
        grey[numbers == image.info.get("transparency", -1)] = 255
    elif image.mode == "F":
        numbers = np.asarray(image).astype(np.float64)
        if not (numbers.min() >= 0 and numbers.max() <= 1):  # False for NaN
            raise _NoWhiteLevel
        grey = np.rint(numbers * 255).astype(np.uint8)
    elif image.mode == "I":
        raise _NoWhiteLevel
    else:
        return rgb_over_white(image)
    return np.repeat(grey[:, :, None], 3, axis=2)
