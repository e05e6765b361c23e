"""What is read by its ending, and what files that are no images are called."""

from __future__ import annotations

import io
import re
import struct

import pytest
from PIL import Image, features

from detection.data.image_kinds import FORMATS, readable_endings, readable_formats, what_it_is


def test_formats_are_known_to_pillow() -> None:
    Image.init()
    assert set(FORMATS) - {"AVIF"} <= set(Image.OPEN)
    assert set(readable_formats()) <= set(FORMATS)


def test_every_ending_of_what_is_read() -> None:
    expected = (
        ".jpg .jpeg .jpe .jfif .mpo .png .apng .webp .bmp .dib .gif .tif .tiff .ppm .pgm .pbm .pnm .pfm .jp2 .j2k"
    )
    assert set(expected.split()) <= readable_endings()
    assert (".avif" in readable_endings()) == features.check("avif")
    assert readable_endings().isdisjoint({".eps", ".pdf", ".psd", ".mpg", ".ico", ".heic", ".npy", ".h5", ".json"})


@pytest.mark.parametrize("ending", sorted(readable_endings() - {".jpc", ".jpf", ".jpx", ".j2c", ".avifs"}))
def test_an_image_is_written_and_read_by_every_ending(ending: str) -> None:
    buffer = io.BytesIO()
    kind = Image.registered_extensions()[ending]
    Image.new("F" if ending == ".pfm" else "L", (20, 10)).save(buffer, kind)
    assert Image.open(io.BytesIO(buffer.getvalue()), formats=readable_formats()).size == (20, 10)


def heif(brand: bytes) -> bytes:
    return struct.pack(">I", 24) + b"ftyp" + brand + bytes(4) + b"mif1" + brand


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "git lfs pull"),
        (b"/annex/objects/SHA256E-s1--2.jpg\n", "git annex get"),
        (heif(b"heic"), "HEIC"),
        (heif(b"mif1"), "HEIC"),
        (heif(b"avif"), "newer Pillow"),
        (heif(b"crx "), "raw file"),
        (heif(b"isom"), "video.*ffmpeg"),
        (heif(b"qt  "), "video"),
        (b"RIFF\0\0\0\0AVI LIST", "video"),
        (b"\x1aE\xdf\xa3\x01", "video"),
        (b"%PDF-1.4\n", "PDF document"),
        (b"%!PS-Adobe-3.0 EPSF-3.0", "PostScript"),
        (b'<svg xmlns="http://www.w3.org/2000/svg">', "SVG drawing"),
        (b'<?xml version="1.0"?>\n<!-- drawn -->\n<svg>', "SVG drawing"),
        (b'\xef\xbb\xbf\n<?xml version="1.0"?><Error><Code>AccessDenied</Code>', "web page"),
        (b"<!DOCTYPE html>", "web page"),
        (b'{"message": "not found"}', "JSON"),
        (b"8BPS\0\1", "Photoshop"),
        (b"\xff\x0a\xfa", "JPEG XL"),
        (b"FUJIFILMCCD-RAW 0201", "raw file"),
        (b"\0\x05\x16\x07\0\2\0\0Mac OS X", "macOS.*leave it out"),
        (bytes(128) + b"DICM", "DICOM"),
        (b"name".ljust(257, b"\0") + b"ustar", "tar archive"),
        (b"PK\x03\x04", "ZIP archive"),
        (b"\xd0\xcf\x11\xe0", "Thumbs.db"),
        (bytes(512), "nothing but zeros"),
        (b"", "empty"),
    ],
)
def test_what_is_no_image_is_called_by_its_name(start: bytes, expected: str) -> None:
    found = what_it_is(start[:512])
    assert found.startswith(": it is ")
    assert re.search(expected, found)


@pytest.mark.parametrize("start", [b"hello", b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF89a", b"\0\0\0\x18fty"])
def test_nothing_is_said_of_what_nobody_knows(start: bytes) -> None:
    assert what_it_is(start) == ""
