"""Named arrays ↔ one file of any size in safetensors' layout, written in pieces and read by memory mapping.

The layout: 8 bytes, the header's length (little-endian); a JSON header {name: {"dtype", "shape", "data_offsets"},
"__metadata__": {text: text}}; then the arrays' bytes, without gaps. `safetensors.safe_open` reads the files too, but
that library cannot write a file larger than memory.

The metadata hold a CRC-32 of every `SUM_BLOCK` bytes of the arrays, and one of the header itself. A CRC-32 detects
every single flipped bit and every burst error of up to 32 bits, and is computed as fast as a disk reads.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import threading
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from backbones.common.errors import UserError
from backbones.common.files import require_plain_file

_DTYPES: dict[str, np.dtype] = {
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
    "I32": np.dtype("<i4"),
    "I64": np.dtype("<i8"),
    "U8": np.dtype("u1"),
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
HEADER_LIMIT = 1 << 24  # bytes; the checksums of a terabyte take 2 MB
_MOST_DIMENSIONS = 8
SUM_BLOCK = 1 << 22  # bytes
_THREADS = min(8, os.cpu_count() or 1)
_TOGETHER = 256  # blocks that are given to the threads at once: after damage, no more are read than these
_SUMS, _HAS_SUMS = "__sums__", "__has_sums__"  # the second detects damage to the first's name


class NoChecksums(Exception):
    """The file has no checksums: an earlier release wrote it."""


@dataclass(frozen=True)
class Place:
    """Where an array lies: dtype, shape, and the byte of the file it starts at."""

    dtype: np.dtype
    shape: tuple[int, ...]
    start: int

    @property
    def size(self) -> int:
        """Its bytes."""
        return self.dtype.itemsize * math.prod(self.shape)


def make_header(
    arrays: Mapping[str, tuple[Any, tuple[int, ...]]], metadata: Mapping[str, Any]
) -> tuple[bytes, dict[str, Place]]:
    """Name → (dtype, shape) of the arrays → the file's first bytes, and the place of each array.

    The checksums in it are zeros. `seal` fills them in once the arrays are written.

    metadata: JSON-able values; each is stored as JSON text, since the layout allows only text.
    """
    places, end = {}, 0
    for name, (dtype, shape) in arrays.items():
        places[name] = Place(np.dtype(dtype), tuple(shape), end)
        end += places[name].size
    zeros = {"block": SUM_BLOCK, "crc32": "0" * 8 * -(-end // SUM_BLOCK), "header": "0" * 8}
    texts = {key: json.dumps(value, sort_keys=True) for key, value in metadata.items()}
    entries: dict[str, Any] = {
        "__metadata__": {**texts, _HAS_SUMS: "true", _SUMS: json.dumps(zeros, sort_keys=True)},
        **{
            name: {
                "dtype": _NAMES[place.dtype],
                "shape": list(place.shape),
                "data_offsets": [place.start, place.start + place.size],
            }
            for name, place in places.items()
        },
    }
    text = _header_text(entries)
    first = len(text).to_bytes(8, "little") + text
    return first, {name: replace(place, start=len(first) + place.start) for name, place in places.items()}


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, Any]) -> None:
    """Writes a whole file at once."""
    header, _ = make_header({name: (array.dtype, array.shape) for name, array in arrays.items()}, metadata)
    with path.open("wb") as file:
        file.write(header)
        for array in arrays.values():
            file.write(np.ascontiguousarray(array).data)
    seal(path)


def seal(path: str | os.PathLike[str]) -> None:
    """Computes the checksums of a complete file that begins with `make_header`'s bytes, and writes them into it."""
    with open(path, "r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        entries = json.loads(file.read(length))
        sums = json.loads(entries["__metadata__"][_SUMS])
        sums["crc32"] = "".join(_block_sums(Path(path), 8 + length, sums["block"]))
        text = _with_sums(entries, sums)
        sums["header"] = f"{zlib.crc32(text):08x}"
        file.seek(8)
        file.write(_with_sums(entries, sums))


def find_damage(path: str | os.PathLike[str]) -> tuple[int, int] | None:
    """The first damaged range of bytes (begin, end) in a file's arrays; None if there is none.

    Reads the whole file once, in pieces.

    Raises:
        UserError: the file cannot be read.
        NoChecksums: it has none.
    """
    entries, first = _read_entries(Path(path))
    metadata = entries["__metadata__"]
    if _SUMS not in metadata:
        raise NoChecksums(path)
    sums = json.loads(metadata[_SUMS])
    block, stated = sums["block"], sums["crc32"]
    for number, found in enumerate(_block_sums(Path(path), first, block)):
        if stated[8 * number : 8 * number + 8] != found:
            return first + number * block, first + (number + 1) * block
    return None


def read_header(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Place]]:
    """(metadata, places of the arrays), after a check of the header and of the file's length.

    Raises:
        UserError: the file is missing, unreadable, of another kind, damaged in its header, or cut short.
    """
    path = Path(path)
    entries, first = _read_entries(path)
    try:
        texts = entries.pop("__metadata__")
        metadata = {key: json.loads(value) for key, value in texts.items() if key not in (_SUMS, _HAS_SUMS)}
        places: dict[str, Place] = {}
        end = first
        for name, entry in entries.items():
            shape = tuple(entry["shape"])
            if len(shape) > _MOST_DIMENSIONS or not all(type(n) is int and 0 <= n < 2**62 for n in shape):
                raise ValueError(name)
            place = Place(_DTYPES[entry["dtype"]], shape, end)
            end += place.size
            if entry["data_offsets"] != [place.start - first, end - first]:
                raise ValueError(name)
            places[name] = place
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _header_error(path) from error
    length = path.stat().st_size
    if end != length:
        raise UserError(
            f"{path}: has {length} bytes where its header announces {end}: it was cut short or damaged; make it anew"
        )
    return metadata, places


