"""Pickles that strangers wrote → plain containers and numpy arrays, without running a line of theirs.

A pickle is a program: it may name any function of any installed module and call it. Here it can name the few that
arrays are made of, and gets a stand-in for each that does nothing but check its arguments and build an array of
numbers. Every other name is refused before it is looked up. Detectron's and detectron2's model files need no more.
"""

from __future__ import annotations

import collections
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ...common.errors import UserError

_NUMBERS = frozenset({"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"})


def load(path: str | os.PathLike[str]) -> Any:
    """Reads a pickle that holds dicts, lists, tuples, strings, numbers and numpy arrays.

    Strings of Python 2 are read as latin-1, as numpy's documentation asks for.

    Raises:
        UserError: it names anything else (the message says what), or is damaged.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            return _Unpickler(file, path).load()
    except UserError:
        raise
    except MemoryError as error:
        raise UserError(
            f"{path}: the pickle asks for more memory than there is; it is damaged, or made to do harm"
        ) from error
    except Exception as error:  # whatever a damaged stream makes of the unpickler
        raise UserError(f"{path}: not a pickle, or a damaged one ({type(error).__name__}: {error})") from error


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: Any, path: Path) -> None:
        super().__init__(file, encoding="latin1")
        self.path = path

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for a global that the pickle names; called for every one."""
        try:
            return _ADMITTED[module, name]
        except KeyError:
            raise UserError(
                f"{self.path}: the pickle names {module}.{name}, which is neither an array nor a plain container. "
                "It was not loaded, because a pickle may run any code. Use a file that holds weights alone"
            ) from None


class _Array(np.ndarray):
    """An array under construction: numpy's own `__setstate__` trusts what it is given, this one does not."""

    def __setstate__(self, state: Any) -> None:
        _, shape, number_type, fortran_order, raw = state
        data = _checked_bytes(raw, shape, number_type)
        checked: Any = (1, shape, number_type.dtype, bool(fortran_order), data)
        super().__setstate__(checked)


class _NumberType:
    """numpy.dtype, for numbers alone."""

    def __init__(self, code: Any, *_copy_and_align: Any) -> None:
        if code not in _NUMBERS:
            raise ValueError(f"an array of type {code!r}; only numbers are read")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        byte_order = state[1]
        if byte_order not in ("<", ">", "=", "|"):
            raise ValueError(f"byte order {byte_order!r}")
        self.dtype = self.dtype.newbyteorder(byte_order)


def _checked_bytes(raw: Any, shape: Any, number_type: Any) -> bytes:
    if not isinstance(number_type, _NumberType):
        raise TypeError("an array without a number type")
    if not isinstance(shape, tuple) or not all(type(length) is int and length >= 0 for length in shape):
        raise ValueError(f"an array of shape {shape!r}")
    data = raw.encode("latin1") if isinstance(raw, str) else bytes(memoryview(raw))
    expected = number_type.dtype.itemsize
    for length in shape:
        expected *= length
    if len(data) != expected:
        raise ValueError(f"an array of shape {shape} and type {number_type.dtype} with {len(data)} bytes")
    return data


def _reconstruct(*_ignored: Any) -> np.ndarray:
    """numpy's empty array that `__setstate__` fills."""
    return _Array((0,), np.uint8)


def _scalar(number_type: Any, raw: Any) -> Any:
    return np.frombuffer(_checked_bytes(raw, (), number_type), number_type.dtype)[0]


def _from_buffer(raw: Any, number_type: Any, shape: Any, order: Any, *_axes: Any) -> np.ndarray:
    """Arrays of protocol 5."""
    if order not in ("C", "F"):
        raise ValueError(f"an array in the order {order!r}")
    return np.frombuffer(_checked_bytes(raw, shape, number_type), number_type.dtype).reshape(shape, order=order)


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    """Python 3 writes bytes like this in the protocols of Python 2."""
    if not isinstance(text, str) or encoding != "latin1":
        raise ValueError(f"bytes in the encoding {encoding!r}")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    """What it writes for empty bytes."""
    return b""


def _admitted() -> dict[tuple[str, str], Callable[..., Any] | str]:
    admitted: dict[tuple[str, str], Callable[..., Any] | str] = {
        ("collections", "OrderedDict"): collections.OrderedDict,
        ("_codecs", "encode"): _encode,
        ("__builtin__", "bytes"): _no_bytes,
        ("numpy", "dtype"): _NumberType,
        ("numpy", "ndarray"): "numpy.ndarray",  # only ever handed to _reconstruct, which ignores it
    }
    for core in ("numpy.core", "numpy._core"):  # before and since numpy 2
        admitted[f"{core}.multiarray", "_reconstruct"] = _reconstruct
        admitted[f"{core}.multiarray", "scalar"] = _scalar
        admitted[f"{core}.numeric", "_frombuffer"] = _from_buffer
    return admitted


_ADMITTED = _admitted()
