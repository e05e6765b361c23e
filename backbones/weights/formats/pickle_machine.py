"""The opcodes of a pickle → an object, within bounds: a `pickle.Unpickler` for untrusted files.

A pickle is a program, and nine bytes of it can take any amount of memory: Python's own reader allocates as many objects
as an opcode's number states, reads as many bytes as it announces, and calls any function that it names. Here

- a length is compared with the rest of the file before memory is taken, and an object's number with the number
  of opcodes so far;
- there are at most `MOST_OPCODES`;
- keys of dicts are short texts and numbers: the hash of tuples that share their parts can take exponential time;
- a name is resolved by the caller's `find` and never imported; a call charges the bytes that it copies, and the
  sum of all charges may be `COPIES` times the file's size.

The opcodes and their arguments are those of Python's `pickletools.py`, protocols 0 to 5.
"""

from __future__ import annotations

import codecs
import collections
import mmap
import pickle
import struct
from collections.abc import Callable
from typing import Any

MOST_OPCODES = 2_000_000  # of a file with 100,000 tensors, or of CIFAR's with 50,000 file names
COPIES = 4  # times the file's size: texts of Python 2 become bytes, and those become arrays
SLACK = 1 << 20  # bytes beyond that

_LONGEST_KEY = 4096


class Call:
    """A callable name in a pickle: `function(*arguments)` creates the object."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function


class PickleMachine:
    """Reads pickles from a buffer.

    Args:
        data: the whole file.
        find: (module, name) → a `Call`, or any value for a name that is only passed as an argument. It raises an error
            for a name that is not allowed.
        persistent: persistent id → object; without it, ids are refused.

    Attributes:
        position: the next byte; after `load`, the first one after the pickle.
    """

    def __init__(
        self,
        data: bytes | mmap.mmap,
        find: Callable[[str, str], Any],
        persistent: Callable[[Any], Any] | None = None,
        *,
        position: int = 0,
    ) -> None:
        self.data = data
        self.position = position
        self._find = find
        self._persistent = persistent
        self._opcodes = 0
        self._budget = COPIES * len(data) + SLACK

    def load(self) -> Any:
        """The object of the pickle at `position`.

        Raises:
            ValueError, IndexError, KeyError, TypeError, struct.error: the stream is damaged, or exceeds a limit; also
                any error of `find`.
        """
        self._memo: dict[int, Any] = {}
        self._stack: list[Any] = []
        self._marks: list[list[Any]] = []
        while (code := self._take(1)[0]) != pickle.STOP[0]:
            self._opcodes += 1
            if self._opcodes > MOST_OPCODES:
                raise ValueError(f"more than {MOST_OPCODES} instructions")
            try:
                operation = _OPERATIONS[code]
            except KeyError:
                raise ValueError(f"the instruction {code:#04x}, which no array needs") from None
            operation(self)
        self._memo = {}
        return self._stack.pop()

    def charge(self, size: int) -> None:
        """Accounts for `size` bytes that a call takes.

        Raises:
            ValueError: all charges exceed `COPIES` times the file's size.
        """
        self._budget -= size
        if self._budget < 0:
            raise ValueError("it asks for more memory than its size explains")

    # --- reading -----------------------------------------------------------------------------------------------------

    def _take(self, count: int) -> bytes:
        end = self.position + count
        if not self.position <= end <= len(self.data):
            left = len(self.data) - self.position
            raise ValueError(f"{count} bytes announced at byte {self.position}, where {left} are left")
        taken = self.data[self.position : end]
        self.position = end
        return taken

    def _number(self, layout: str) -> Any:
        return struct.unpack(layout, self._take(struct.calcsize(layout)))[0]

    def _counted(self, layout: str) -> bytes:
        return self._take(self._number(layout))

    def _line(self) -> bytes:
        end = self.data.find(b"\n", self.position)
        if end < 0:
            raise ValueError("a line without an end")
        return self._take(end + 1 - self.position)[:-1]

    # --- the stack ---------------------------------------------------------------------------------------------------

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _mark(self) -> None:
        self._marks.append(self._stack)
        self._stack = []

    def _to_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._marks.pop()
        return items

    def _last(self, count: int) -> list[Any]:
        items = [self._stack.pop() for _ in range(count)]
        return items[::-1]

    def _get(self, number: int) -> None:
        self._push(self._memo[number])

    def _put(self, number: int) -> None:
        if not 0 <= number <= self._opcodes:  # programs number stored objects from 0 on
            raise ValueError(f"an object numbered {number} after {self._opcodes} instructions")
        self._memo[number] = self._stack[-1]

    # --- objects -----------------------------------------------------------------------------------------------------

    def _set(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, dict):
            raise ValueError(f"an item of a {type(target).__name__}, which is no dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[checked_key(key)] = value

    def _append(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is not list:
            raise ValueError(f"an element of a {type(target).__name__}, which is no list")
        target.extend(items)

    def _make_dict(self, items: list[Any]) -> None:
        self._push({})
        self._set(items)

    def _add(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is not set:
            raise ValueError(f"a member of a {type(target).__name__}, which is no set")
        target.update(map(checked_key, items))

    def _global(self, module: Any, name: Any) -> None:
        if not (isinstance(module, str) and isinstance(name, str)):
            raise ValueError("a name that is no text")
        self._push(self._find(module, name))

    def _call(self, called: Any, arguments: Any) -> None:
        if not isinstance(called, Call):
            raise ValueError(f"a call of a {type(called).__name__}")
        if type(arguments) is not tuple:
            raise ValueError("a call without a tuple of arguments")
        self._push(called.function(*arguments))

    def _instance(self) -> None:  # protocol 0
        self._global(self._line().decode(), self._line().decode())
        called = self._stack.pop()
        self._call(called, tuple(self._to_mark()))

    def _object(self) -> None:
        called, *arguments = self._to_mark()
        self._call(called, tuple(arguments))

    def _build(self) -> None:
        state = self._stack.pop()
        target = self._stack[-1]
        if isinstance(target, collections.OrderedDict):
            return  # attributes, such as the versions that PyTorch adds to a state dict
        if not hasattr(type(target), "__setstate__"):
            raise ValueError(f"a state for a {type(target).__name__}")
        target.__setstate__(state)

    def _from_persistent(self, identifier: Any) -> None:
        if self._persistent is None:
            raise ValueError("a persistent id, which no array needs")
        self._push(self._persistent(identifier))


def checked_key(key: Any) -> Any:
    """A key of a dict, if it is a short text, a number, or a few of those.

    Raises:
        ValueError: it is anything else.
    """
    parts = key if type(key) is tuple and len(key) <= 16 else (key,)
    for part in parts:
        if not isinstance(part, (str, bytes, int, float, type(None))):
            raise ValueError(f"a key of the type {type(key).__name__}")
        # Equal long texts are compared completely; larger whole numbers can be chosen to have equal hashes.
        if (isinstance(part, (str, bytes)) and len(part) > _LONGEST_KEY) or (isinstance(part, int) and abs(part) >> 60):
            raise ValueError("a key that is too long")
    return key


def _text0(line: bytes) -> str:
    """A quoted text of protocol 0, as Python 2 wrote its bytes."""
    if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in (b"'", b'"'):
        raise ValueError("a text without quotes")
    return codecs.escape_decode(line[1:-1])[0].decode("latin1")


def _whole0(line: bytes) -> int | bool:
    return {b"00": False, b"01": True}[line] if line in (b"00", b"01") else int(line)


def _unicode(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")


def _long(data: bytes) -> int:
    if len(data) > 1000:
        raise ValueError(f"a whole number of {len(data)} bytes")
    return int.from_bytes(data, "little", signed=True)


def _operations() -> dict[int, Callable[[PickleMachine], Any]]:
    named: dict[bytes, Callable[[PickleMachine], Any]] = {
        pickle.PROTO: lambda m: m._take(1),
        pickle.FRAME: lambda m: _check_frame(m, m._number("<Q")),
        pickle.MARK: lambda m: m._mark(),
        pickle.POP: lambda m: m._stack.pop() if m._stack else m._to_mark(),
        pickle.POP_MARK: lambda m: m._to_mark(),
        pickle.DUP: lambda m: m._push(m._stack[-1]),
        pickle.NONE: lambda m: m._push(None),
        pickle.NEWTRUE: lambda m: m._push(True),
        pickle.NEWFALSE: lambda m: m._push(False),
        pickle.INT: lambda m: m._push(_whole0(m._line())),
        pickle.LONG: lambda m: m._push(int(m._line().removesuffix(b"L"))),
        pickle.FLOAT: lambda m: m._push(float(m._line())),
        pickle.BININT: lambda m: m._push(m._number("<i")),
        pickle.BININT1: lambda m: m._push(m._number("<B")),
        pickle.BININT2: lambda m: m._push(m._number("<H")),
        pickle.LONG1: lambda m: m._push(_long(m._counted("<B"))),
        pickle.LONG4: lambda m: m._push(_long(m._counted("<i"))),
        pickle.BINFLOAT: lambda m: m._push(m._number(">d")),
        pickle.STRING: lambda m: m._push(_text0(m._line())),
        pickle.BINSTRING: lambda m: m._push(m._counted("<i").decode("latin1")),
        pickle.SHORT_BINSTRING: lambda m: m._push(m._counted("<B").decode("latin1")),
        pickle.UNICODE: lambda m: m._push(m._line().decode("raw-unicode-escape")),
        pickle.BINUNICODE: lambda m: m._push(_unicode(m._counted("<I"))),
        pickle.SHORT_BINUNICODE: lambda m: m._push(_unicode(m._counted("<B"))),
        pickle.BINUNICODE8: lambda m: m._push(_unicode(m._counted("<Q"))),
        pickle.BINBYTES: lambda m: m._push(m._counted("<I")),
        pickle.SHORT_BINBYTES: lambda m: m._push(m._counted("<B")),
        pickle.BINBYTES8: lambda m: m._push(m._counted("<Q")),
        pickle.BYTEARRAY8: lambda m: m._push(m._counted("<Q")),
        pickle.EMPTY_TUPLE: lambda m: m._push(()),
        pickle.TUPLE1: lambda m: m._push(tuple(m._last(1))),
        pickle.TUPLE2: lambda m: m._push(tuple(m._last(2))),
        pickle.TUPLE3: lambda m: m._push(tuple(m._last(3))),
        pickle.TUPLE: lambda m: _push_marked(m, tuple),
        pickle.EMPTY_LIST: lambda m: m._push([]),
        pickle.LIST: lambda m: _push_marked(m, list),
        pickle.APPEND: lambda m: m._append(m._last(1)),
        pickle.APPENDS: lambda m: m._append(m._to_mark()),
        pickle.EMPTY_DICT: lambda m: m._push({}),
        pickle.DICT: lambda m: m._make_dict(m._to_mark()),
        pickle.SETITEM: lambda m: m._set(m._last(2)),
        pickle.SETITEMS: lambda m: m._set(m._to_mark()),
        pickle.EMPTY_SET: lambda m: m._push(set()),
        pickle.ADDITEMS: lambda m: m._add(m._to_mark()),
        pickle.FROZENSET: lambda m: _push_marked(m, lambda items: frozenset(map(checked_key, items))),
        pickle.GET: lambda m: m._get(int(m._line())),
        pickle.BINGET: lambda m: m._get(m._number("<B")),
        pickle.LONG_BINGET: lambda m: m._get(m._number("<I")),
        pickle.PUT: lambda m: m._put(int(m._line())),
        pickle.BINPUT: lambda m: m._put(m._number("<B")),
        pickle.LONG_BINPUT: lambda m: m._put(m._number("<I")),
        pickle.MEMOIZE: lambda m: m._put(len(m._memo)),
        pickle.GLOBAL: lambda m: m._global(m._line().decode(), m._line().decode()),
        pickle.STACK_GLOBAL: lambda m: m._global(*m._last(2)),
        pickle.REDUCE: lambda m: m._call(*m._last(2)),
        pickle.NEWOBJ: lambda m: m._call(*m._last(2)),
        pickle.INST: lambda m: m._instance(),
        pickle.OBJ: lambda m: m._object(),
        pickle.BUILD: lambda m: m._build(),
        pickle.PERSID: lambda m: m._from_persistent(m._line().decode()),
        pickle.BINPERSID: lambda m: m._from_persistent(m._stack.pop()),
    }
    return {code[0]: operation for code, operation in named.items()}


def _push_marked(machine: PickleMachine, make: Callable[[list[Any]], Any]) -> None:
    items = machine._to_mark()
    machine._push(make(items))


def _check_frame(machine: PickleMachine, length: int) -> None:
    if length > len(machine.data) - machine.position:
        raise ValueError(f"a frame of {length} bytes, where {len(machine.data) - machine.position} are left")


_OPERATIONS = _operations()
