"""Outcomes of detections → the confusion matrix of classes, with background."""

from __future__ import annotations

import numpy as np

from detection.evaluation.outcomes import MATCH_IOU, Outcomes
from detection.evaluation.stable_matching import UNMATCHED, stable_matching


def confusion_matrix(outcomes: Outcomes, classes: int, score_threshold: float) -> np.ndarray:
    """int64 (K + 1, K + 1): objects of each class (rows) by what they are detected as (columns).

    Only detections with a score of at least `score_threshold` count. Every object and every detection that counts is in
    one cell: first the correct detections are entered on the diagonal; then, in order of score, each other detection is
    matched to the object, found by no correct one, that it overlaps most at IoU 0.5 or more, of any class. The last
    column are objects that no detection is matched to (missed), the last row detections without an object (background).
    """
    kept = outcomes.counted & (outcomes.scores >= score_threshold)
    correct = outcomes.correct & kept
    found = np.zeros(len(outcomes.targets), dtype=bool)
    found[outcomes.about[correct]] = True
    matrix = np.zeros((classes + 1, classes + 1), dtype=np.int64)
    np.add.at(matrix, (outcomes.classes[correct], outcomes.classes[correct]), 1)

    pair, thing = outcomes.pair_detections, outcomes.pair_objects
    left = (outcomes.pair_ious >= MATCH_IOU) & (kept & ~correct)[pair] & ~found[thing]
    held = stable_matching(pair[left], thing[left], pair[left], len(found))
    taken = np.flatnonzero(held != UNMATCHED)
    np.add.at(matrix, (outcomes.object_classes[taken], outcomes.classes[held[taken]]), 1)

    found[taken] = True
    alone = kept & ~correct
    alone[held[taken]] = False
    np.add.at(matrix, (np.full(alone.sum(), classes), outcomes.classes[alone]), 1)
    missed = outcomes.targets & ~found
    np.add.at(matrix, (outcomes.object_classes[missed], np.full(missed.sum(), classes)), 1)
    return matrix
