"""The indices of two splits → the classes whose labels were probably forgotten in one of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from detection.data.index import DatasetIndex
from detection.evaluation.label_rates import ObjectRates, object_rates, rarer_classes
from detection.report.seen import LIMITS, RarerLabels


def rarer_labels(train: DatasetIndex, test: DatasetIndex) -> list[RarerLabels]:
    """The classes that either split has fewer objects of than chance explains. Classes are those of equal names."""
    names = list(dict.fromkeys([*train.category_names, *test.category_names]))
    found = rarer_classes(
        _rates(train, names),
        _rates(test, names),
        fewest=LIMITS["fewest_objects"],
        share=LIMITS["rate_share"],
        chance=LIMITS["rate_chance"],
    )
    return [RarerLabels(names[one.k], one.first, one.second) for one in found]


def _rates(index: DatasetIndex, names: Sequence[str]) -> ObjectRates:
    own = np.array([names.index(name) for name in index.category_names], dtype=np.int64)
    images = np.repeat(np.arange(len(index)), np.diff(index.offsets))[~index.crowds]
    return object_rates(images, own[index.labels[~index.crowds] - 1], len(index), len(names))
