"""The classes of a split in the order of those of another split or of a detector."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from backbones.common.errors import UserError
from backbones.common.text import first_of
from detection.data.index import DatasetIndex
from detection.training.distributed import on_main

logger = logging.getLogger(__name__)


def match_classes(
    index: DatasetIndex, ids: Sequence[int] | np.ndarray, names: Sequence[str], owner: object, *, quiet: bool = False
) -> DatasetIndex:
    """The index with its classes in the order of those of a training split or a detector, matched by name.

    Labels that list only the classes that occur in them (`open_classes`) may lack some of the others. If the names
    agree but ids or order differ, one line is logged, unless `quiet`. If several of the other classes have the same
    name, the ids must agree too.

    Args:
        ids, names: the other classes, in the order of their labels 1..K. owner: the name of their file in messages.

    Raises:
        UserError: the names differ; those that only one of the two has are listed.
    """
    own = list(zip(index.category_ids.tolist(), index.category_names, strict=True))
    others = [(int(number), name) for number, name in zip(ids, names, strict=True)]
    if own == others:
        return index
    unclear = len({name for _, name in others}) < len(others)
    if index.open_classes and not unclear and {name for _, name in own} <= {name for _, name in others}:
        return index.with_classes(ids, names)
    keys: list[Any] = own if unclear else [name for _, name in own]
    wanted: list[Any] = others if unclear else [name for _, name in others]
    if Counter(keys) != Counter(wanted):
        only_own, only_others = Counter(keys) - Counter(wanted), Counter(wanted) - Counter(keys)
        raise UserError(
            f"{index.annotation_file}: its classes are not those of {owner}: only the former lists "
            f"{_listing(only_own)}; only the latter {_listing(only_others)}. List the same categories, by the same "
            "names, in both files; a category may be without objects"
        )
    order = [keys.index(key) for key in wanted]
    moved = [
        f"{name} (id {a}, {b} there)"
        for (b, name), (a, _) in zip(others, (own[i] for i in order), strict=True)
        if a != b
    ]
    if moved and not quiet:
        on_main(
            lambda: logger.info(
                "%s: its classes are matched by name with those of %s, where they have other ids: %s",
                index.annotation_file,
                owner,
                first_of(moved, 3),
            )
        )
    return index.in_class_order(order)


def _listing(classes: Counter[Any]) -> str:
    names = [repr(name) for name in classes]
    return ", ".join(names[:8]) + (f", … ({len(names)} in all)" if len(names) > 8 else "") if names else "no other"
