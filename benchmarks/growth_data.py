"""The works of `benchmarks.growth` that depend on the length of a data set, without networks and pixels.

Shapes: M images, D detections.
"""

from __future__ import annotations

import itertools
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.annotation_files import HEIGHT, WIDTH, write_annotations
from benchmarks.index_loading import IMAGES, OBJECTS
from detection.data.batch_plan import BatchPlan
from detection.data.index import DatasetIndex, load_index
from detection.data.index_cache import keep, open_kept
from detection.data.proposal_store import ProposalStore
from detection.data.proposal_writer import ProposalWriter
from detection.data.repeat_factors import repeat_factors
from detection.evaluation.average_precision import average_precision
from detection.evaluation.ground_truth import GroundTruth

Work = Callable[[], object]

STORED = 50  # proposals an image in the growing store
_LOOKED_UP = 1000  # images whose proposals are read from it
_CLASSES = 365  # Objects365's
_FOUND = 100  # detections of an image
_OBJECTS = 15  # of an image that is evaluated


def images(count: int, folder: Path) -> dict[str, Work]:
    """The index from its file and from the cache, the order of an epoch, and the proposal store of M images with COCO's
    objects."""
    os.environ["RESNEXT_CACHE"] = str(folder / "cache")
    annotations, store = folder / f"annotations-{count}.json", folder / f"proposals-{count}.safetensors"
    if not annotations.exists():
        write_annotations(annotations, count, round(OBJECTS / IMAGES * count))
    ratios = np.random.default_rng(0).uniform(0.5, 2, count)
    ids = np.arange(1, count + 1)
    boxes, scores = random_boxes(np.random.default_rng(0), STORED), np.linspace(1, 0, STORED, dtype=np.float32)
    facts = {"growth": count}

    def read() -> DatasetIndex:
        return load_index(annotations, folder, name="growth")

    def second_start() -> DatasetIndex:
        kept = open_kept(facts)
        assert kept is not None
        return kept.index.non_empty()

    def plan_epoch() -> object:
        plan = BatchPlan(ratios, 16, seed=0)
        return [plan[step] for step in range(count // 16)]

    def write_store() -> None:
        shutil.rmtree(f"{store}.partial", ignore_errors=True)
        writer = ProposalWriter(store, {"dataset_fingerprint": "none", "rpn_sha256": "none"}, ids)
        for image_id in ids.tolist():
            writer.add(image_id, boxes, scores)
        writer.finish()

    def read_store() -> None:
        opened = ProposalStore(store)
        for image_id in itertools.islice(itertools.cycle(ids[:: -(-count // _LOOKED_UP)].tolist()), _LOOKED_UP):
            opened.boxes(image_id)

    if not store.exists():
        write_store()
        index = read()
        later = time.time() + 60  # the file has just been written
        keep(facts, index, roots=[annotations], labels=annotations, images=False, since=later, least=0)
    return {
        "index, read": read,
        "index, second start": second_start,
        "repeat factors": lambda: repeat_factors(second_start(), 0.001),
        "batch plan of an epoch": plan_epoch,
        f"proposal store, {STORED} an image, written": write_store,
        f"proposal store, opened, {_LOOKED_UP:,} images read": read_store,
    }


def detections(count: int, _: Path) -> dict[str, Work]:
    """The figures of 100 detections in each of M images, 365 classes, from arrays."""
    truth, rows = evaluated(count)
    return {f"figures of {_FOUND} detections an image, {_CLASSES} classes": lambda: average_precision(truth, rows)}


def evaluated(count: int) -> tuple[GroundTruth, np.ndarray]:
    """Objects of M images, and detections (D, 7): half of them around an object, with its class."""
    random = np.random.default_rng(0)
    frequencies = 1 / np.arange(3, _CLASSES + 3)  # some classes are far more frequent than others
    frequencies /= frequencies.sum()
    owners = np.repeat(np.arange(1, count + 1), _OBJECTS)
    corners = random_boxes(random, len(owners)).astype(np.float64)
    boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
    labels = random.choice(_CLASSES, len(owners), p=frequencies) + 1
    truth = GroundTruth(
        image_ids=np.arange(1, count + 1),
        category_ids=np.arange(1, _CLASSES + 1),
        category_names=[f"thing {i}" for i in range(1, _CLASSES + 1)],
        boxes=boxes,
        areas=boxes[:, 2] * boxes[:, 3],
        crowds=random.random(len(owners)) < 0.01,
        object_image_ids=owners,
        object_category_ids=labels,
    )
    rows = np.empty((count * _FOUND, 7))
    rows[:, 0] = np.repeat(np.arange(1, count + 1), _FOUND)
    around = (rows[:, 0].astype(np.int64) - 1) * _OBJECTS + random.integers(0, _OBJECTS, len(rows))
    rows[:, 1:5] = boxes[around]
    rows[:, 1:3] += random.normal(0, 1, (len(rows), 2)) * 0.15 * rows[:, 3:5]
    rows[:, 5] = random.random(len(rows))
    rows[:, 6] = labels[around]
    noise = np.flatnonzero(random.random(len(rows)) < 0.5)
    rows[noise, 6] = random.choice(_CLASSES, len(noise), p=frequencies) + 1
    return truth, rows


def random_boxes(random: np.random.Generator, count: int) -> np.ndarray:
    """Boxes float32 (count, 4) as x0, y0, x1, y1 within an image."""
    sides = random.uniform(0.1, 0.4, (count, 2))
    corners = random.random((count, 2)) * (1 - sides)
    return (np.concatenate([corners, corners + sides], axis=1) * [WIDTH, HEIGHT, WIDTH, HEIGHT]).astype(np.float32)
