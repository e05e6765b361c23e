"""Overlapping pairs of detections and objects → what each detection finds, by COCO's rule, at all IoU thresholds.

Shapes: D detections, T objects, P pairs, F finds.

The rule: in order of score, each detection is matched to the unmatched object that it overlaps most, among those that
it overlaps by the threshold or more: to a target if there is one, else to one of the ignored objects; of equal
overlaps, to the later one. A crowd region may be matched any number of times.

Most objects have only detections that overlap no other object, so that the rule leaves nothing to choose: an object is
found by the first detection that reaches the threshold, whatever is ignored. Each detection that overlaps the object
more than all before it is that one at a run of thresholds, which follows from the two overlaps. Only the others are
matched at each threshold, for each area range.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from detection.evaluation.coco_cells import Detections, Objects, Pairs
from detection.evaluation.coco_parameters import IOU_THRESHOLDS
from detection.evaluation.stable_matching import UNMATCHED, stable_matching


@dataclass(frozen=True)
class Finds:
    """Detections matched to an object, at the IoU thresholds `first` ≤ i < `last`, each int64 (F,).

    detections, objects: places by cell in `Detections` and `Objects`. They are sorted by the detections' class and
    score; one may occur several times, at different thresholds.
    """

    detections: np.ndarray
    objects: np.ndarray
    first: np.ndarray
    last: np.ndarray

    def chosen(self, rows: np.ndarray) -> Finds:
        """The finds of a mask or an order."""
        return Finds(self.detections[rows], self.objects[rows], self.first[rows], self.last[rows])

    def at(self, threshold: int) -> np.ndarray:
        """The finds at a threshold, ascending places."""
        return np.flatnonzero((self.first <= threshold) & (self.last > threshold))


class Matcher:
    """Matches once what is the same whatever objects are ignored, and the rest for each area range."""

    def __init__(self, found: Detections, objects: Objects, pairs: Pairs) -> None:
        self._found = found
        in_crowd = np.flatnonzero(objects.crowds[pairs.objects])
        count = len(objects.crowds)
        asked = pairs.objects.copy()
        asked[in_crowd] = count + np.arange(len(in_crowd))  # a copy of the crowd region for each of these pairs
        self._places = count + len(in_crowd)
        is_rival = np.zeros(self._places, dtype=bool)
        is_rival[asked[np.bincount(pairs.detections, minlength=len(found.cells))[pairs.detections] > 1]] = True
        rivals = is_rival[asked]
        contested = np.flatnonzero(rivals)
        order = np.lexsort((-pairs.objects[contested], -pairs.overlaps[contested], pairs.detections[contested]))
        contested = contested[order]
        self._pairs = Pairs(pairs.objects[contested], pairs.detections[contested], pairs.overlaps[contested])
        self._asked = asked[contested]
        self._plain = _sorted(self._found, _first_to_reach(pairs, asked, ~rivals))

    def finds(self, ignored: np.ndarray) -> Finds:
        """What each detection finds. ignored: bool (T,)."""
        if not len(self._asked):
            return self._plain
        parts = [self._plain]
        order = np.argsort(2 * self._pairs.detections + ignored[self._pairs.objects], kind="stable")
        asker, asked, overlap = self._pairs.detections[order], self._asked[order], self._pairs.overlaps[order]
        object_of = np.empty(self._places, dtype=np.int64)
        object_of[self._asked] = self._pairs.objects
        for threshold, least in enumerate(IOU_THRESHOLDS):  # ascending
            enough = overlap >= least
            asker, asked, overlap = asker[enough], asked[enough], overlap[enough]
            taker = stable_matching(asker, asked, asker, self._places)
            taken = np.flatnonzero(taker != UNMATCHED)
            at = np.full(len(taken), threshold)
            parts.append(Finds(taker[taken], object_of[taken], at, at + 1))
        columns = zip(*((part.detections, part.objects, part.first, part.last) for part in parts), strict=True)
        return _sorted(self._found, Finds(*map(np.concatenate, columns)))


def _first_to_reach(pairs: Pairs, asked: np.ndarray, chosen: np.ndarray) -> Finds:
    """The finds among the `chosen` pairs, bool (P,), whose objects `asked` compete for no detection."""
    reached = np.searchsorted(IOU_THRESHOLDS, pairs.overlaps, side="right")  # the thresholds below, 1 to 10
    reached[~chosen] = 0
    # The most reached before by a detection of the same object: a running maximum that each object begins anew.
    level = len(IOU_THRESHOLDS) + 1
    base = level * np.cumsum(np.append(False, asked[1:] != asked[:-1]), dtype=np.int64) if len(asked) else asked
    before = np.maximum.accumulate(reached + base)
    before = np.maximum(np.append(0, before[:-1])[: len(base)] - base, 0)
    finds = np.flatnonzero(reached > before)
    return Finds(pairs.detections[finds], pairs.objects[finds], before[finds], reached[finds])


def _sorted(found: Detections, finds: Finds) -> Finds:
    return finds.chosen(np.argsort(found.places[finds.detections], kind="stable"))
