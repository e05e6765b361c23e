"""Transforms named in the config → one albumentations pipeline that moves an image, its boxes and proposals alike.

albumentations is imported only here and only when a pipeline is built (the import takes seconds). What is known to
bite, and is seen to here: with several loader workers each would draw the same augmentations, so every call is seeded;
boxes pass through float32 fractions of the image, so pipelines that only change colours never see them; importing it
looks for a newer version on the network unless told not to.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from backbones.common.errors import UserError
from backbones.common.names import did_you_mean

SLIVER = 0.01  # pixels: of boxes that a crop leaves nothing of, rounding lets some come back with a side of 1e-6


class Pipeline:
    """A callable pipeline. `transforms`: each {"name": a class of albumentations, argument: value, …}; compositions
    such as OneOf hold a list of the same under "transforms".

    Raises:
        UserError: a name or an argument that albumentations does not know.
    """

    def __init__(self, transforms: Sequence[Mapping[str, Any]]) -> None:
        self.transforms = transforms
        os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
        import albumentations

        steps = [_build(albumentations, transform) for transform in transforms]
        self.moves_boxes = not all(_only_colours(albumentations, step) for step in steps)
        if self.moves_boxes:
            rows = albumentations.BboxParams(
                format="pascal_voc", label_fields=["rows"], clip=True, filter_invalid_bboxes=True
            )
            self.compose = albumentations.Compose(steps, bbox_params=rows)
        else:
            self.compose = albumentations.Compose(steps)

    def __reduce__(self) -> tuple[type[Pipeline], tuple[Sequence[Mapping[str, Any]]]]:
        return Pipeline, (self.transforms,)

    def __call__(
        self, image: np.ndarray, boxes: np.ndarray, proposals: np.ndarray | None, seed: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
        """(image, boxes (G', 4), kept bool (G,), proposals (R', 4) or None): what a crop leaves nothing of is gone;
        the rest is clipped.
        """
        self.compose.set_random_seed(seed % 2**32)
        if not self.moves_boxes:
            return self._pixels(self.compose(image=image)), boxes, np.ones(len(boxes), dtype=bool), proposals
        together = boxes if proposals is None else np.concatenate([boxes, proposals])
        result = self.compose(image=image, bboxes=together, rows=np.arange(len(together)))
        rows = np.asarray(result["rows"]).astype(np.int64).reshape(-1)  # they come back as floats
        moved = np.asarray(result["bboxes"], dtype=np.float32).reshape(-1, 4)
        visible = (moved[:, 2:] - moved[:, :2] > SLIVER).all(axis=1)
        order = np.flatnonzero(visible)[np.argsort(rows[visible], kind="stable")]
        rows, moved = rows[order], moved[order]
        own = rows < len(boxes)
        kept = np.zeros(len(boxes), dtype=bool)
        kept[rows[own]] = True
        return self._pixels(result), moved[own], kept, None if proposals is None else moved[~own]

    def _pixels(self, result: dict[str, Any]) -> np.ndarray:
        image = result["image"]
        if (
            not isinstance(image, np.ndarray)
            or image.dtype != np.uint8
            or image.ndim != 3
            or image.shape[2] != 3
        ):
            raise UserError(
                "the albumentations pipeline does not return 8-bit RGB pixels; leave out transforms such as Normalize, "
                "ToFloat, ToTensorV2: the network's own input format sees to that"
            )
        return np.ascontiguousarray(image)


def _build(albumentations: Any, transform: Mapping[str, Any]) -> Any:
    arguments = dict(transform)
    name = arguments.pop("name", None)
    known = [
        key
        for key, value in vars(albumentations).items()
        if isinstance(value, type) and issubclass(value, (albumentations.BasicTransform, albumentations.BaseCompose))
    ]
    if name not in known:
        hint = did_you_mean(name, known) or "; each needs a `name`"
        raise UserError(f"albumentations has no transform named {name!r:.100}{hint}")
    if "transforms" in arguments:
        arguments["transforms"] = [_build(albumentations, inner) for inner in arguments["transforms"]]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # an unknown argument is only warned of
            return getattr(albumentations, name)(**arguments)
    except Exception as error:
        raise UserError(f"albumentations.{name} cannot be built from {arguments}: {error}") from error


def _only_colours(albumentations: Any, step: Any) -> bool:
    """True if a step leaves the geometry alone."""
    if isinstance(step, albumentations.BaseCompose):
        return all(_only_colours(albumentations, inner) for inner in step.transforms)
    return isinstance(step, (albumentations.ImageOnlyTransform, albumentations.NoOp))
