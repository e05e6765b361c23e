"""The matching against a loop that goes through the scored boxes one by one."""

from __future__ import annotations

import doctest

import numpy as np
import pytest

from detection.evaluation import recall
from detection.evaluation import stable_matching as matching
from detection.evaluation.stable_matching import UNMATCHED, overlapping_pairs, pairwise_iou, stable_matching


def greedy(overlaps: np.ndarray, threshold: float) -> list[int]:
    """Rank of the row that takes each column: each row in turn takes the best free column, the later of equals."""
    held = [UNMATCHED] * overlaps.shape[1]
    for row, values in enumerate(overlaps):
        best = -1
        for column, value in enumerate(values):
            if held[column] == UNMATCHED and value >= threshold and (best < 0 or value >= values[best]):
                best = column
        if best >= 0:
            held[best] = row
    return held


@pytest.mark.parametrize("seed", range(20))
def test_equals_the_greedy_loop(seed: int) -> None:
    random = np.random.default_rng(seed)
    scored, boxes = (np.round(random.uniform(0, 6, (count, 4))) for count in random.integers(0, 30, 2))
    for side in (scored, boxes):
        side[:, 2:] += side[:, :2] + 2
    taker, box, _ = overlapping_pairs(scored, boxes, 0.3)
    held = stable_matching(taker, box, taker, len(boxes))
    assert held.tolist() == greedy(pairwise_iou(scored, boxes), 0.3)


def test_pairs_do_not_depend_on_the_block_size(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(1)
    scored, boxes = random.uniform(0, 10, (40, 4)), random.uniform(0, 10, (7, 4))
    for side in (scored, boxes):
        side[:, 2:] += side[:, :2] + 5
    whole = overlapping_pairs(scored, boxes, 0.5)
    monkeypatch.setattr(matching, "_PAIRS_AT_A_TIME", 20)
    for one, other in zip(whole, overlapping_pairs(scored, boxes, 0.5), strict=True):
        np.testing.assert_array_equal(one, other)
    assert len(whole[0]) > 10


@pytest.mark.parametrize("module", [matching, recall])
def test_worked_examples(module: object) -> None:
    outcome = doctest.testmod(module)  # type: ignore[arg-type]
    assert outcome.attempted > 0
    assert outcome.failed == 0
