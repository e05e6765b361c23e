"""An albumentations pipeline in a configuration → nothing, or an error that says why the pipeline cannot work.

First its structure and its numbers are checked, since a transform may be configured to create an image of any size.
Then it runs on small images with a box: each transform alone, then all together, each with probability 1. A transform
that fails on small images may work on larger ones (a crop of 600 pixels): it is refused only if it fails on those, too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from backbones.common.errors import UserError
from detection.common.shortened import short
from detection.data.images import PIXEL_LIMIT

_MOST_TRANSFORMS = 100
_DEEPEST = 5
_LARGEST = 100_000  # of any number
_SIDES = re.compile(r"height|width|size|side|pad|px|crop")
_FACTORS = re.compile(r"scale|percent|zoom|factor")
_LARGEST_FACTOR = 20
_TRIED = ((64, 96), (480, 640), (2048, 3072))  # height, width
_SEEDS = range(3)

Transforms = Sequence[Mapping[str, Any]]


def check_arguments(transforms: Any) -> None:
    """Raises UserError unless `transforms` is a list of named transforms with numbers that images can have."""
    for count, (transform, depth) in enumerate(_each(transforms, 0), start=1):
        if count > _MOST_TRANSFORMS or depth > _DEEPEST:
            raise UserError(
                f"data.albumentations: more than {_MOST_TRANSFORMS} transforms, or more than {_DEEPEST} within each "
                "other"
            )
        for key, value in transform.items():
            for number in _numbers(value) if key != "transforms" else ():
                if not abs(number) <= _LARGEST or (_FACTORS.search(str(key)) and abs(number) > _LARGEST_FACTOR):
                    raise UserError(
                        f"data.albumentations: {short(transform.get('name'))}: {short(key)} is {short(number)}, which "
                        "suits no image"
                    )
        largest = sorted(_sides(transform))[-2:]
        if largest and largest[0] * largest[-1] > PIXEL_LIMIT:  # a single side may be that of a square
            raise UserError(
                f"data.albumentations: {short(transform.get('name'))} makes images of up to {largest[-1]:g}×"
                f"{largest[0]:g} pixels, more than the {PIXEL_LIMIT} that an image may have"
            )


def try_pipeline(transforms: Transforms, run: Callable[..., None]) -> None:
    """Runs each transform alone, then all together.

    Args:
        run: (transforms, image, seed, whole=…) builds and runs them.

    Raises:
        UserError: a transform, or all together, fail on every test image; also every UserError of `run`.
    """
    for transform in _leaves(transforms):
        _try([_always_apply(transform)], run, whole=False)
    _try([_always_apply(transform) for transform in transforms], run, whole=True)


def _try(transforms: Transforms, run: Callable[..., None], *, whole: bool) -> None:
    largest = int(max((side for transform in _leaves(transforms) for side in _sides(transform)), default=0))
    tried = [*_TRIED, (largest, largest)] if largest > min(_TRIED[-1]) else _TRIED
    for height, width in tried:
        image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
        try:
            for seed in _SEEDS:
                run(transforms, image, seed, whole=whole)
            return
        except UserError:
            raise
        except Exception as error:  # albumentations may raise anything
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    names = ", ".join(str(transform.get("name")) for transform in transforms)
    sizes = ", ".join(f"{width}×{height}" for height, width in tried)
    raise UserError(
        f"data.albumentations: {names} fails on images of {sizes} pixels ({reason}); change its arguments or leave it "
        "out"
    )


def _each(transforms: Any, depth: int) -> Iterator[tuple[Mapping[str, Any], int]]:
    if not isinstance(transforms, (list, tuple)) or not transforms:
        raise UserError(
            f"data.albumentations: expected a list of transforms, [{{name: HorizontalFlip, p: 0.5}}, …], got "
            f"{short(transforms)}"
        )
    for transform in transforms:
        if not isinstance(transform, Mapping):
            raise UserError(
                f"data.albumentations: expected a transform, {{name: HorizontalFlip, p: 0.5}}, got {short(transform)}"
            )
        yield transform, depth
        if "transforms" in transform and depth <= _DEEPEST:
            yield from _each(transform["transforms"], depth + 1)


def _leaves(transforms: Transforms) -> Iterator[Mapping[str, Any]]:
    for transform in transforms:
        if "transforms" in transform:
            yield from _leaves(transform["transforms"])
        else:
            yield transform


def _always_apply(transform: Mapping[str, Any]) -> dict[str, Any]:
    """The same transform with probability 1."""
    certain = {**transform, "p": 1.0}
    if "transforms" in transform:
        certain["transforms"] = [_always_apply(inner) for inner in transform["transforms"]]
    return certain


def _sides(transform: Mapping[str, Any]) -> list[float]:
    """The numbers of a transform that may be sides of an image."""
    return [
        abs(number)
        for key, value in transform.items()
        if key != "transforms" and _SIDES.search(str(key))
        for number in _numbers(value)
    ]


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _numbers(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _numbers(inner)
