"""The bytes of a JPEG or PNG → whether they are complete and undamaged, and the number of a JPEG's scans.

For a truncated or damaged file, the decoders only print a line to stderr and fill in arbitrary pixels.
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Iterator
from typing import IO

# In a JPEG's scans a byte 255 is followed by 0, or is a restart marker; any other marker ends them.
_MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])", re.DOTALL)
# Frames and their tables, SOS, DQT, DNL, DRI, APP0 … APP15, COM
_SEGMENTS = frozenset(bytes([code]) for code in (*range(0xC0, 0xD0), *range(0xDA, 0xDE), *range(0xE0, 0xF0), 0xFE))
_START_OF_SCAN = b"\xda"


def jpeg_scans(data: bytes) -> int | None:
    """The number of a JPEG's scans; None if it is cut short or damaged.

    It is sound if it consists of nothing but scans and permitted segments up to the end marker (ITU-T T.81, annex B). A
    thumbnail in EXIF, with an end marker of its own, lies within a segment.

    Overwritten data usually contains a marker that is not permitted. If it contains none, it decodes to wrong pixels
    without an error, and this cannot be detected.
    """
    scans = 0
    found = _MARKER.search(data, 2)
    while found and found[1] in _SEGMENTS:
        scans += found[1] == _START_OF_SCAN
        found = _MARKER.search(data, found.end() + int.from_bytes(data[found.end() : found.end() + 2], "big"))
    return scans if found is not None and found[1] == b"\xd9" else None


def png_is_sound(data: bytes) -> bool:
    """Whether all chunks are present and the checksums of the critical ones (capital first letter) are correct."""
    for kind, start, end in _chunks(data):
        if kind[:1].isupper() and int.from_bytes(data[end : end + 4], "big") != zlib.crc32(
            memoryview(data)[start - 4 : end]
        ):
            return False
        if kind == b"IEND":
            return True
    return False


def png_has_late_metadata(file: IO[bytes]) -> bool:
    """Whether text or EXIF follows a PNG's pixels; Pillow finds it only after decoding them. Reads the chunks' heads
    alone; the file's position stays."""
    before, pixels = file.tell(), False
    file.seek(8)
    while len(head := file.read(8)) == 8:
        pixels |= head[4:] == b"IDAT"
        if pixels and head[4:] in (b"eXIf", b"tEXt", b"zTXt", b"iTXt"):
            break
        file.seek(int.from_bytes(head[:4], "big") + 4, os.SEEK_CUR)
    file.seek(before)
    return len(head) == 8


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(kind, start, end of the content) of each complete chunk; the last one's checksum may be missing."""
    position = 8
    while position + 12 <= len(data):
        start = position + 8
        end = start + int.from_bytes(data[position : position + 4], "big")
        yield data[position + 4 : start], start, end
        position = end + 4
