"""A JSON file of any size → its parts, one block at a time, so that only a window of the file is in memory.

    read_members(path)    an object → (name, value) of each member, arrays in blocks (annotation files)
    read_elements(path)   the same element by element, each with the text that it was read from (for copying)
    read_list(path)       an array → blocks of its elements (results files)

`json.load` holds the text and all its objects at once: gigabytes for COCO's annotations, most of it segmentation
outlines that a detector never looks at. Here the standard library's scanner reads from a window of the file. Outlines
are removed from the text before the scan, because scanning them would take most of the time.

NaN and Infinity are accepted, as `json` does, and a byte order mark is skipped.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, TypeVar

from backbones.common.errors import UserError
from backbones.common.files import require_plain_file

WINDOW = 1 << 22  # bytes read at a time
FEW = 1000  # array elements handed out at a time where they are scanned one by one
VALUE_LIMIT = 1 << 26  # characters of one array element or other value: far above any real one, far below any memory

_space = re.compile(r"[ \t\r\n]*")
_opening = re.compile(r"[ \t\r\n]*:[ \t\r\n]*(?=\[\[)")
_gap = re.compile(r"\}[ \t\r\n]*,[ \t\r\n]*\{")  # between two objects of an array
_closing = re.compile(r"\}[ \t\r\n]*\]")  # of the last object of an array
_GAP_WITHIN = 1 << 16  # characters before the window's end that are searched for a gap

T = TypeVar("T")


Repeated = list[tuple[dict[str, Any], str]]  # (object, a key that it has twice, with different values)
Shortcuts = Mapping[str, Callable[[str], Any]]


def read_members(
    path: Path, outlines: str | None = None, repeated: Repeated | None = None, shortcuts: Shortcuts | None = None
) -> Iterator[tuple[str, Any]]:
    """Yields (name, value) for each member of the JSON object in `path`.

    An array comes as several (name, block of its elements), an empty one as one empty block.

    Args:
        outlines: a key, at any depth; arrays of arrays of numbers under it are replaced by 0, unchecked.
        repeated: receives, before a block is yielded, its objects that have a key twice with different values; they
            keep the last value.
        shortcuts: of some members that are arrays of objects, a function that gets the text of a block, `{…}, … {…}`,
            where it is as expected: what it returns is yielded instead of the block, unless it is None.

    Raises:
        UserError: the file cannot be read, is no plain file, is not UTF-8, is no JSON object (with the position), is
            cut short, names a member twice, or is nested deeper than Python reads.
    """
    return _read(path, lambda cursor: cursor.members(cursor.blocks), outlines, repeated, shortcuts)


def read_elements(path: Path) -> Iterator[tuple[str, Any, str]]:
    """Yields (name, value, the value's own text) for each member of the JSON object in `path`.

    An array comes element by element: `{"a": [1, 2.0], "b": {}}` gives ("a", 1, "1"), ("a", 2.0, "2.0"),
    ("b", {}, "{}"); an empty one yields nothing. The text is the file's, character for character.

    Raises:
        UserError: as for `read_members`.
    """
    return ((name, *element) for name, element in _read(path, lambda cursor: cursor.members(cursor.elements)))


def read_list(path: Path) -> Iterator[list[Any]]:
    """Yields the elements of the JSON array in `path` in blocks; an empty array is one empty block.

    Raises:
        UserError: as for `read_members`, but for an array in place of an object.
    """
    return _read(path, _Cursor.list_blocks)


def _read(
    path: Path,
    parts: Callable[[_Cursor], Iterator[T]],
    outlines: str | None = None,
    repeated: Repeated | None = None,
    shortcuts: Shortcuts | None = None,
) -> Iterator[T]:
    """Opens the file and yields its `parts`; turns errors into a UserError that names the file."""
    try:
        require_plain_file(path)
        with path.open("rb") as file:
            try:
                yield from parts(_Cursor(path, file, outlines, repeated, shortcuts))
            except UserError:
                if outlines is not None:  # without the outlines, positions are wrong: find the fault in the whole text
                    file.seek(0)
                    for _ in parts(_Cursor(path, file, None)):
                        pass
                raise
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 text, so it is no JSON file: {error.reason}") from error
    except RecursionError:
        raise UserError(f"{path}: is nested too deeply to be read") from None


class _Cursor:
    """A position in the file: `text` is the window, `position` is in it; `before` counts the characters before it."""

    def __init__(
        self,
        path: Path,
        file: IO[bytes],
        outlines: str | None,
        repeated: Repeated | None = None,
        shortcuts: Shortcuts | None = None,
    ) -> None:
        self.path = path
        self.file = file
        self.outlines = outlines
        self.repeated = repeated
        self.shortcuts = shortcuts or {}
        self.shortcut: Callable[[str], Any] | None = None
        self.decode = codecs.getincrementaldecoder("utf-8-sig")().decode
        self.scan = json.JSONDecoder().raw_decode
        self.text = ""
        self.position = 0
        self.before = 0
        self.ended = False

    def members(self, elements: Callable[[], Iterator[T]]) -> Iterator[tuple[str, T]]:
        """(name, value) of each member of an object, as `elements` reads the value that comes next."""
        first = self._next_character()
        if first == "":
            raise UserError(f"{self.path}: is empty")
        if first == "[":
            raise UserError(
                f"{self.path}: holds a list, not an object with images, annotations, categories: is it a results file?"
            )
        self._take("{")
        seen: set[str] = set()
        while self._next_character() != "}":
            if seen:
                self._take(",")
            if self._next_character() != '"':
                raise self._fault("a member's name in quotes was expected")
            name = self._value()
            if name in seen:
                raise UserError(f"{self.path}: has the member {name!r} twice; which one is meant?")
            seen.add(name)
            self._take(":")
            self.shortcut = self.shortcuts.get(name)
            for value in elements():
                yield name, value
        self._take("}")
        self._end()

    def list_blocks(self) -> Iterator[list[Any]]:
        """The blocks of an array that is the whole file."""
        first = self._next_character()
        if first == "":
            raise UserError(f"{self.path}: is empty")
        if first == "{":
            raise UserError(f"{self.path}: must hold a list, but holds an object: is it an annotation file?")
        if first != "[":
            raise self._fault("a list was expected")
        yield from self.blocks()
        self._end()

    def blocks(self) -> Iterator[Any]:
        """The value that comes next: an array in blocks, anything else whole."""
        if self._next_character() != "[":
            yield self._value()
            return
        self.position += 1
        if self._next_character() == "]":
            self.position += 1
            yield []
            return
        while True:
            yield self._many() or self._few()
            if self._next_character() == "]":
                self.position += 1
                return
            self._take(",")
            self._next_character()

    def elements(self) -> Iterator[tuple[Any, str]]:
        """The value that comes next with its text: an array element by element, anything else whole."""
        if self._next_character() != "[":
            yield self._value_and_text()
            return
        self.position += 1
        if self._next_character() == "]":
            self.position += 1
            return
        while True:
            yield self._value_and_text()
            if self._next_character() == "]":
                self.position += 1
                return
            self._take(",")
            self._next_character()

    def _many(self) -> Any:
        """The objects of the window in one scan, or what the shortcut makes of them; none if they cannot be separated
        this way."""
        if len(self.text) - self.position < WINDOW // 2:
            self._read(WINDOW)
        start = max(self.position, len(self.text) - _GAP_WITHIN)
        end = 1 + max((gap.start() for gap in _gap.finditer(self.text, start)), default=self.text.rfind("}", start))
        if self.shortcut is not None:
            closing = _closing.search(self.text, self.position, end + _GAP_WITHIN)
            stop = min(end, closing.start() + 1) if closing else end
            if (result := self.shortcut(self.text[self.position : stop])) is not None:
                self.position = stop
                return result
        text = f"[{self.text[self.position : end]}]"
        try:
            block, used = self.scan(text, 0)
        except ValueError:
            return []
        self._note_repeated_keys(block, text[:used])
        self.position += used - 2  # before the closing bracket: the array's own, or the one that was appended
        return block

    def _few(self) -> list[Any]:
        """The next elements, one scan each, which locates faults and reads beyond the window's end."""
        block = [self._value()]
        while len(block) < FEW and self._next_character() == ",":
            self.position += 1
            self._next_character()
            block.append(self._value())
        return block

    def _value(self) -> Any:
        """The value at `position`, which moves behind it."""
        value, self.position = self._scan()
        return value

    def _value_and_text(self) -> tuple[Any, str]:
        value, end = self._scan()
        text = self.text[self.position : end]
        self.position = end
        return value, text

    def _scan(self) -> tuple[Any, int]:
        """The value that starts at `position`, and where it ends. If the window may end inside it, more is read and the
        value is scanned again."""
        while True:
            try:
                value, end = self.scan(self.text, self.position)
            except json.JSONDecodeError as error:
                # Only a cut string can fail far from the window's end.
                cut = not self.ended and (
                    error.pos > len(self.text) - 16 or error.msg.startswith("Unterminated string")
                )
                if not cut:
                    raise self._fault(error.msg, error.pos) from None
            except ValueError as error:  # a whole number of thousands of digits
                raise self._fault(str(error)) from None
            else:
                if end + 2 < len(self.text) or self.ended:  # "1", where the window ends in "1e-", may go on
                    if type(value) is dict:
                        self._note_repeated_keys([value], f"[{self.text[self.position : end]}]")
                    return value, end
            if len(self.text) - self.position > VALUE_LIMIT:
                raise self._fault(f"one value is longer than {VALUE_LIMIT} characters")
            self._read(max(WINDOW, len(self.text) - self.position))

    def _end(self) -> None:
        if self._next_character() != "":
            raise self._fault("the outermost value has ended, but more text follows")

    def _note_repeated_keys(self, block: list[Any], text: str) -> None:
        """Adds the objects of a block, read from `text`, that have a key twice with different values.

        The scanner does not report them: if the text has more keys than the objects, it is parsed again, more slowly.
        """
        if self.repeated is None or set(map(type, block)) != {dict}:
            return
        keys = text.count('":') + text.count('" ')
        if keys <= sum(map(len, block)) or keys <= sum(map(_count_keys, block)):
            return
        found: Repeated = []

        def noted(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
            made = dict(pairs)
            if len(made) < len(pairs):
                found.extend((made, key) for key, value in pairs if not _is_same(value, made[key]))
            return made

        own = {id(entry): entry for entry in json.loads(text, object_pairs_hook=noted)}
        self.repeated.extend((entry, key) for entry, key in found if own.get(id(entry)) is entry)

    def _next_character(self) -> str:
        """The next character that is no white space, at `position` afterwards; "" at the end of the file."""
        while True:
            match = _space.match(self.text, self.position)
            assert match is not None
            self.position = match.end()
            if self.position < len(self.text):
                return self.text[self.position]
            if self.ended:
                return ""
            self._read(WINDOW)

    def _take(self, character: str) -> None:
        if self._next_character() != character:
            raise self._fault(f"{character!r} was expected")
        self.position += 1

    def _read(self, size: int) -> None:
        data = self.file.read(size)
        self.ended = len(data) == 0
        self.before += self.position
        self.text = self.text[self.position :] + self.decode(data, final=self.ended)
        if self.outlines is not None:
            self.text = _without_outlines(self.text, f'"{self.outlines}"')
        self.position = 0

    def _fault(self, reason: str, position: int | None = None) -> UserError:
        position = self.position if position is None else position
        if self.ended and (position >= len(self.text) or reason.startswith("Unterminated string")):
            end = self.before + len(self.text)
            return UserError(
                f"{self.path}: is not a whole JSON file: it ends in the middle, after {end} characters ({reason}); "
                "get it again"
            )
        around = self.text[max(0, position - 20) : position + 20]
        return UserError(
            f"{self.path}: is not valid JSON at character {self.before + position}: {reason} (near {around!r})"
        )


def _count_keys(value: dict[str, Any]) -> int:
    """How many keys an object has, with those of the objects that are its values."""
    return len(value) + sum([len(inner) for inner in value.values() if type(inner) is dict])


def _is_same(value: Any, other: Any) -> bool:
    return bool(value == other) or (value != value and other != other)  # NaN is not equal to itself


def _without_outlines(text: str, key: str) -> str:
    """The text with 0 for each array of arrays of numbers that follows `key` (a quoted name).

    Arrays with quotes, braces or deeper nesting stay, and so does an array that is cut off by the end of the text.

    >>> _without_outlines('{"outline": [[1, 2], [3]], "area": 5}', '"outline"')
    '{"outline": 0, "area": 5}'
    """
    pieces, done, found = [], 0, text.find(key)
    while found >= 0:
        following = found + len(key)
        opening = _opening.match(text, following)
        if opening:
            begin = opening.end()
            end = text.find("]]", begin) + 2
            if end < 2:
                break
            array = text[begin:end]
            if not ('"' in array or "}" in array or array.count("[") != array.count("]")):
                pieces += [text[done:begin], "0"]
                done = following = end
        found = text.find(key, following)
    return "".join([*pieces, text[done:]])
