"""Transforms named in the config → one albumentations pipeline for an image, its boxes and proposals.

A pipeline is tested when it is built (`pipeline_trial.py`): one that fails on every test image is refused before
training starts. albumentations is imported only here and only when a pipeline is built (the import takes seconds).
Three of its pitfalls are avoided here: all loader workers would draw the same augmentations, so every call is seeded;
boxes are converted to float32 fractions of the image and back, so pipelines that only change colours do not receive
them; the import looks for a newer version on the network, so that is switched off.
"""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from backbones.common.errors import UserError
from backbones.common.names import did_you_mean
from detection.data.images import ImageError
from detection.data.pipeline_trial import check_arguments, try_pipeline

SLIVER = 0.01  # pixels; rounding gives some boxes that lie outside of a crop a side of 1e-6


class TransformError(ImageError):
    """A transform failed on one image. The message names the transform; the caller adds the image's name."""


class Pipeline:
    """A callable pipeline. `transforms`: each {"name": a class of albumentations, argument: value, …}; compositions
    such as OneOf hold a list of the same under "transforms".

    Args:
        tried: the pipeline has passed the test before; it is not tested again.

    Raises:
        UserError: a name or an argument that albumentations does not know; sizes that no image has; a transform that
            needs more than an image and its boxes, or that fails on every test image.
    """

    def __init__(self, transforms: Sequence[Mapping[str, Any]], *, tried: bool = False) -> None:
        self.transforms = transforms
        os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
        try:
            import albumentations
        except ImportError as error:
            raise UserError(
                f"data.albumentations needs the package albumentations, which cannot be imported ({error}); install "
                "it, or leave the key out"
            ) from error
        self._albumentations = albumentations
        check_arguments(transforms)
        self.compose, self.moves_boxes = self._compose(transforms)
        if not tried:
            try_pipeline(transforms, self._trial)

    def _compose(self, transforms: Sequence[Mapping[str, Any]]) -> tuple[Any, bool]:
        """(the pipeline, whether it moves boxes) for these transforms."""
        albumentations = self._albumentations
        steps = [_build(albumentations, transform) for transform in transforms]
        if all(_only_colours(albumentations, step) for step in steps):
            return albumentations.Compose(steps), False
        rows = albumentations.BboxParams(
            format="pascal_voc", label_fields=["rows"], clip=True, filter_invalid_bboxes=True
        )
        return albumentations.Compose(steps, bbox_params=rows), True

    def _trial(self, transforms: Sequence[Mapping[str, Any]], image: np.ndarray, seed: int, *, whole: bool) -> None:
        """Runs the transforms once on `image`. `whole`: the result must also be 8-bit RGB pixels."""
        compose, moves_boxes = self._compose(transforms)
        needed = sorted({key for step in _leaves(compose) for key in step.targets_as_params} - {"image", "bboxes"})
        if needed:
            raise UserError(
                f"albumentations.{transforms[0].get('name')} needs {', '.join(needed)} beside the image and its boxes, "
                "which a detector's training does not have; leave it out of data.albumentations"
            )
        boxes = np.array([[1, 1, image.shape[1] // 2, image.shape[0] // 2]], dtype=np.float32)
        compose.set_random_seed(seed)
        boxed = {"bboxes": boxes, "rows": np.arange(1)} if moves_boxes else {}
        result = compose(image=image, **boxed)
        if whole:
            self._pixels(result)

    def __reduce__(self) -> tuple[Any, tuple[Sequence[Mapping[str, Any]]]]:
        return functools.partial(Pipeline, tried=True), (self.transforms,)

    def __call__(
        self, image: np.ndarray, boxes: np.ndarray, proposals: np.ndarray | None, seed: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
        """(image, boxes (G', 4), kept bool (G,), proposals (R', 4) or None). Boxes outside of a crop are removed; the
        others are clipped to it.

        Raises:
            TransformError: a transform fails on this image.
        """
        together = boxes if proposals is None else np.concatenate([boxes, proposals])
        boxed = {"bboxes": together, "rows": np.arange(len(together))} if self.moves_boxes else {}
        self.compose.set_random_seed(seed % 2**32)
        try:
            result = self.compose(image=image, **boxed)
        except Exception as error:  # albumentations may raise anything
            name = self._find_failing_transform(error)
            raise TransformError(
                f"{name} failed on this image of {image.shape[1]}×{image.shape[0]} pixels with {len(boxes)} boxes "
                f"({type(error).__name__}: {' '.join(str(error).split())[:300]}). Change its arguments in "
                "data.albumentations or leave it out; or set data.skip_unreadable=true, so that other images "
                "replace those that it fails on"
            ) from error
        if not self.moves_boxes:
            return self._pixels(result), boxes, np.ones(len(boxes), dtype=bool), proposals
        rows = np.asarray(result["rows"]).astype(np.int64).reshape(-1)  # they come back as floats
        moved = np.asarray(result["bboxes"], dtype=np.float32).reshape(-1, 4)
        visible = (moved[:, 2:] - moved[:, :2] > SLIVER).all(axis=1)
        order = np.flatnonzero(visible)[np.argsort(rows[visible], kind="stable")]
        rows, moved = rows[order], moved[order]
        own = rows < len(boxes)
        kept = np.zeros(len(boxes), dtype=bool)
        kept[rows[own]] = True
        return self._pixels(result), moved[own], kept, None if proposals is None else moved[~own]

    def _find_failing_transform(self, error: BaseException) -> str:
        """The name of the transform that raised `error`: the innermost one in its traceback."""
        name, frame = "the albumentations pipeline", error.__traceback__
        while frame is not None:
            if isinstance(step := frame.tb_frame.f_locals.get("self"), self._albumentations.BasicTransform):
                name = f"albumentations.{type(step).__name__}"
            frame = frame.tb_next
        return name

    def _pixels(self, result: dict[str, Any]) -> np.ndarray:
        image = result["image"]
        if (
            not isinstance(image, np.ndarray)
            or image.dtype != np.uint8
            or image.ndim != 3
            or image.shape[2] != 3
            or image.size == 0
        ):
            raise TransformError(
                "the albumentations pipeline does not return 8-bit RGB pixels; leave out transforms such as Normalize, "
                "ToFloat, ToTensorV2: the network normalises its input itself"
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
            warnings.simplefilter("error", UserWarning)  # for an unknown argument albumentations only warns
            return getattr(albumentations, name)(**arguments)
    except Exception as error:
        raise UserError(f"albumentations.{name} cannot be built from {arguments}: {error}") from error


def _leaves(step: Any) -> Iterator[Any]:
    """The transforms in a composition."""
    for inner in step.transforms:
        if hasattr(inner, "transforms"):
            yield from _leaves(inner)
        else:
            yield inner


def _only_colours(albumentations: Any, step: Any) -> bool:
    """Whether a step changes no geometry, only pixel values."""
    if isinstance(step, albumentations.BaseCompose):
        return all(_only_colours(albumentations, inner) for inner in step.transforms)
    return isinstance(step, (albumentations.ImageOnlyTransform, albumentations.NoOp))
