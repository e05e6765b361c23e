"""(seed, step) → the images of that step's global batch, independent of ranks, workers and accumulation steps.

Shapes: M images, B images a global batch.

With grouping, images at least as wide as high form one group and all others a second one; a batch holds images of one
group, which saves padding. Each group is an endless sequence: pass 0 over its images in a random order, then pass 1 in
another order, and so on. Its batches are consecutive parts of this sequence, so every pass contains each image exactly
once, and a batch may contain the end of one pass and the beginning of the next. The order of the two groups' batches is
drawn anew in every epoch. If a group has fewer images than a batch, the images are not grouped.

With repeat factors (`repeat_factors.py`) a pass holds each image as often as its factor says on average: with a factor
of 1.4 once in most passes and twice in the others. Every pass has the same length, the sum of the factors, rounded, so
that the plan remains a function of (seed, step).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from detection.common.seeds import hash63, permutation, uniform

REPETITION = 1 << 32


class PlannedBatch(NamedTuple):
    """epochs int64 (B,): which pass over the images each sample belongs to, plus `REPETITION` for each earlier sample
    of the same image in that pass, so that no two samples are augmented alike; indices int64 (B,): images."""

    epochs: np.ndarray
    indices: np.ndarray


class BatchPlan:
    """The global batch of every step.

    aspect_ratios: width by height (M,); global_batch: B; seed: the run's; group_by_aspect: whether to group. factors:
    the repeat factor of each image (M,), at least 1; None: every image once in a pass.

    Raises:
        ValueError: no images, or B below 1.
    """

    def __init__(
        self,
        aspect_ratios: np.ndarray,
        global_batch: int,
        seed: int,
        group_by_aspect: bool = True,
        factors: np.ndarray | None = None,
    ) -> None:
        if len(aspect_ratios) == 0 or global_batch < 1:
            raise ValueError(f"{len(aspect_ratios)} images cannot fill batches of {global_batch}")
        self.images = len(aspect_ratios)
        self.batch_size = global_batch
        self.seed = seed
        wide = np.asarray(aspect_ratios) >= 1
        groups = [np.flatnonzero(wide), np.flatnonzero(~wide)]
        if not group_by_aspect or min(map(len, groups)) < global_batch:
            groups = [np.arange(self.images)]
        self.groups = groups
        self.factors = factors
        # Samples of each group in a pass
        self.lengths = [len(group) if factors is None else round(float(factors[group].sum())) for group in groups]
        self._orders: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = {}
        self._epoch: tuple[int, np.ndarray] = (-1, np.zeros((0, 2), dtype=np.int64))

    @property
    def steps_per_epoch(self) -> float:
        """The steps of a pass, M / B without repeat factors; usually not a whole number."""
        return sum(self.lengths) / self.batch_size

    def __getitem__(self, step: int) -> PlannedBatch:
        """The global batch of a step (from 0 on). Takes O(M) time when an epoch begins, O(B) otherwise."""
        epoch = self._epoch_of(step)
        if self._epoch[0] != epoch:
            self._epoch = (epoch, self._sequence(epoch))
        group, batch = self._epoch[1][step - self._first_step(epoch)].tolist()
        positions = np.arange(batch * self.batch_size, (batch + 1) * self.batch_size)
        epochs, places = np.divmod(positions, self.lengths[group])
        parts = [(self._order(group, int(e)), places[epochs == e]) for e in np.unique(epochs)]
        indices, repetitions = (np.concatenate([order[column][at] for order, at in parts]) for column in (0, 1))
        return PlannedBatch(epochs + repetitions * REPETITION, indices)

    def _batches_before(self, epoch: int) -> list[int]:
        """How many batches each group has completed when an epoch begins."""
        return [epoch * length // self.batch_size for length in self.lengths]

    def _first_step(self, epoch: int) -> int:
        return sum(self._batches_before(epoch))

    def _epoch_of(self, step: int) -> int:
        if step < 0:
            raise IndexError(step)
        epoch = step * self.batch_size // sum(self.lengths)
        while self._first_step(epoch + 1) <= step:  # rounding down makes the estimate a few epochs low
            epoch += 1
        return epoch

    def _sequence(self, epoch: int) -> np.ndarray:
        """The epoch's batches in the order of its steps, int64 (steps, 2): group, number within the group."""
        ends = zip(self._batches_before(epoch), self._batches_before(epoch + 1), strict=True)
        numbers = [np.arange(begin, end) for begin, end in ends]
        groups = np.repeat(np.arange(len(numbers)), [len(own) for own in numbers])
        batches = np.stack([groups, np.concatenate(numbers)], axis=1)
        return batches[permutation(len(batches), hash63(self.seed, epoch, -1))]

    def _order(self, group: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """A group's images in the order of a pass, and for each how often it occurred before in the pass."""
        if (group, epoch) not in self._orders:
            if len(self._orders) >= 2 * len(self.groups):  # the pass that ends and the one that begins, for each group
                self._orders.pop(min(self._orders, key=lambda key: key[1]))
            images, repetitions = self._drawn(group, epoch)
            order = permutation(len(images), hash63(self.seed, epoch, group))
            self._orders[group, epoch] = images[order], repetitions[order]
        return self._orders[group, epoch]

    def _drawn(self, group: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The images of a pass, equal ones side by side, and for each how often it occurred before.

        Systematic sampling: the factors of the images, in an order of this pass, lie end to end on a line, from which
        equally spaced points are taken, beginning at a random place. An image gets its factor, rounded down or up.
        """
        images = self.groups[group]
        if self.factors is None:
            return images, np.zeros(len(images), dtype=np.int64)
        length = self.lengths[group]
        images = images[permutation(len(images), hash63(self.seed, epoch, group, -2))]
        ends = np.cumsum(self.factors[images])
        points = (np.arange(length) + uniform(self.seed, epoch, group, -3)) * (ends[-1] / length)
        places = np.searchsorted(ends, points, side="right").clip(max=len(images) - 1)
        return images[places], np.arange(length) - np.searchsorted(places, places)


def share(indices: np.ndarray, rank: int, world: int, accumulation: int) -> list[np.ndarray]:
    """This rank's micro-batches of a global batch, `accumulation` contiguous parts. Ranks, and the parts of a rank, are
    as even as possible.

    Over all ranks, each index occurs exactly once, for any split.

    Raises:
        ValueError: fewer images than parts.

    >>> [part.tolist() for part in share(np.arange(6), rank=1, world=2, accumulation=2)]
    [[3, 4], [5]]
    """
    parts = world * accumulation
    if len(indices) < parts:
        raise ValueError(
            f"a global batch of {len(indices)} cannot be split over {world} ranks × {accumulation} accumulation steps"
        )
    return np.array_split(np.array_split(indices, world)[rank], accumulation)


class TrainingSteps(Sequence[list[tuple[int, int]]]):
    """The (epoch, index) pairs of each of a rank's micro-batches, computed on access.

    Raises:
        ValueError: the global batch has fewer images than there are parts.
    """

    def __init__(
        self, plan: BatchPlan, first_step: int, last_step: int, rank: int, world: int, accumulation: int
    ) -> None:
        share(np.arange(plan.batch_size), rank, world, accumulation)  # raises now rather than in the first step
        self.plan, self.first_step, self.last_step = plan, first_step, last_step
        self.rank, self.world, self.accumulation = rank, world, accumulation

    def __len__(self) -> int:
        return max(0, self.last_step - self.first_step) * self.accumulation

    def __getitem__(self, number: Any) -> Any:
        if not 0 <= number < len(self):
            raise IndexError(number)
        step, part = divmod(number, self.accumulation)
        epochs, indices = self.plan[self.first_step + step]
        columns = (
            share(column, self.rank, self.world, self.accumulation)[part].tolist() for column in (epochs, indices)
        )
        return list(zip(*columns, strict=True))
