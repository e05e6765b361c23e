"""COCO annotation file → the arrays that an evaluation compares detections with.

Shapes: M images, T objects, K categories. Boxes are COCO's `(x, y, w, h)` here, in pixels of the original image: this
is the file's edge.

The evaluation reads the annotation file by itself, apart from what a network was trained on, so that its figures are
those of the file. What pycocotools would stumble over (annotation id 0, equal ids, a missing `iscrowd` or `area`) is
mended on the arrays and counted in `repairs`; the file is never changed. Segmentations are not read: boxes are all that
is compared here, and an absurd mask never reaches pycocotools' C code.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from backbones.common.errors import UserError
from detection.common.json_stream import read_members
from detection.evaluation.json_values import LARGEST_ID, is_box, is_finite_number, plain_boxes, plain_numbers, short

_OF_UNLISTED_IMAGES = "annotations of images that are not listed, left out"
_OF_UNLISTED_CATEGORIES = "annotations of categories that are not listed, left out"


@dataclass(frozen=True)
class GroundTruth:
    """Targets of an evaluation.

    image_ids: int64 (M,), ascending; category_ids: int64 (K,), ascending; category_names: K names in that order.
    boxes: float64 (T, 4) `(x, y, w, h)`; areas: float64 (T,), the annotation's own `area` (COCO sizes an object by it,
    not by its box); crowds: bool (T,); object_image_ids, object_category_ids: int64 (T,). Objects stand in the file's
    order.
    repairs: what was mended or left out, with counts.
    """

    image_ids: np.ndarray
    category_ids: np.ndarray
    category_names: list[str]
    boxes: np.ndarray
    areas: np.ndarray
    crowds: np.ndarray
    object_image_ids: np.ndarray
    object_category_ids: np.ndarray
    repairs: dict[str, int] = field(default_factory=dict)
    source: str = "the annotations"

    def restricted_to(self, image_ids: np.ndarray | list[int]) -> GroundTruth:
        """The same targets on some of the images only.

        Raises:
            UserError: an id is not among this ground truth's images.
        """
        wanted = np.unique(np.asarray(image_ids, dtype=np.int64))
        unknown = np.setdiff1d(wanted, self.image_ids)
        if unknown.size:
            raise UserError(
                f"{self.source} has no image with id {unknown[0]} ({unknown.size} such ids were asked for): "
                "pass ids of its own images"
            )
        if not wanted.size:
            raise UserError(f"no image of {self.source} was chosen: there is nothing to evaluate")
        kept = np.isin(self.object_image_ids, wanted)
        return replace(
            self,
            image_ids=wanted,
            boxes=self.boxes[kept],
            areas=self.areas[kept],
            crowds=self.crowds[kept],
            object_image_ids=self.object_image_ids[kept],
            object_category_ids=self.object_category_ids[kept],
        )


def read_ground_truth(annotations: Path | str | dict[str, Any]) -> GroundTruth:
    """Reads a COCO annotation file, or the dict that such a file holds.

    Mended and counted: an annotation id that is 0, missing or used twice; a missing `iscrowd` (0) or `area` (box width
    times height); numbers written as text; an image or category listed twice in the same words; no list of annotations
    (nothing to find). Left out and counted, as pycocotools leaves them out: annotations of an image or a category that
    is not listed. A box without width or height stays a target, as it does for pycocotools, though nothing can match
    it; it is counted.

    Raises:
        UserError: the file is not JSON, lists no image or no category, an id is not a whole number, two images or
            categories share an id, or a box is not four finite numbers; the message names the image or annotation id.
    """
    source, members = (
        ("the annotations", annotations.items())
        if isinstance(annotations, dict)
        else (str(annotations), read_members(Path(annotations), outlines="segmentation"))
    )
    repairs: Counter[str] = Counter()
    lists: dict[str, list[Any]] = {}
    for name, block in members:
        if name in ("images", "annotations", "categories"):
            if not isinstance(block, list):
                raise _no_annotation_file(source)
            lists.setdefault(name, []).extend(_plain_targets(block) if name == "annotations" else block)
    if "annotations" not in lists:
        repairs["missing list of annotations, taken as images without objects"] += 1
    if not {"images", "categories"} <= lists.keys():
        raise _no_annotation_file(source)
    for name in ("images", "categories"):
        if not lists[name]:
            raise UserError(f"{source} lists no {name}: there is nothing to evaluate")
    images = _entries_by_id(lists["images"], "image", source, repairs)
    categories = _entries_by_id(lists["categories"], "category", source, repairs)
    table = _targets(lists.get("annotations", []), source, images, categories, repairs)
    category_ids = np.array(sorted(categories), dtype=np.int64)
    return GroundTruth(
        image_ids=np.array(sorted(images), dtype=np.int64),
        category_ids=category_ids,
        category_names=[str(categories[i].get("name", i)) for i in category_ids.tolist()],
        boxes=table[:, 2:6],
        areas=table[:, 6],
        crowds=table[:, 7] > 0,
        object_image_ids=table[:, 0].astype(np.int64),
        object_category_ids=table[:, 1].astype(np.int64),
        repairs=dict(+repairs),
        source=source,
    )


def _no_annotation_file(source: str) -> UserError:
    return UserError(
        f"{source} is not a COCO annotation file: it needs the three lists `images`, `annotations` and `categories`"
    )


def _plain_targets(block: list[Any]) -> list[Any]:
    """A block of annotations as one array (n, 9) of id, image_id, category_id, x, y, w, h, area, crowd; as they stand
    if one of them needs a closer look.
    """
    try:
        columns = [
            plain_numbers([entry[key] for entry in block])
            for key in ("id", "image_id", "category_id", "area", "iscrowd")
        ]
        boxes = plain_boxes([entry["bbox"] for entry in block])
    except (TypeError, KeyError, ValueError, OverflowError):
        return block
    ids, areas, crowds = np.stack(columns[:3]), columns[3], columns[4]
    usual = (
        (ids == np.round(ids)).all()
        and (np.abs(ids) <= LARGEST_ID).all()
        and ids[0].all()
        and (boxes[:, 2:] > 0).all()
        and (areas >= 0).all()
        and np.isin(crowds, (0, 1)).all()
    )
    return [np.column_stack([*ids, boxes, areas, crowds])] if usual else block


def _targets(
    parts: list[Any], source: str, images: dict[int, Any], categories: dict[int, Any], repairs: Counter[str]
) -> np.ndarray:
    """Annotations, single ones and arrays of `_plain_targets`, in the file's order → (T, 8) image_id, category_id, x,
    y, w, h, area, crowd.
    """
    listed_images, listed_categories = np.array(list(images)), np.array(list(categories))
    rows, ids = [np.zeros((0, 8))], [np.zeros(0)]
    position = 0
    for part in parts:
        if isinstance(part, np.ndarray):
            position += len(part)
            on_listed = np.isin(part[:, 1].astype(np.int64), listed_images)
            of_listed = np.isin(part[:, 2].astype(np.int64), listed_categories)
            repairs[_OF_UNLISTED_IMAGES] += int((~on_listed).sum())
            repairs[_OF_UNLISTED_CATEGORIES] += int((on_listed & ~of_listed).sum())
            part = part[on_listed & of_listed]
            rows.append(part[:, 1:])
            ids.append(part[:, 0])
        else:
            row = _target(part, position, source, images, categories, repairs)
            position += 1
            if row is not None:
                rows.append(np.array([row]))
                ids.append(_usable_id(part.get("id"), repairs))
    all_ids = np.concatenate(ids)
    repairs["annotations with an id used before, numbered anew"] += len(all_ids) - len(np.unique(all_ids))
    return np.concatenate(rows)


def _target(
    annotation: Any,
    position: int,
    source: str,
    images: dict[int, Any],
    categories: dict[int, Any],
    repairs: Counter[str],
) -> tuple[float, ...] | None:
    """One annotation → image_id, category_id, x, y, w, h, area, crowd; None where it is left out."""
    if not isinstance(annotation, dict):
        raise UserError(f"{source}: annotation number {position} (from 0) is not an object but {short(annotation)}")
    place = f"{source}: annotation id {short(annotation.get('id'))} (number {position} from 0)"
    image_id = _whole_number(annotation.get("image_id"), f"{place}: image_id", repairs)
    category_id = _whole_number(annotation.get("category_id"), f"{place}: category_id", repairs)
    if image_id not in images:
        repairs[_OF_UNLISTED_IMAGES] += 1
        return None
    if category_id not in categories:
        repairs[_OF_UNLISTED_CATEGORIES] += 1
        return None
    box = annotation.get("bbox")
    numbers = [_number(entry, repairs) for entry in box] if isinstance(box, (list, tuple)) else []
    if not is_box(numbers):
        raise UserError(
            f"{place}: bbox must be four finite numbers x, y, width, height, not {short(box)}: "
            "correct it or take the annotation out"
        )
    x, y, width, height = (float(number) for number in numbers)
    if width <= 0 or height <= 0:
        repairs["boxes without width or height, kept as targets that nothing can match (as pycocotools does)"] += 1
    area = _number(annotation.get("area"), repairs)
    if not is_finite_number(area) or area < 0:
        repairs["annotations without a usable `area`, taken as width times height"] += 1
        area = min(max(width, 0.0) * max(height, 0.0), 1e10)  # where COCO's widest range of sizes ends
    crowd = annotation.get("iscrowd")
    if crowd is None:
        repairs["annotations without `iscrowd`, taken as 0"] += 1
        crowd = 0
    elif not isinstance(crowd, (int, float)) or crowd not in (0, 1):
        raise UserError(f"{place}: iscrowd must be 0 or 1, not {short(crowd)}")
    return (image_id, category_id, x, y, width, height, float(area), float(crowd))


def _number(value: Any, repairs: Counter[str]) -> Any:
    """`value`, or the number that it spells."""
    if not isinstance(value, str):
        return value
    try:
        number = float(value)
    except ValueError:
        return value
    repairs["numbers written as text, read as numbers"] += 1
    return number


def _whole_number(value: Any, place: str, repairs: Counter[str]) -> int:
    number = _number(value, repairs)
    if not is_finite_number(number) or int(number) != number or abs(number) > LARGEST_ID:
        raise UserError(f"{place} must be a whole number, not {short(value)}")
    return int(number)


def _entries_by_id(entries: list[Any], kind: str, source: str, repairs: Counter[str]) -> dict[int, dict[str, Any]]:
    by_id: dict[int, dict[str, Any]] = {}
    for position, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise UserError(f"{source}: {kind} number {position} (from 0) is not an object but {short(entry)}")
        number = _whole_number(entry.get("id"), f"{source}: the id of {kind} number {position} (from 0)", repairs)
        if number in by_id:
            if by_id[number] != entry:
                raise UserError(
                    f"{source}: two entries share {kind} id {number}: which is meant cannot be told; "
                    "give one of them another id"
                )
            repairs[f"{kind} entries that repeat an earlier one, taken once"] += 1
        by_id[number] = entry
    return by_id


def _usable_id(identity: Any, repairs: Counter[str]) -> np.ndarray:
    """The id, (1,), or (0,) if pycocotools cannot work with it. All targets are numbered anew, so it never matters."""
    if not is_finite_number(identity):
        repairs["annotations without a numeric id, numbered anew"] += 1
    elif identity == 0:
        repairs["annotations with id 0, numbered anew (pycocotools would never match them)"] += 1
    else:
        return np.array([identity], dtype=np.float64)
    return np.zeros(0)
