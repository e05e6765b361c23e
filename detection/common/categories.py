"""The classes of a detector; the ids and names of classes in a file → the same, checked, or an error that says which
is wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from backbones.common.errors import UserError

MOST = 1_000_000
LONGEST_NAME = 1_000  # characters


@dataclass(frozen=True)
class Categories:
    """The classes, in the order of the labels 1..K: their ids in the annotation files, and their names."""

    ids: tuple[int, ...]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ids)

    def name(self, label: int) -> str:
        """The name of label 1..K."""
        return self.names[label - 1]


def checked_categories(ids: Any, names: Any, where: str) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """The ids and names of K classes in the order of the labels 1..K.

    Args:
        ids, names: the unchecked values in a file.
        where: the file, for messages.

    Raises:
        UserError: they are not lists of equal length from 1 to `MOST`; an id is not a whole number of 64 bits, or
            occurs twice; a name is not a text, or longer than `LONGEST_NAME`.
    """
    for what, values in (("ids", ids), ("names", names)):
        if not isinstance(values, (list, tuple)) or not 1 <= len(values) <= MOST:
            raise UserError(f"{where}: the {what} of its classes are no list of 1 to {MOST} entries")
    if len(ids) != len(names):
        raise UserError(f"{where}: it has {len(ids)} ids and {len(names)} names of classes; they have not a name each")
    seen: set[int] = set()
    for number, (category, name) in enumerate(zip(ids, names, strict=True)):
        if isinstance(category, bool) or not isinstance(category, int) or not -(2**63) <= category < 2**63:
            raise UserError(f"{where}: the id of its class {number + 1} is no whole number of 64 bits")
        if category in seen:
            raise UserError(f"{where}: the id {category} is that of two of its classes")
        seen.add(category)
        if not isinstance(name, str) or len(name) > LONGEST_NAME:
            raise UserError(
                f"{where}: the name of its class {number + 1} is no text of up to {LONGEST_NAME} characters"
            )
    return tuple(ids), tuple(names)
