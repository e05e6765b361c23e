"""A large image and a detector → its detections, found in overlapping tiles and merged.

An object that a tile's border cuts is found more than once: as fragments, or as a fragment in one tile and whole in
another. Two detections of one class in two tiles are of the same object if they agree on the area that both tiles see:
the IoU of the boxes, clipped to that area, is at least `AGREEMENT`. A tile's own detections are different objects,
because the detector has suppressed its duplicates.

Shapes: D detections, T tiles, H × W image.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from backbones.common.errors import UserError
from detection.base_detector import BaseDetector
from detection.detector_interface import ImageDetections

AGREEMENT = 0.5
_NEAR, _NEAR_SHARE = 4, 0.05  # pixels, and share of an object's side, within which its box ends at a border
_CELL = 512  # pixels; only objects near each other are compared
_COVERED = 0.8  # a fragment with this share inside a whole object of its class is a part of it


def tile_windows(height: int, width: int, tile: int, overlap: float) -> np.ndarray:
    """The tiles (T, 4) int64 `(x0, y0, x1, y1)` that cover an image, row by row.

    Neighbours share at least `overlap` of the side of a tile; the last ones end at the border of the image.

    Raises:
        UserError: tile is less than 16 pixels, or overlap is not in 0–0.9.
    """
    if tile < 16:
        raise UserError(f"a tile of {tile} pixels is too small; give at least 16")
    if not 0 <= overlap <= 0.9:
        raise UserError(f"the overlap of tiles is {overlap}; give a share in 0–0.9 of their side")
    step = max(1, int(tile * (1 - overlap)))
    starts = [[*range(0, max(side - tile, 0), step), max(side - tile, 0)] for side in (height, width)]
    return np.array([(x, y, min(x + tile, width), min(y + tile, height)) for y, x in itertools.product(*starts)])


def scale_of_tiles(detector: BaseDetector, tile: int) -> str:
    """What the detector does with tiles of this side, in words: it resizes one as an image of its size."""
    side = detector.input_size(tile, tile)[0]
    return f"tiles of {tile} pixels are resized to {side}: objects have {side / tile:.2g} of their size for the network"


def detect_in_tiles(
    detector: Callable[[np.ndarray], ImageDetections], image: Any, tile: int = 800, overlap: float = 0.2
) -> ImageDetections:
    """The detections in an image, found tile by tile; boxes in pixels of the image.

    Args:
        detector: called with one tile uint8 (h, w, 3) at a time.
        image: uint8 (H, W, 3) RGB; also an array that is read where it is sliced, such as a `numpy.memmap`.

    Raises:
        UserError: see `tile_windows`.
    """
    height, width = image.shape[:2]
    windows = tile_windows(height, width, tile, overlap)
    found = [detector(np.ascontiguousarray(image[y0:y1, x0:x1])) for x0, y0, x1, y1 in windows.tolist()]
    return merge_tiles(found, windows, height, width)


def merge_tiles(found: list[ImageDetections], windows: np.ndarray, height: int, width: int) -> ImageDetections:
    """The detections in T tiles, boxes in pixels of their tile → those in the image, each object once.

    Of the detections of one object, the best that no border cuts gives the box, see `_is_cut`; if all are cut, the box
    encloses them. The score is that of the box, or the best of them.
    """
    tiles = np.repeat(np.arange(len(found)), [len(one) for one in found])
    boxes = np.concatenate([one.boxes + window[[0, 1, 0, 1]] for one, window in zip(found, windows, strict=True)])
    scores = np.concatenate([one.scores for one in found])
    labels = np.concatenate([one.labels for one in found])
    ids = np.concatenate([one.category_ids for one in found])
    names = [name for one in found for name in one.names]
    borders = _inner_borders(windows, height, width)[tiles]

    merged_boxes, merged_cut, first = [], [], []
    for members in _objects(boxes, scores, labels, tiles, windows):
        own = np.array(sorted(members, key=lambda place: -scores[place]))
        hull = np.concatenate([boxes[own, :2].min(axis=0), boxes[own, 2:].max(axis=0)])
        whole = own[~_is_cut(boxes[own], hull, borders[own])]
        merged_cut.append(not len(whole))
        first.append(whole[0] if len(whole) else own[0])
        merged_boxes.append(boxes[whole[0]] if len(whole) else hull)
    places, all_boxes = np.array(first, dtype=np.int64), np.array(merged_boxes).reshape(-1, 4)
    kept = _without_parts(all_boxes, np.array(merged_cut, dtype=bool), labels[places], scores[places])
    places = places[kept]
    return ImageDetections(
        all_boxes[kept].astype(np.float32), scores[places], labels[places], [names[p] for p in places], ids[places]
    )


def _inner_borders(windows: np.ndarray, height: int, width: int) -> np.ndarray:
    """The borders (T, 4) of tiles; one that is also the image's lies at infinity."""
    far = np.array([-np.inf, -np.inf, np.inf, np.inf])
    return np.where(windows == np.array([0, 0, width, height]), far, windows)


