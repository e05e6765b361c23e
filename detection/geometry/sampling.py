"""Kinds of boxes → a random, balanced sample of fixed size, independent of the batch, the device and the ranks.

The random numbers are a hash of (image seed, box's name), not draws from a generator: they do not depend on the other
images of the batch, the device, the number of ranks, or earlier draws. A resumed run therefore samples the same boxes
as an uninterrupted one.

Shapes: N images, B boxes, S samples an image.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from detection.common.seeds import GOLDEN, mix64, shift_right
from detection.geometry.matching import NEGATIVE, POSITIVE

_KEY_BITS = 40


class Samples(NamedTuple):
    """`position` (N, S) int64: positions among the B boxes, positives first; `valid` (N, S) bool: False where fewer
    than S could be sampled."""

    position: Tensor
    valid: Tensor


def random_keys(seeds: Tensor, names: Tensor) -> Tensor:
    """Uniform integers in [0, 2⁴⁰), (N, B), from `seeds` (N,) and `names` (B,), both int64."""
    keys: Tensor = shift_right(mix64(seeds[:, None] + (names + 1) * GOLDEN), 64 - _KEY_BITS)
    return keys


def sample(kind: Tensor, seeds: Tensor, count: int, positive_share: float, names: Tensor | None = None) -> Samples:
    """Draws `count` boxes an image, at most `positive_share` of them POSITIVE, the others NEGATIVE.

    If there are too few positives, more negatives are drawn. If there are too few negatives, the sample is smaller, as
    in py-faster-rcnn, and `valid` marks its size. S is min(count, B).

    Args:
        kind: (N, B) int8 of `matching`.
        seeds: (N,) int64, one an image.
        names: (B,) int64, distinct; the random number of a box depends on its name and the seed. By default the name is
            the position, which is unsuitable if positions shift with the padding of the batch.
    """
    boxes = kind.shape[1]
    count = min(count, boxes)
    keys = random_keys(seeds, torch.arange(boxes, device=kind.device) if names is None else names)
    quota = min(int(count * positive_share), boxes)
    is_positive, is_negative = kind == POSITIVE, kind == NEGATIVE
    positive_keys = keys.masked_fill(~is_positive, -1)
    if quota > 0:
        last = positive_keys.topk(quota, dim=1).values[:, -1:]  # -1 where there are no more positives than the quota
        taken = is_positive & (positive_keys >= last)
    else:
        taken = torch.zeros_like(is_positive)
    # Rank taken positives above all negatives, negatives by their keys, and everything else below zero; then one topk
    # takes them in that order.
    rank = keys.masked_fill(~(taken | is_negative), -1) + (taken.long() << _KEY_BITS)
    values, position = rank.topk(count, dim=1)
    return Samples(position, values >= 0)
