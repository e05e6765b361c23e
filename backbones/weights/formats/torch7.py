"""Files of Torch7's `torch.save` (.t7, binary) → tables, numbers, strings, tensors and named objects.

The format (torch7's File.lua, Tensor.lua and the C code below them): little-endian, an object is an int32 tag and

    0 nil       nothing
    1 number    float64
    2 string    int32 length, bytes
    3 table     int32 index, int32 count, count × (object, object)
    4 torch     int32 index, string "V 1", string class name, then the class's data: a tensor its dimensions, a
                storage its numbers, every other class one table of its fields
    5 boolean   int32
    6 7 8       a Lua function: (int32 index but for 6,) string of bytecode, object of upvalues

where an index that occurred before has nothing after it and refers to the object read then. No code is called: a class
is a name, a function is skipped. Counts and sizes are compared with the rest of the file before memory is taken, and
tensors are views of their storages.
"""

from __future__ import annotations

import mmap
import os
import re
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...common.errors import UserError

DEEPEST = 128  # levels of nesting; ResNeXt needs about 20
MOST_DIMENSIONS = 16
MOST_OBJECTS = 1_000_000  # ResNeXt-101 has 50,000, numbers among them; each takes more memory here than in the file

_TENSOR = re.compile(r"torch\.(Cuda)?(\w*?)(Tensor|Storage)")
_NUMBER_TYPES = {
    "Double": "<f8", "Float": "<f4", "Half": "<f2",
    "Long": "<i8", "Int": "<i4", "Short": "<i2", "Char": "<i1", "Byte": "<u1",
    "": "<f4",  # torch.CudaTensor
}  # fmt: skip


@dataclass
class Object:
    """An object of a class written in Lua: the class's name and the object's fields."""

    class_name: str
    fields: dict[Any, Any] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """The class's name without its package: the same for cudnn.SpatialConvolution and nn.SpatialConvolution."""
        return self.class_name.rpartition(".")[2]


def load(path: str | os.PathLike[str]) -> Any:
    """Reads the object in a file.

    Returns:
        dict for a table (its numbers 1, 2, … as int), `Object` for an object of a Lua class, Tensor for a tensor or a
        storage, str, int, float, bool, None.

    Raises:
        UserError: the file is damaged, is not a .t7 file, or would exhaust memory.
    """
    path = Path(path)
    with path.open("rb") as file:
        if path.stat().st_size == 0:
            raise UserError(f"{path}: the file is empty")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            reader = _Reader(data)
            try:
                return reader.read(0)
            except (ValueError, struct.error) as error:
                raise UserError(
                    f"{path}: not a Torch7 file, or a damaged one, at byte {reader.position}: {error}"
                ) from error


class _Reader:
    def __init__(self, data: mmap.mmap) -> None:
        self.data = data
        self.position = 0
        self.seen: dict[int, Any] = {}
        self.objects = 0

    def read(self, depth: int) -> Any:
        if depth > DEEPEST:
            raise ValueError(f"more than {DEEPEST} objects within one another")
        self.objects += 1
        if self.objects > MOST_OBJECTS:
            raise ValueError(f"more than {MOST_OBJECTS} objects")
        tag = self._int()
        if tag == 0:
            return None
        if tag == 1:
            (number,) = struct.unpack("<d", self._bytes(8))
            return int(number) if number.is_integer() else number
        if tag == 2:
            return self._string()
        if tag == 5:
            return self._int() == 1
        if tag == 6:
            return self._skip_function(depth)
        if tag not in (3, 4, 7, 8):
            raise ValueError(f"unknown tag {tag}")
        index = self._int()
        if index not in self.seen:
            self.seen[index] = None  # the value of a function, and of an object inside itself before it is complete
            if tag == 3:
                self._table(self._register(index, {}), depth)
            elif tag == 4:
                self._torch_object(index, depth)
            else:
                self._skip_function(depth)
        return self.seen[index]

    def _register(self, index: int, value: Any) -> Any:
        self.seen[index] = value
        return value

    def _table(self, table: dict[Any, Any], depth: int) -> None:
        count = self._int()
        self._check(count, 8)  # two tags at least
        for _ in range(count):
            key = self.read(depth + 1)
            if not isinstance(key, (str, int, float)):  # bool is an int
                raise ValueError(f"a table with a key of type {type(key).__name__}")
            table[key] = self.read(depth + 1)

    def _torch_object(self, index: int, depth: int) -> None:
        name = self._string()
        if name.startswith("V "):  # files without a version field start with the name
            name = self._string()
        match = _TENSOR.fullmatch(name)
        if match and match[2] in _NUMBER_TYPES:
            read = self._tensor if match[3] == "Tensor" else self._storage
            self._register(index, read(np.dtype(_NUMBER_TYPES[match[2]]), depth))
            return
        made = self._register(index, Object(name))
        fields = self.read(depth + 1)
        if not isinstance(fields, dict):
            raise ValueError(f"an object of class {name!r} without fields")
        made.fields.update(fields)

    def _storage(self, number_type: np.dtype[Any], depth: int) -> Tensor:
        count = self._long()
        self._check(count, number_type.itemsize)
        numbers = np.empty(count, number_type)
        numbers.data.cast("B")[:] = self._bytes(numbers.nbytes)
        return torch.from_numpy(numbers)

    def _tensor(self, number_type: np.dtype[Any], depth: int) -> Tensor:
        dimensions = self._int()
        if not 0 <= dimensions <= MOST_DIMENSIONS:
            raise ValueError(f"a tensor of {dimensions} dimensions")
        sizes = [self._long() for _ in range(dimensions)]
        strides = [self._long() for _ in range(dimensions)]
        offset = self._long() - 1  # Lua counts from 1
        storage = self.read(depth + 1)
        if storage is None or dimensions == 0:
            return torch.empty(0)
        if not isinstance(storage, Tensor) or storage.dim() != 1:
            raise ValueError("a tensor without a storage")
        elements, last = 1, offset
        for size, stride in zip(sizes, strides, strict=True):
            elements *= size
            last += (size - 1) * stride
        if min(*sizes, *strides, offset) < 0 or elements > len(storage) or (elements and last >= len(storage)):
            raise ValueError(f"a tensor of sizes {sizes}, strides {strides} in a storage of {len(storage)} numbers")
        return storage.as_strided(sizes, strides, offset)

    def _skip_function(self, depth: int) -> None:
        self._string()
        self.read(depth + 1)

    def _string(self) -> str:
        return self._bytes(self._int()).decode("latin1")

    def _int(self) -> int:
        return int(struct.unpack("<i", self._bytes(4))[0])

    def _long(self) -> int:
        return int(struct.unpack("<q", self._bytes(8))[0])

    def _bytes(self, count: int) -> bytes:
        self._check(count, 1)
        start, self.position = self.position, self.position + count
        return self.data[start : self.position]

    def _check(self, count: int, size: int) -> None:
        left = len(self.data) - self.position
        if not 0 <= count * size <= left:
            raise ValueError(f"{count} × {size} bytes announced where {left} are left")
