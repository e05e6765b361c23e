"""The detections in one image → the forms of other tools: COCO results, pandas, supervision, YOLO and LabelMe.

The methods `to_…` of `ImageDetections` call these functions. pandas and supervision are imported on use only.
Shapes: D detections.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from backbones.common.errors import UserError

if TYPE_CHECKING:
    import pandas
    import supervision

    from detection.detector_interface import ImageDetections

_LABELME_VERSION = "5.5.0"  # of the file format; LabelMe warns where the key is missing


def coco_results(found: ImageDetections, image_id: int) -> list[dict[str, Any]]:
    """D entries of a COCO results file; "bbox" is `[x, y, width, height]` in pixels."""
    rows = zip(found.category_ids.tolist(), found.boxes.tolist(), found.scores.tolist(), strict=True)
    return [
        {"image_id": image_id, "category_id": category, "bbox": [x0, y0, x1 - x0, y1 - y0], "score": score}
        for category, (x0, y0, x1, y1), score in rows
    ]


def data_frame(found: ImageDetections) -> pandas.DataFrame:
    """D rows with the columns x0, y0, x1, y1, score, category_id and category.

    Raises:
        UserError: pandas is not installed.
    """
    frame: pandas.DataFrame = _imported("pandas", "pip install pandas").DataFrame(
        {
            **dict(zip(("x0", "y0", "x1", "y1"), found.boxes.T, strict=True)),
            "score": found.scores,
            "category_id": found.category_ids,
            "category": found.names,
        }
    )
    return frame


def supervision_detections(found: ImageDetections) -> supervision.Detections:
    """A `supervision.Detections`; its `class_id` counts from 0, `data["class_name"]` has the D class names.

    Raises:
        UserError: supervision is not installed.
    """
    import numpy as np

    # Earlier releases require opencv-python, whose files would replace those of opencv-python-headless.
    library = _imported("supervision", "pip install 'supervision>=0.31'")
    detections: supervision.Detections = library.Detections(
        xyxy=found.boxes.copy(),
        confidence=found.scores.copy(),
        class_id=found.labels - 1,
        data={"class_name": np.array(found.names, dtype=str)},
    )
    return detections


def yolo_lines(found: ImageDetections, width: int, height: int, *, with_scores: bool = False) -> list[str]:
    """D lines of a YOLO label file: class from 0 on, x and y of the centre, width and height as shares of the image's,
    and the score where `with_scores`."""
    _check_size(width, height)
    lines = []
    for label, (x0, y0, x1, y1), score in zip(
        found.labels.tolist(), found.boxes.tolist(), found.scores.tolist(), strict=True
    ):
        values = [(x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height]
        lines.append(" ".join([str(label - 1), *(f"{value:.6f}" for value in values + [score] * with_scores)]))
    return lines


def labelme_content(found: ImageDetections, image_path: str, width: int, height: int) -> dict[str, Any]:
    """The content of a LabelMe JSON file with a rectangle for each detection.

    image_path: the image as LabelMe finds it from the folder of the JSON file.
    """
    _check_size(width, height)
    shapes: list[dict[str, Any]] = [
        {
            "label": name,
            "points": [[x0, y0], [x1, y1]],
            "group_id": None,
            "description": f"score {score:.4f}",
            "shape_type": "rectangle",
            "flags": {},
        }
        for name, (x0, y0, x1, y1), score in zip(found.names, found.boxes.tolist(), found.scores.tolist(), strict=True)
    ]
    return {
        "version": _LABELME_VERSION,
        "flags": {},
        "shapes": shapes,
        "imagePath": image_path,
        "imageData": None,
        "imageHeight": height,
        "imageWidth": width,
    }


def _check_size(width: int, height: int) -> None:
    if width < 1 or height < 1:
        raise UserError(f"an image of {width} × {height} pixels has no area; give the image's width and height")


def _imported(name: str, command: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"{name} cannot be imported, which this conversion needs ({error}); run: {command}") from error
