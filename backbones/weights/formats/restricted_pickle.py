"""Untrusted pickles → plain containers and numpy arrays, without running any code in them.

A pickle is a program: it may name any function of any installed module and call it. Here only the few names that arrays
need are allowed. Each is replaced by a function that checks its arguments and builds an array of numbers. Every other
name is refused; none is imported. This is sufficient for Detectron's and detectron2's model files.
"""

from __future__ import annotations

import collections
import mmap
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ...common.errors import UserError
from .pickle_machine import Call, PickleMachine, checked_key

_NUMBERS = frozenset({"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"})


def load(path: str | os.PathLike[str]) -> Any:
    """Reads a pickle that holds dicts, lists, tuples, strings, numbers and numpy arrays.

    Strings of Python 2 are read as latin-1, as numpy's documentation asks for.

    Raises:
        UserError: it contains any other name (the message gives it), is damaged, or asks for too much memory.
        OSError: it cannot be read.
    """
    path = Path(path)
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            raise UserError(f"{path}: not a pickle: the file is empty")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _load(data, path)


def _load(data: mmap.mmap, path: Path) -> Any:
    def find(module: str, name: str) -> Any:
        try:
            return admitted[module, name]
        except KeyError:
            raise UserError(
                f"{path}: the pickle names {module}.{name}, which is neither an array nor a plain container. "
                "It was not loaded, because a pickle may run any code. Use a file that holds weights alone"
            ) from None

    machine = PickleMachine(data, find)
    admitted = _admitted(machine.charge)
    try:
        return machine.load()
    except UserError:
        raise
    except MemoryError as error:
        raise UserError(
            f"{path}: the pickle asks for more memory than there is; it is damaged, or made to do harm"
        ) from error
    except Exception as error:  # a damaged stream may cause any error in the replaced functions
        raise UserError(f"{path}: not a pickle, or a damaged one ({type(error).__name__}: {error})") from error


Charge = Callable[[int], None]


class _Array(np.ndarray):
    """An array under construction. Its `__setstate__` checks its arguments; numpy's own does not."""

    charge: Charge

    def __setstate__(self, state: Any) -> None:
        _, shape, number_type, fortran_order, raw = state
        data = _checked_bytes(raw, shape, number_type)
        self.__dict__.pop("charge")(len(data))
        checked: Any = (1, shape, number_type.dtype, bool(fortran_order), data)
        super().__setstate__(checked)


class _NumberType:
    """numpy.dtype, only for numbers."""

    def __init__(self, code: Any, *_copy_and_align: Any) -> None:
        if code not in _NUMBERS:
            raise ValueError("an array of another type than numbers")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        byte_order = state[1]
        if byte_order not in ("<", ">", "=", "|"):
            raise ValueError("a byte order that is none")
        self.dtype = self.dtype.newbyteorder(byte_order)


def _checked_bytes(raw: Any, shape: Any, number_type: Any) -> bytes:
    if not isinstance(number_type, _NumberType):
        raise TypeError("an array without a number type")
    if not isinstance(shape, tuple) or len(shape) > 32 or not all(type(n) is int and 0 <= n < 2**62 for n in shape):
        raise ValueError("an array without a shape")
    if not isinstance(raw, (str, bytes)):
        raise TypeError("an array without bytes")
    expected = number_type.dtype.itemsize
    for length in shape:
        expected *= length
    if len(raw) != expected:
        raise ValueError(f"an array of shape {shape} and type {number_type.dtype} with {len(raw)} bytes")
    return raw.encode("latin1") if isinstance(raw, str) else raw


def _admitted(charge: Charge) -> dict[tuple[str, str], Any]:
    """The names that a pickle may use. The bytes that a call copies are charged, because a few bytes may request the
    same copy repeatedly."""

    def reconstruct(*_ignored: Any) -> np.ndarray:
        """numpy's empty array that `__setstate__` fills."""
        array = _Array((0,), np.uint8)
        array.charge = charge
        return array

    def scalar(number_type: Any, raw: Any) -> Any:
        return np.frombuffer(_checked_bytes(raw, (), number_type), number_type.dtype)[0]

    def from_buffer(raw: Any, number_type: Any, shape: Any, order: Any, *_axes: Any) -> np.ndarray:
        """Makes an array of protocol 5."""
        if order not in ("C", "F"):
            raise ValueError("an array in no order")
        return np.frombuffer(_checked_bytes(raw, shape, number_type), number_type.dtype).reshape(shape, order=order)

    def encode(text: Any, encoding: Any = "latin1") -> bytes:
        """Makes bytes as Python 3 writes them in protocols 0 to 2."""
        if not isinstance(text, str) or encoding != "latin1":
            raise ValueError("bytes in another encoding than latin1")
        charge(len(text))
        return text.encode("latin1")

    def no_bytes() -> bytes:
        """Makes empty bytes as Python 3 writes them there."""
        return b""

    def ordered(items: Any = ()) -> collections.OrderedDict[Any, Any]:
        charge(100 * len(items))
        return collections.OrderedDict((checked_key(key), value) for key, value in items)

    functions: dict[tuple[str, str], Callable[..., Any]] = {
        ("collections", "OrderedDict"): ordered,
        ("_codecs", "encode"): encode,
        ("__builtin__", "bytes"): no_bytes,
        ("numpy", "dtype"): _NumberType,
    }
    for core in ("numpy.core", "numpy._core"):  # before and since numpy 2
        functions[f"{core}.multiarray", "_reconstruct"] = reconstruct
        functions[f"{core}.multiarray", "scalar"] = scalar
        functions[f"{core}.numeric", "_frombuffer"] = from_buffer
    admitted: dict[tuple[str, str], Any] = {name: Call(function) for name, function in functions.items()}
    admitted["numpy", "ndarray"] = "numpy.ndarray"  # only an argument of _reconstruct, which ignores it
    return admitted