def _read_entries(path: Path) -> tuple[dict[str, Any], int]:
    """The header as JSON, and the byte at which the arrays begin; its own checksum is compared, if it has one."""
    try:
        require_plain_file(path)
        with path.open("rb") as file:
            length = path.stat().st_size
            header_length = int.from_bytes(file.read(8), "little")
            text = file.read(header_length) if header_length <= min(length - 8, HEADER_LIMIT) else b""
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    try:
        entries = json.loads(text)
        metadata = entries["__metadata__"]
        if _SUMS in metadata or _HAS_SUMS in metadata:
            sums = json.loads(metadata[_SUMS])
            block, stated = sums["block"], sums["crc32"]
            zeroed = _with_sums(entries, {**sums, "header": "0" * 8})
            sound = metadata[_HAS_SUMS] == "true" and type(block) is int and 0 < block <= HEADER_LIMIT
            sound = sound and isinstance(stated, str) and len(stated) == 8 * -(-(length - 8 - header_length) // block)
            # Compares the text itself, not the parsed JSON, so that every changed byte is detected.
            if not (sound and sums["header"] == f"{zlib.crc32(zeroed):08x}" and _with_sums(entries, sums) == text):
                raise ValueError("checksum")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _header_error(path) from error
    return entries, 8 + header_length


def _block_sums(path: Path, first: int, block: int) -> Iterator[str]:
    """The CRC-32 of each block from the byte `first` to the file's end, in hex. A few threads share the work: the time
    is the disk's, or the memory's, not that of one processor."""
    length = path.stat().st_size
    buffers = threading.local()

    def crc(begin: int) -> int:
        if not hasattr(buffers, "own"):
            buffers.own = memoryview(bytearray(block))
        with open(path, "rb", buffering=0) as file:
            file.seek(begin)
            wanted, filled = min(block, length - begin), 0
            while filled < wanted and (count := file.readinto(buffers.own[filled:wanted])):
                filled += count
        return zlib.crc32(buffers.own[:filled])

    begins = range(first, length, block)
    with ThreadPoolExecutor(_THREADS) as pool:
        for start in range(0, len(begins), _TOGETHER):
            yield from (f"{value:08x}" for value in pool.map(crc, begins[start : start + _TOGETHER]))


def _with_sums(entries: dict[str, Any], sums: Mapping[str, Any]) -> bytes:
    entries["__metadata__"][_SUMS] = json.dumps(sums, sort_keys=True)
    return _header_text(entries)


def _header_text(entries: Mapping[str, Any]) -> bytes:
    text = json.dumps(entries).encode()
    return text + b" " * (-len(text) % 8)  # so that the arrays are aligned


def _header_error(path: Path) -> UserError:
    return UserError(f"{path}: is damaged or of another kind: its header makes no sense; make it anew")


def map_array(path: str | os.PathLike[str], place: Place, mode: Literal["r", "c"] = "r") -> np.ndarray:
    """The array as a memory map: only accessed pages are read. mode: "r": it is read-only; "c": what is written to it
    stays in this process."""
    if place.size == 0:
        return np.zeros(place.shape, dtype=place.dtype)
    return np.memmap(path, dtype=place.dtype, mode=mode, offset=place.start, shape=place.shape)


def read_sparingly(array: np.ndarray) -> None:
    """Tells the system, where it can be told, that a mapped array is read at random places. By itself it would read as
    much of the file around each as the disk's read-ahead is set to, several MB on some."""
    mapped = array.base
    if isinstance(mapped, mmap.mmap) and hasattr(mmap, "MADV_RANDOM"):
        mapped.madvise(mmap.MADV_RANDOM)


def fetch(array: np.ndarray, begin: int, end: int) -> None:
    """Asks the system to read these rows of a mapped array in one piece, rather than page by page as they are used."""
    mapped = array.base
    if (
        isinstance(array, np.memmap)
        and isinstance(mapped, mmap.mmap)
        and hasattr(mmap, "MADV_WILLNEED")
        and end > begin
    ):
        row = array.itemsize * math.prod(array.shape[1:])
        first = array.offset % mmap.ALLOCATIONGRANULARITY + begin * row  # in the map, which begins at a page
        page = first - first % mmap.PAGESIZE
        mapped.madvise(mmap.MADV_WILLNEED, page, first + (end - begin) * row - page)


@dataclass(frozen=True)
class MappedPart:
    """A part of a file that a process maps; it stands for the array where that is pickled, because NumPy would copy the
    bytes. What the process wrote to a map of its own is not in it."""

    path: str
    place: Place

    @classmethod
    def of(cls, array: np.ndarray) -> MappedPart | None:
        """The part that an array is a view of; None for any other array."""
        base = array.base
        if not isinstance(base, np.memmap) or not array.flags.c_contiguous or array.size == 0:
            return None
        start = base.offset + array.ctypes.data - base.ctypes.data
        return cls(str(base.filename), Place(array.dtype, array.shape, start))

    def array(self) -> np.ndarray:
        """The array, mapped again."""
        return np.asarray(map_array(self.path, self.place, "c"))