def _is_cut(boxes: np.ndarray, hull: np.ndarray, borders: np.ndarray) -> np.ndarray:
    """Which detections (M, 4) of one object a border of their tile (M, 4) cuts: bool (M,).

    One that ends near the border is cut, because a detector finds the end of a fragment no more exactly than that of an
    object; and one where another detection of the object, within their `hull`, goes on beyond the border.
    """
    sides = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
    near = np.maximum(_NEAR, _NEAR_SHARE * sides)
    beyond = (hull - borders) * np.array([-1, -1, 1, 1]) > near
    return ((np.abs(boxes - borders) <= near) | beyond).any(axis=1)


def _objects(
    boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, tiles: np.ndarray, windows: np.ndarray
) -> list[list[int]]:
    """The detections grouped by object: those that agree most are joined first, at most one of each tile."""
    pairs = []
    starts = np.searchsorted(tiles, np.arange(len(windows) + 1))
    for one, other in _tiles_that_overlap(windows):
        common = np.concatenate(
            [np.maximum(windows[one, :2], windows[other, :2]), np.minimum(windows[one, 2:], windows[other, 2:])]
        )
        first, second = (_within(boxes, common, starts[tile], starts[tile + 1]) for tile in (one, other))
        if not len(first) or not len(second):
            continue
        iou = _iou(_clipped(boxes[first], common), _clipped(boxes[second], common))
        iou[labels[first][:, None] != labels[second]] = 0
        for i, j in np.argwhere(iou >= AGREEMENT).tolist():
            pairs.append((iou[i, j], int(first[i]), int(second[j])))
    group = [[place] for place in range(len(boxes))]
    for _, i, j in sorted(pairs, reverse=True):
        if group[i] is not group[j] and not {tiles[k] for k in group[i]} & {tiles[k] for k in group[j]}:
            joined = group[i] + group[j]
            for place in joined:
                group[place] = joined
    return list({id(members): members for members in group}.values())


def _tiles_that_overlap(windows: np.ndarray) -> Iterator[tuple[int, int]]:
    """The pairs of tiles (T, 4) with a common area, found in a time that is proportional to the number of tiles."""
    order = np.argsort(windows[:, 1], kind="stable")
    tops = windows[order, 1]
    ends = np.searchsorted(tops, windows[order, 3])
    for place, one in enumerate(order.tolist()):
        below = order[place + 1 : ends[place]]  # these begin above its lower end
        beside = (windows[below, 0] < windows[one, 2]) & (windows[below, 2] > windows[one, 0])
        yield from ((one, other) for other in below[beside].tolist())


def _within(boxes: np.ndarray, area: np.ndarray, start: int, end: int) -> np.ndarray:
    """The places from `start` to `end` of boxes that reach into an area (4,)."""
    own = boxes[start:end]
    return start + np.flatnonzero((own[:, :2] < area[2:]).all(axis=1) & (own[:, 2:] > area[:2]).all(axis=1))


def _without_parts(boxes: np.ndarray, is_cut: np.ndarray, labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """The objects to keep, in descending order of score, without fragments that lie within a whole object of their
    class."""
    whole: dict[tuple[int, int, int], list[int]] = {}
    for place in np.flatnonzero(~is_cut).tolist():
        for cell in _cells(boxes[place], labels[place]):
            whole.setdefault(cell, []).append(place)
    kept = []
    for place in np.argsort(-scores, kind="stable").tolist():
        near = _cells(boxes[place], labels[place]) if is_cut[place] else ()
        others = sorted({other for cell in near for other in whole.get(cell, ())})
        if others:
            inside = _intersection(boxes[place : place + 1], boxes[others])[0]
            if (inside >= _COVERED * np.prod(boxes[place, 2:] - boxes[place, :2])).any():
                continue
        kept.append(place)
    return np.array(kept, dtype=np.int64)


def _cells(box: np.ndarray, label: int) -> Iterator[tuple[int, int, int]]:
    """The squares of a grid that a box reaches into, each with the label."""
    x0, y0, x1, y1 = (box // _CELL).astype(int).tolist()
    return ((int(label), x, y) for x in range(x0, x1 + 1) for y in range(y0, y1 + 1))


def _clipped(boxes: np.ndarray, area: np.ndarray) -> np.ndarray:
    return np.concatenate([np.maximum(boxes[:, :2], area[:2]), np.minimum(boxes[:, 2:], area[2:])], axis=1)


def _intersection(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    start = np.maximum(first[:, None, :2], second[None, :, :2])
    end = np.minimum(first[:, None, 2:], second[None, :, 2:])
    return np.prod((end - start).clip(min=0), axis=2)


def _iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The IoU of boxes (A, 4) and (B, 4): (A, B). A box without area has IoU 0."""
    common = _intersection(first, second)
    areas = [np.prod((boxes[:, 2:] - boxes[:, :2]).clip(min=0), axis=1) for boxes in (first, second)]
    return common / np.maximum(areas[0][:, None] + areas[1] - common, 1e-9)
