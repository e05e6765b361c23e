"""The analysis of an evaluation → the images of the report: the worst ones, and labels that may be wrong.

<folder>/images/evaluated_<image id>.jpg    the worst images in full size, ground truth beside detections
<folder>/label_suggestions.json             labels that may be wrong, in COCO's format; the labels are not changed
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from backbones.common.files import write_json
from detection.data.index import DatasetIndex
from detection.evaluation.ground_truth import GroundTruth
from detection.evaluation.label_checks import Suspicion
from detection.evaluation.outcomes import KINDS, Outcomes
from detection.experiment.analysis import Analysis
from detection.experiment.dataset_images import image_of
from detection.report.drawing import draw_found, draw_objects, side_by_side
from detection.report.drawing_file import require_replaceable, save_drawing
from detection.report.kinds import KINDS as SHOWN_KINDS
from detection.report.page import ShownImage, ShownSuspicions, embed_image

SUGGESTIONS = "label_suggestions.json"
_CROPS = 8  # suspicions of each kind on the page
_HEADINGS = {
    "missing": "Confident detections where nothing is annotated",
    "class": "Confident detections of another class than the annotated one",
    "unfound": "Annotated boxes in which nothing is detected",
}


def mistakes_of_images(outcomes: Outcomes, images: int, threshold: float) -> np.ndarray:
    """How many mistakes of each kind there are in each image, int64 (M, kinds of outcomes + 1): detections with a score
    of at least `threshold`, by kind, and in the last column the objects that none of them finds."""
    kept = outcomes.counted & (outcomes.scores >= threshold)
    counts = np.zeros((images, len(KINDS) + 1), dtype=np.int64)
    np.add.at(counts, (outcomes.images[kept], outcomes.kinds[kept]), 1)
    missed = outcomes.targets & ~_found(outcomes, threshold)
    np.add.at(counts, (outcomes.object_images[missed], np.full(missed.sum(), len(KINDS))), 1)
    return counts


def worst_images(counts: np.ndarray, number: int) -> list[int]:
    """The places of the images to be shown, at most `number`, in descending order of mistakes.

    One half has the most mistakes of all kinds; the rest, in turn, the most of each kind, so that each kind is seen.
    """
    wrong = counts[:, 1:]
    ranking = np.argsort(-wrong.sum(axis=1), kind="stable").tolist()
    chosen = dict.fromkeys(ranking[: (number + 1) // 2])
    of_kind = [np.argsort(-wrong[:, kind], kind="stable") for kind in range(wrong.shape[1])]
    for place in range(len(counts)):
        for kind, order in enumerate(of_kind):
            if len(chosen) < number and wrong[order[place], kind]:
                chosen.setdefault(int(order[place]))
    for image in ranking:  # where there are fewer mistakes than places
        if len(chosen) < number:
            chosen.setdefault(image)
    return [image for image in ranking if image in chosen]


def require_own_drawings(folder: Path) -> None:
    """Raises a UserError if a file has the name of a drawing and is none."""
    for path in _drawings(folder):
        require_replaceable(path)


def _drawings(folder: Path) -> list[Path]:
    """The files there that have names of drawings."""
    return [path for path in folder.glob("evaluated_*.jpg") if re.fullmatch(r"evaluated_-?[0-9]+\.jpg", path.name)]


def show_worst(
    index: DatasetIndex, ground_truth: GroundTruth, analysis: Analysis, folder: Path, number: int
) -> list[ShownImage]:
    """Writes drawings of the worst images, ground truth beside detections, and returns them for the page. Drawings of
    an earlier evaluation in the folder are removed, other files are kept."""
    require_own_drawings(folder)
    for path in _drawings(folder):
        path.unlink()
    threshold = analysis.thresholds.overall
    counts = mistakes_of_images(analysis.outcomes, len(index), threshold)
    shown = []
    for i in worst_images(counts, min(number, len(index))):
        image = image_of(index, i)
        if image is None:
            continue
        both = _draw(image, i, ground_truth, analysis.outcomes, threshold)
        path = folder / f"evaluated_{int(index.image_ids[i]):012d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        save_drawing(path, both)
        names = [*KINDS, "missed"]
        found = [(name, count) for name, count in zip(names, counts[i].tolist(), strict=True) if count]
        listed = ", ".join(f"{count} {SHOWN_KINDS[name].heading}" for name, count in found) or "no object, no detection"
        caption = f"{index.file_name(i)} (image id {index.image_ids[i]}): {listed}; in full size: images/{path.name}"
        shown.append(ShownImage(embed_image(both), caption, [name for name, _ in found]))
    return shown


def _draw(image: np.ndarray, i: int, truth: GroundTruth, outcomes: Outcomes, threshold: float) -> np.ndarray:
    names = truth.category_names
    objects = np.flatnonzero(outcomes.object_images == i)
    found = _found(outcomes, threshold)[objects] | ~outcomes.targets[objects]
    rows = np.flatnonzero((outcomes.images == i) & (outcomes.scores >= threshold) & outcomes.counted)
    kinds = [KINDS[kind] for kind in outcomes.kinds[rows].tolist()]
    return side_by_side(
        draw_objects(
            image,
            _corners(truth.boxes[objects]),
            [names[k] for k in outcomes.object_classes[objects].tolist()],
            [SHOWN_KINDS["correct" if one else "missed"].color for one in found.tolist()],
            truth.crowds[objects],
        ),
        draw_found(
            image,
            _corners(outcomes.boxes[rows]),
            [f"{names[outcomes.classes[row]]} {outcomes.scores[row]:.2f}" for row in rows.tolist()],
            [SHOWN_KINDS[kind].color for kind in kinds],
            outcomes.scores[rows],
        ),
        ("ground truth (dashed)", f"detections of score {threshold:.2f} and above"),
    )


def show_suspicions(
    index: DatasetIndex, ground_truth: GroundTruth, suspicions: Sequence[Suspicion]
) -> ShownSuspicions | None:
    """The first suspicions of each kind for the page; None if there are none."""
    if not suspicions:
        return None
    numbers = Counter(one.kind for one in suspicions)
    groups = []
    for kind, heading in _HEADINGS.items():
        of_kind = [one for one in suspicions if one.kind == kind]
        crops = [crop for one in of_kind[:_CROPS] if (crop := _crop(index, ground_truth, one)) is not None]
        if crops:
            groups.append((f"{heading}: {numbers[kind]}", crops))
    text = (
        f"Ranked by how sure the detector is; the first {_CROPS} of each kind. All are in {SUGGESTIONS}, for "
        "annotation tools that read COCO's format. A person must decide: the labels were not changed."
    )
    return ShownSuspicions(text, groups)


def write_suggestions(
    path: Path, index: DatasetIndex, ground_truth: GroundTruth, suspicions: Sequence[Suspicion]
) -> None:
    """Writes the suspicions as a COCO annotation file. An annotation is a suggested object with its `score`, and
    `suggestion`: "missing", "class" (with `stated_category_id`, what the labels say), or "unfound" (an annotated
    object, as it is, that may be none)."""
    ids = ground_truth.category_ids.tolist()
    images = sorted({one.image for one in suspicions})
    annotations = []
    for number, one in enumerate(suspicions, start=1):
        box = [round(value, 2) for value in one.box]
        entry = {
            "id": number,
            "image_id": int(index.image_ids[one.image]),
            "category_id": ids[one.label],
            "bbox": box,
            "area": round(box[2] * box[3], 2),
            "iscrowd": 0,
            "score": round(one.confidence, 4),
            "suggestion": one.kind,
        }
        if one.stated is not None:
            entry["stated_category_id"] = ids[one.stated]
        annotations.append(entry)
    content = {
        "info": {"description": f"labels of {index.annotation_file.name} that may be wrong; none of them was changed"},
        "images": [
            {
                "id": int(index.image_ids[i]),
                "file_name": index.file_name(i),
                "width": int(index.widths[i]),
                "height": int(index.heights[i]),
            }
            for i in images
        ],
        "categories": [
            {"id": number, "name": name} for number, name in zip(ids, ground_truth.category_names, strict=True)
        ],
        "annotations": annotations,
    }
    write_json(path, content, indent=1)


def _crop(index: DatasetIndex, truth: GroundTruth, one: Suspicion) -> ShownImage | None:
    image = image_of(index, one.image)
    if image is None:
        return None
    x, y, width, height = one.box
    room = max(24.0, 0.6 * max(width, height))  # around the box, so that one sees what is beside it
    x0, y0 = max(0, int(x - room)), max(0, int(y - room))
    x1, y1 = min(image.shape[1], int(x + width + room) + 1), min(image.shape[0], int(y + height + room) + 1)
    if x0 >= x1 or y0 >= y1:
        return None
    box = np.array([[x - x0, y - y0, x + width - x0, y + height - y0]])
    name = truth.category_names[one.label]
    color = SHOWN_KINDS[{"missing": "background", "class": "confusion", "unfound": "missed"}[one.kind]].color
    draw = draw_objects if one.kind == "unfound" else draw_found
    text = {
        "missing": f"{name}, score {one.confidence:.2f}",
        "class": f"{name}, score {one.confidence:.2f}; annotated: {truth.category_names[one.stated or 0]}",
        "unfound": f"{name}; {one.confidence:.0%} of the objects of such a size are found",
    }[one.kind]
    caption = f"{index.file_name(one.image)}: {text}"
    return ShownImage(embed_image(draw(image[y0:y1, x0:x1], box, [name], [color]), longest=480), caption)


def _found(outcomes: Outcomes, threshold: float) -> np.ndarray:
    """bool (S,): the objects that a detection with a score of at least `threshold` finds."""
    found = np.zeros(len(outcomes.targets), dtype=bool)
    found[outcomes.about[outcomes.correct & (outcomes.scores >= threshold)]] = True
    return found


def _corners(boxes: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
