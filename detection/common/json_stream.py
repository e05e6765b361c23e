"""A JSON file of any size → the members of its outermost object, arrays block by block.

`json.load` holds the text and all its objects at once: gigabytes for COCO's annotations, most of it outlines that a
detector never looks at. Here the standard library's scanner reads one array element at a time from a window of the
file, so memory is bounded by a window and a block; outlines are cut from the text before it is scanned, which is where
most of the time would go.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from backbones.common.errors import UserError

WINDOW = 1 << 22  # characters read at a time
FEW = 1000  # array elements handed out at a time where they are scanned one by one
VALUE_LIMIT = 1 << 26  # characters of one array element or other value: far above any real one, far below any memory

_space = re.compile(r"[ \t\r\n]*")
_opening = re.compile(r"[ \t\r\n]*:[ \t\r\n]*(?=\[\[)")


def read_members(path: Path, outlines: str | None = None) -> Iterator[tuple[str, Any]]:
    """Yields (name, value) for each member of the JSON object in `path`.

    An array comes as several (name, block of its elements), an empty one as one empty block. NaN and Infinity are
    accepted, as `json` does. A byte order mark is skipped. outlines: a key, at any depth, whose arrays of arrays of
    numbers read as 0, unchecked.

    Raises:
        UserError: the file cannot be read, is no UTF-8, is no JSON object (with the position), is cut short, names a
            member twice, or is nested deeper than Python reads.
    """
    try:
        with path.open("rb") as file:
            try:
                yield from _Cursor(path, file, outlines).members()
            except UserError:
                if outlines is not None:  # with text cut out, positions do not count: find the fault in the whole text
                    file.seek(0)
                    for _ in _Cursor(path, file, None).members():
                        pass
                raise
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 text, so it is no JSON file: {error.reason}") from error
    except RecursionError:
        raise UserError(f"{path}: is nested too deeply for an annotation file") from None


class _Cursor:
    """A place in the file: `position` is the next character in `text`, the window held; `before`, what is let go."""

    def __init__(self, path: Path, file: IO[bytes], outlines: str | None) -> None:
        self.path = path
        self.file = file
        self.outlines = outlines
        self.decode = codecs.getincrementaldecoder("utf-8-sig")().decode
        self.scan = json.JSONDecoder().raw_decode
        self.text = ""
        self.position = 0
        self.before = 0
        self.ended = False

    def members(self) -> Iterator[tuple[str, Any]]:
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
            if self._next_character() == "[":
                for block in self._blocks():
                    yield name, block
            else:
                yield name, self._value()
        self._take("}")
        if self._next_character() != "":
            raise self._fault("the object has ended, but more text follows")

    def _blocks(self) -> Iterator[list[Any]]:
        self._take("[")
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

    def _many(self) -> list[Any]:
        """All the elements of the window in one scan, if it goes: none if the window's last brace ends no element."""
        if len(self.text) - self.position < WINDOW // 2:
            self._read(WINDOW)
        end = self.text.rfind("}", self.position) + 1
        try:
            block, used = self.scan(f"[{self.text[self.position : end]}]", 0)
        except ValueError:
            return []
        self.position += used - 2  # where the scan met a closing bracket: the array's own, or the one put there
        return block

    def _few(self) -> list[Any]:
        """The next elements, one scan each, which finds faults and goes over the window's end."""
        block = [self._value()]
        while len(block) < FEW and self._next_character() == ",":
            self.position += 1
            self._next_character()
            block.append(self._value())
        return block

    def _value(self) -> Any:
        """The value that starts at `position`. Where the window may have cut it, more is read and the value scanned
        again.
        """
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
                    self.position = end
                    return value
            if len(self.text) - self.position > VALUE_LIMIT:
                raise self._fault(f"one value is longer than {VALUE_LIMIT} characters")
            self._read(max(WINDOW, len(self.text) - self.position))

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
                f"{self.path}: ends in the middle, after {end} characters ({reason}): it was cut short; get it again"
            )
        around = self.text[max(0, position - 20) : position + 20]
        return UserError(
            f"{self.path}: is not valid JSON at character {self.before + position}: {reason} (near {around!r})"
        )


def _without_outlines(text: str, key: str) -> str:
    """The text with 0 for each array of arrays of numbers that follows `key` (a quoted name).

    What stands in quotes or braces, or is nested deeper, stays; so does an array that the text's end cuts.

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
