"""The image formats that are read, their file extensions, and the first bytes of a file → what other kind it is."""

from __future__ import annotations

import functools
import os
from pathlib import PurePath

from PIL import Image

# Without formats whose reader starts another program, such as EPS. DIB: a BMP without its file header.
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "BMP", "DIB", "GIF", "TIFF", "PPM", "JPEG2000")

_CONVERT = "convert it to JPEG or PNG"
_RAW = f"a camera's raw file; develop it, that is, {_CONVERT} with the camera's own or another raw converter"
_VIDEO = "a video; extract its frames as images, for example with ffmpeg"
_DOCUMENT = f"not an image; {_CONVERT}, a file a page"

# The first bytes of files that are often mistaken for images. Checked after Pillow's readers of FORMATS have failed.
_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (
        b"version https://git-lfs.github.com/spec/",
        "a pointer of Git LFS, not the image itself; fetch the images by `git lfs pull` in that repository",
    ),
    (b"/annex/objects/", "a pointer of git-annex, not the image itself; fetch it by `git annex get`"),
    (b"%PDF-", f"a PDF document, {_DOCUMENT}"),
    (b"%!PS", f"PostScript, {_DOCUMENT}"),
    (b"\xc5\xd0\xd3\xc6", f"PostScript, {_DOCUMENT}"),
    (b"8BPS", f"a Photoshop document; {_CONVERT}"),
    (b"gimp xcf", f"a GIMP document; {_CONVERT}"),
    (b"\xff\x0a", f"a JPEG XL image, which is not read; {_CONVERT}"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", f"a JPEG XL image, which is not read; {_CONVERT}"),
    (b"v/1\x01", f"an OpenEXR image, which is not read; {_CONVERT}"),
    (b"#?RADIANCE", f"a Radiance HDR image, which is not read; {_CONVERT}"),
    (b"qoif", f"a QOI image, which is not read; {_CONVERT}"),
    (b"DDS ", f"a DirectDraw surface, which is not read; {_CONVERT}"),
    (b"\0\0\x01\0", f"an icon, which is not read; {_CONVERT}"),
    (b"icns", f"an icon, which is not read; {_CONVERT}"),
    (b"SIMPLE  =", f"a FITS file, which is not read; {_CONVERT}"),
    (b"\x89HDF\r\n\x1a\n", f"an HDF5 file; {_CONVERT}, a file an image"),
    (b"\x93NUMPY", f"a NumPy array; {_CONVERT}"),
    (b"FUJIFILMCCD-RAW", _RAW),
    (b"IIRO", _RAW),  # Olympus
    (b"IIRS", _RAW),
    (b"IIU\0", _RAW),  # Panasonic
    (b"\0MRM", _RAW),  # Minolta
    (b"\x1aE\xdf\xa3", _VIDEO),  # Matroska, WebM
    (b"\0\0\x01\xba", _VIDEO),  # MPEG
    (b"\0\0\x01\xb3", _VIDEO),
    (b"FLV\x01", _VIDEO),
    (b"OggS", _VIDEO),
    (b"\0\x05\x16\x07", "the note that macOS keeps beside a file (._…), not the file itself; leave it out"),
    (b"PK\x03\x04", "a ZIP archive; unpack it"),
    (b"\x1f\x8b", "a gzip archive; unpack it"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive; unpack it"),
    (b"Rar!", "a RAR archive; unpack it"),
    (b"\xd0\xcf\x11\xe0", "a document of Windows (Thumbs.db is one), not an image; leave it out"),
)
# ISO base media files: the brand that follows "ftyp"
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"mif2", b"msf1")
# Raw files that are TIFFs by their structure, whose first image is a small preview
# fmt: off
_RAW_ENDINGS = frozenset((
    ".3fr", ".arw", ".cr2", ".dcr", ".dng", ".erf", ".fff", ".iiq", ".k25", ".kdc",
    ".mef", ".mos", ".nef", ".nrw", ".pef", ".raw", ".rwl", ".sr2", ".srf", ".srw",
))
# fmt: on
_DNG_VERSION, _SUBFILE_TYPE, _SUB_IFDS = 50706, 254, 330


@functools.cache
def readable_formats() -> tuple[str, ...]:
    """Those of `FORMATS` that this build of Pillow reads."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


@functools.cache
def readable_endings() -> frozenset[str]:
    """The file extensions, in lower case with the dot, that Pillow registers for the formats that are read."""
    formats = (*readable_formats(), "MPO")  # MPO: a JPEG followed by another, opened by Pillow's JPEG reader
    return frozenset(ending for ending, name in Image.registered_extensions().items() if name in formats)


def is_raw(path: str | os.PathLike[str], header: Image.Image) -> bool:
    """Whether a file that was opened as a TIFF is a camera's raw file, of which only the preview would be read."""
    if header.format != "TIFF":
        return False
    tags = getattr(header, "tag_v2", {})
    preview = tags.get(_SUBFILE_TYPE, 0) == 1 and _SUB_IFDS in tags
    return _DNG_VERSION in tags or preview or PurePath(path).suffix.lower() in _RAW_ENDINGS


def what_it_is(start: bytes) -> str:
    """The first 512 bytes of a file that is not an image → ": it is …" with the remedy, or "" if unknown."""
    found = _what_it_is(start)
    return f": it is {found}" if found else ""


RAW_FILE = f": it is {_RAW}"


def _what_it_is(start: bytes) -> str:
    if not start:
        return "empty"
    if not start.strip(b"\0"):
        return "nothing but zeros, as a broken copy leaves; get it again"
    for signature, kind in _SIGNATURES:
        if start.startswith(signature):
            return kind
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith(b"<svg") or (text.startswith(b"<?xml") and b"<svg" in text):
        return f"an SVG drawing; {_CONVERT}"
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "a web page; was it the answer to a failed download?"
    if text.startswith((b"{", b"[")):
        return "text, JSON by its beginning, not an image"
    if start[128:132] == b"DICM":
        return f"a DICOM file; {_CONVERT}"
    if start[257:262] == b"ustar":
        return "a tar archive; unpack it"
    if start[4:8] == b"ftyp":
        return _of_brand(start[8:12])
    if start[:4] == b"RIFF" and start[8:12] == b"AVI ":
        return _VIDEO
    return ""


def _of_brand(brand: bytes) -> str:
    if brand in _HEIF_BRANDS:
        return f"a HEIC (HEIF) photo, which is not read; {_CONVERT} (phones and viewers export it)"
    if brand in (b"avif", b"avis"):
        return f"an AVIF image, which this build of Pillow does not read; install a newer Pillow, or {_CONVERT}"
    return _RAW if brand == b"crx " else _VIDEO
