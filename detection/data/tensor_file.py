"""Named arrays in one file, of any size: safetensors' layout, written piece by piece and read through the page cache.

The layout: 8 bytes, the header's length (little-endian); a JSON header {name: {"dtype", "shape", "data_offsets"},
"__metadata__": {text: text}}; then the arrays' bytes end to end. `safetensors.safe_open` reads the files too; that
library cannot write one larger than memory.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from backbones.common.errors import UserError

_DTYPES: dict[str, np.dtype] = {
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
    "I32": np.dtype("<i4"),
    "I64": np.dtype("<i8"),
    "U8": np.dtype("u1"),
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_HEADER_LIMIT = 100_000_000  # bytes; safetensors' own limit


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
    """The file's first bytes for arrays given as name → (dtype, shape), and where each array then belongs.

    metadata: JSON-able values; each is kept as JSON text, since the layout knows text alone.
    """
    texts = {key: json.dumps(value, sort_keys=True) for key, value in metadata.items()}
    entries: dict[str, Any] = {"__metadata__": texts}
    places, end = {}, 0
    for name, (dtype, shape) in arrays.items():
        places[name] = Place(np.dtype(dtype), tuple(shape), end)
        begin, end = end, end + places[name].size
        entries[name] = {"dtype": _NAMES[np.dtype(dtype)], "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)  # so that the arrays are aligned
    first = len(text).to_bytes(8, "little") + text
    return first, {name: replace(place, start=len(first) + place.start) for name, place in places.items()}


def read_header(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Place]]:
    """(metadata, places of the arrays), after checking that the header is sound and the file as long as it says.

    Raises:
        UserError: the file is missing, unreadable, of another kind, or cut short.
    """
    path = Path(path)
    try:
        length = path.stat().st_size
        with path.open("rb") as file:
            header_length = int.from_bytes(file.read(8), "little")
            text = file.read(header_length) if header_length <= min(length - 8, _HEADER_LIMIT) else b""
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    first = 8 + header_length
    try:
        entries = json.loads(text)
        metadata = {key: json.loads(value) for key, value in entries.pop("__metadata__").items()}
        places: dict[str, Place] = {}
        end = first
        for name, entry in entries.items():
            place = Place(_DTYPES[entry["dtype"]], tuple(map(int, entry["shape"])), end)
            end += place.size
            if min(place.shape, default=0) < 0 or entry["data_offsets"] != [place.start - first, end - first]:
                raise ValueError(name)
            places[name] = place
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path}: is damaged or of another kind: its header makes no sense; make it anew") from error
    if end != length:
        raise UserError(
            f"{path}: has {length} bytes where its header announces {end}: it was cut short or damaged; make it anew"
        )
    return metadata, places


def map_array(path: str | os.PathLike[str], place: Place) -> np.ndarray:
    """The array as a read-only memory map: only what is touched is read."""
    if place.size == 0:
        return np.zeros(place.shape, dtype=place.dtype)
    return np.memmap(path, dtype=place.dtype, mode="r", offset=place.start, shape=place.shape)
