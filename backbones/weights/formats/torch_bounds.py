"""A file of `torch.save` → nothing, or an error if loading it would take more memory or time than its size justifies.

`torch.load(weights_only=True)` runs no code, but a pickle of a few bytes can make it create arrays of any size, copy
one text any number of times, or compute a hash for ever; and a zip can state sizes that its file does not have. So the
pickle is first interpreted by `pickle_machine.py`, where every name is replaced by a function that only counts the
memory that the call would take.
"""

from __future__ import annotations

import math
import mmap
import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from .pickle_machine import Call, PickleMachine, checked_key

_ITEM_BYTES = {
    "DoubleStorage": 8, "FloatStorage": 4, "HalfStorage": 2, "BFloat16Storage": 2, "LongStorage": 8, "IntStorage": 4,
    "ShortStorage": 2, "CharStorage": 1, "ByteStorage": 1, "BoolStorage": 1, "ComplexDoubleStorage": 16,
    "ComplexFloatStorage": 8, "QUInt8Storage": 1, "QInt8Storage": 1, "QInt32Storage": 4, "QUInt4x2Storage": 1,
    "QUInt2x4Storage": 1, "UntypedStorage": 1,
}  # fmt: skip
_PICKLES = 5  # in a file from before PyTorch 1.6: magic number, protocol, system, the object, keys of the storages
_LARGEST_PICKLE = 1 << 26  # bytes; of a file with 100,000 tensors it has 20 MB
_HARMLESS = ("_codecs.encode", "builtins.complex", "__builtin__.complex")  # of other names than PyTorch's
_OBJECT = 100  # bytes that an entry of a set or dict takes


def check_cost(path: Path) -> None:
    """Checks a file of either format, without loading it.

    Raises:
        zipfile.BadZipFile: entries are compressed, of one name, or larger than the file.
        pickle.UnpicklingError: it names something that weights do not need.
        ValueError, IndexError, KeyError, TypeError, struct.error: the pickle is damaged, or asks for too much.
    """
    if is_zip(path):
        _check_zip(path)
        return
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        _check_legacy(data)


def is_zip(path: Path) -> bool:
    """Whether a file of torch.save is in the zip format, the default since PyTorch 1.6."""
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def _check_zip(path: Path) -> None:
    size = os.stat(path).st_size
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if any(
            entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size for entry in entries
        ):
            raise zipfile.BadZipFile("it has compressed entries, which could unpack to any size")
        if sum(entry.file_size for entry in entries) > size:
            raise zipfile.BadZipFile("its entries are larger than the file")
        # PyTorch reads entries with another reader: where the two could differ, this check would be invalid.
        names = {entry.filename.lower() for entry in entries}
        pickles = [entry for entry in entries if entry.filename.lower().endswith("/data.pkl")]
        if len(names) < len(entries) or len(pickles) != 1 or min(entry.header_offset for entry in entries) != 0:
            raise zipfile.BadZipFile("it is not as torch.save writes a file")
        (pickled,) = pickles
        if pickled.file_size > _LARGEST_PICKLE:
            raise zipfile.BadZipFile(f"its pickle has {pickled.file_size} bytes")
        folder = pickled.filename[: -len("data.pkl")]
        sizes = {
            entry.filename.removeprefix(f"{folder}data/"): entry.file_size
            for entry in entries
            if entry.filename.startswith(f"{folder}data/")
        }
        _PickleCheck(archive.read(pickled), sizes).check_next()


def _check_legacy(data: mmap.mmap) -> None:
    check = _PickleCheck(data, None)
    for _ in range(_PICKLES):
        check.check_next()


class _StandIn:
    """A placeholder for an object of PyTorch. count: the numbers of a tensor; 0 for other objects."""

    def __init__(self, count: int = 0) -> None:
        self.count = count

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple) and state and isinstance(state[0], _Storage):  # of files as old as PyTorch 0.1
            self.count = _view(*state)


class _Storage:
    """A storage in the file, of `size` bytes, whose numbers take `item` bytes each."""

    def __init__(self, size: int, item: int) -> None:
        self.size = size
        self.item = item


class _Name(Call):
    """A name of PyTorch, to be called or passed as an argument."""

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        super().__init__(function)
        self.name = name


