"""COCO annotation file → the arrays that an evaluation compares detections with.

Shapes: M images, T objects, K categories. Boxes are COCO's `(x, y, w, h)` here, in pixels of the original image: this
is the file's edge.

The evaluation reads the annotation file by itself, apart from what a network was trained on, so that its figures are
those of the file. What pycocotools would stumble over (annotation id 0, equal ids, a missing `iscrowd` or `area`) is
mended on the arrays and counted in `repairs`; the file is never changed. Segmentations are not read: boxes are all that
is compared here, and an absurd mask never reaches pycocotools' C code.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from detection.errors import UserError

LARGEST_ID = 2**53  # beyond it float64 no longer holds every whole number


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
    if isinstance(annotations, dict):
        source, content = "the annotations", annotations
    else:
        source, content = str(annotations), read_json(Path(annotations))
    repairs: Counter[str] = Counter()
    if isinstance(content, dict) and "annotations" not in content:
        repairs["missing list of annotations, taken as images without objects"] += 1
        content = {**content, "annotations": []}
    if not isinstance(content, dict) or not all(
        isinstance(content.get(key), list) for key in ("images", "annotations", "categories")
    ):
        raise UserError(
            f"{source} is not a COCO annotation file: it needs the three lists `images`, `annotations` and `categories`"
        )
    if not content["images"] or not content["categories"]:
        raise UserError(
            f"{source} lists no {'images' if not content['images'] else 'categories'}: there is nothing to evaluate"
        )
    images = _entries_by_id(content["images"], "image", source, repairs)
    categories = _entries_by_id(content["categories"], "category", source, repairs)

    rows: list[tuple[float, ...]] = []
    seen_ids: set[Any] = set()
    for position, annotation in enumerate(content["annotations"]):
        row = _target(annotation, position, source, images, categories, repairs)
        if row is not None:
            _count_id_repair(annotation.get("id"), seen_ids, repairs)
            rows.append(row)

    table = np.array(rows, dtype=np.float64).reshape(-1, 8)
    category_ids = np.array(sorted(categories), dtype=np.int64)
    return GroundTruth(
        image_ids=np.array(sorted(images), dtype=np.int64),
        category_ids=category_ids,
        category_names=[str(categories[int(i)].get("name", i)) for i in category_ids],
        boxes=table[:, 2:6],
        areas=table[:, 6],
        crowds=table[:, 7] > 0,
        object_image_ids=table[:, 0].astype(np.int64),
        object_category_ids=table[:, 1].astype(np.int64),
        repairs=dict(repairs),
        source=source,
    )


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
        repairs["annotations of images that are not listed, left out"] += 1
        return None
    if category_id not in categories:
        repairs["annotations of categories that are not listed, left out"] += 1
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


def read_json(path: Path) -> Any:
    """The content of a JSON file, with or without a byte order mark.

    Raises:
        UserError: the file is missing, unreadable, not JSON, or nested beyond reason.
    """
    try:
        return json.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError are both ValueErrors
        raise UserError(f"{path} is not a whole JSON file ({error}): write or download it again") from error


def is_finite_number(value: Any) -> bool:
    """Whether `value` is an int or a float that float64 can hold, and neither NaN nor infinite. A bool is no number."""
    largest = sys.float_info.max  # JSON knows whole numbers of any length
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -largest <= value <= largest


def is_box(box: Any) -> bool:
    """Whether `box` is a list of four finite numbers."""
    return isinstance(box, (list, tuple)) and len(box) == 4 and all(map(is_finite_number, box))


def short(value: Any) -> str:
    """`value` as a message shows it."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


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


def _count_id_repair(identity: Any, seen: set[Any], repairs: Counter[str]) -> None:
    """Counts ids that pycocotools cannot work with. All targets are numbered anew, so none of them matters."""
    if not is_finite_number(identity):
        repairs["annotations without a numeric id, numbered anew"] += 1
    elif identity == 0:
        repairs["annotations with id 0, numbered anew (pycocotools would never match them)"] += 1
    elif identity in seen:
        repairs["annotations with an id used before, numbered anew"] += 1
    else:
        seen.add(identity)