class _PickleCheck:
    """Interprets the pickles of one file and counts the memory that they would take.

    Args:
        data: the pickle, or the whole file.
        sizes: bytes of the storages by their keys; None where they follow the pickles.
    """

    def __init__(self, data: bytes | mmap.mmap, sizes: Mapping[str, int] | None) -> None:
        self._machine = PickleMachine(data, self._find, self._storage)
        self._sizes = sizes
        self._taken: dict[str, int] = {}
        # Name → a function that charges the cost of a call. Of PyTorch's names, torch.load itself refuses unknown ones.
        self._functions: dict[str, Callable[..., Any]] = {
            "collections.OrderedDict": self._ordered,
            "collections.Counter": self._hashed,
            "builtins.set": self._hashed,
            "__builtin__.set": self._hashed,
            "builtins.bytearray": self._sized,
            "__builtin__.bytearray": self._sized,
            "torch._utils._rebuild_tensor": self._tensor,
            "torch._utils._rebuild_tensor_v2": self._tensor,
            "torch._utils._rebuild_tensor_v3": self._tensor_v3,
            "torch._utils._rebuild_qtensor": self._quantized,
            "torch._utils._rebuild_parameter": self._same,
            "torch._utils._rebuild_parameter_with_state": self._same,
            "torch.nn.parameter.Parameter": self._same,
            "torch._tensor._rebuild_from_type_v2": self._subclass,
        }

    def check_next(self) -> None:
        """Interprets one pickle; raises the errors of `check_cost`."""
        self._machine.load()

    def _find(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full == "torch._utils._rebuild_nested_tensor":  # its size is in another tensor
            raise ValueError("a nested tensor")
        if not (full in self._functions or module.partition(".")[0] == "torch" or full in _HARMLESS):
            raise pickle.UnpicklingError(f"GLOBAL {full}")
        if module == "torch" and isinstance(dtype := getattr(torch, name, None), torch.dtype):
            return dtype
        makes_any_size = name.endswith(("Tensor", "Storage"))
        return _Name(name, self._functions.get(full, self._sized if makes_any_size else self._copied))

    def _storage(self, identifier: Any) -> _Storage:
        if type(identifier) is not tuple or identifier[0] != "storage" or not isinstance(identifier[1], _Name):
            raise ValueError("a persistent id that is no storage")
        _, kind, key, _, count, *views = identifier
        item = _ITEM_BYTES[kind.name]
        size = _whole(count) * item
        if self._sizes is not None:
            if self._sizes[key] != size:
                raise ValueError(f"a storage of {size} bytes where the file has {self._sizes[key]}")
        elif key not in self._taken:
            self._machine.charge(size)
            self._taken[key] = size
        if views and views[0] is not None:
            size = _whole(views[0][2]) * item
            self._machine.charge(size)
        return _Storage(size, item)

    def _ordered(self, items: Any = ()) -> OrderedDict[Any, Any]:
        self._machine.charge(_OBJECT * len(items))
        return OrderedDict((checked_key(key), value) for key, value in items)

    def _hashed(self, items: Any = ()) -> dict[Any, Any]:
        self._machine.charge(_OBJECT * len(items))
        return dict.fromkeys(map(checked_key, items))

    def _sized(self, *arguments: Any) -> _StandIn:
        """Charges a call: whole numbers are sizes to allocate, other arguments are copied."""
        sizes = [_whole(argument) for argument in arguments if isinstance(argument, int)]
        count = math.prod(sizes) if sizes else 0
        self._machine.charge(16 * count)
        self._copied(*arguments)
        return _StandIn(count)

    def _copied(self, *arguments: Any) -> _StandIn:
        """Charges any other call: it may copy its arguments."""
        for argument in arguments:
            for part in argument if isinstance(argument, tuple) else (argument,):
                if isinstance(part, (str, bytes)):
                    self._machine.charge(4 * len(part))
                elif isinstance(part, (list, tuple, dict, set)):
                    self._machine.charge(_OBJECT * len(part))
                elif isinstance(part, _StandIn):
                    self._machine.charge(8 * part.count)
        return _StandIn()

    def _tensor(self, storage: Any, offset: Any, size: Any, stride: Any, *_rest: Any) -> _StandIn:
        return _StandIn(_view(storage, offset, size, stride))

    def _tensor_v3(
        self, storage: Any, offset: Any, size: Any, stride: Any, _gradient: Any, _hooks: Any, dtype: Any, *_rest: Any
    ) -> _StandIn:
        return _StandIn(_view(_Storage(storage.size, dtype.itemsize), offset, size, stride))

    def _quantized(self, storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> _StandIn:
        """Charges a quantized tensor, which is created at its full size before it gets its storage."""
        count = _view(storage, offset, size, stride)
        self._machine.charge(4 * count)
        self._copied(*rest)
        return _StandIn(count)

    def _same(self, tensor: Any, *_rest: Any) -> Any:
        return tensor

    def _subclass(self, function: Any, _kind: Any, arguments: Any, _state: Any) -> Any:
        return function.function(*arguments)


def _view(storage: Any, offset: Any, size: Any, stride: Any, *_rest: Any) -> int:
    """The number of elements of a tensor that views a storage. PyTorch would enlarge a storage that is too small.

    Raises:
        ValueError: the storage is too small.
    """
    if not isinstance(storage, _Storage) or len(size) != len(stride) or len(size) > 64:
        raise ValueError("a tensor without a storage")
    sizes, strides = [_whole(number) for number in size], [_whole(number) for number in stride]
    count = math.prod(sizes)
    last = _whole(offset) + sum((length - 1) * step for length, step in zip(sizes, strides, strict=True))
    if count and (last + 1) * storage.item > storage.size:
        raise ValueError(f"a tensor of sizes {sizes}, strides {strides} in a storage of {storage.size} bytes")
    return count


def _whole(number: Any) -> int:
    if not isinstance(number, int) or not 0 <= number < 2**62:
        raise ValueError("a size that is none")
    return number
