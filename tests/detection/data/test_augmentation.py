"""Augmentation: pixels, boxes and proposals move together, and only the seed decides how."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from backbones.common.errors import UserError
from detection.common.seeds import uniform
from detection.data.albumentations_pipeline import Pipeline, TransformError
from detection.data.augmentation import Augmentation, crop_boxes, flip_boxes, scale_boxes
from detection.data.dataset import DetectionDataset
from detection.data.images import ImageError
from detection.data.index import DatasetIndex


def marked(height: int, width: int, boxes: np.ndarray) -> np.ndarray:
    """A black image on which each box (whole pixels) is filled with a colour of its own."""
    image = np.zeros((height, width, 3), dtype=np.uint8)
    for i, (x0, y0, x1, y1) in enumerate(boxes.astype(int)):
        image[y0:y1, x0:x1] = (60 + 30 * i, 255 - 30 * i, 100)
    return image


def found(image: np.ndarray, i: int) -> list[int]:
    """The box around the pixels of colour i, to be compared with the box that came out."""
    rows, columns = np.nonzero(np.abs(image.astype(int) - (60 + 30 * i, 255 - 30 * i, 100)).max(axis=2) < 12)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


BOXES = np.array([[2, 4, 12, 10], [20, 14, 40, 30], [0, 20, 6, 30]], dtype=np.float32)


@pytest.mark.parametrize(("horizontal", "vertical"), [(0, 0), (1, 0), (0, 1), (1, 1)])
def test_flips_and_resize_move_boxes_with_the_pixels(horizontal: int, vertical: int) -> None:
    augmentation = Augmentation([60], 1000, horizontal_flip=horizontal, vertical_flip=vertical)
    result = augmentation(marked(30, 40, BOXES), BOXES, BOXES[::-1], seed=1)
    assert result.image.shape == (60, 80, 3)
    assert result.scale == (2.0, 2.0)
    assert result.kept.all()
    for i in range(3):
        assert np.abs(result.boxes[i] - found(result.image, i)).max() <= 1
    assert result.proposals is not None
    assert np.array_equal(result.proposals, result.boxes[::-1])


@pytest.mark.parametrize("size", [(30, 40), (50, 20)])
def test_scale_jitter_is_torchvisions(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """`ScaleJitter` with the same draw: sizes to a pixel, as it rounds down; then a crop of pixels and boxes."""
    tv, tensors = pytest.importorskip("torchvision.transforms.v2"), pytest.importorskip("torchvision.tv_tensors")
    augmentation = Augmentation([600], 1000, scale_jitter=(0.1, 2.0), scale_jitter_side=64)
    image, boxes = marked(*size, BOXES[:1]), np.minimum(BOXES, (size[1], size[0], size[1], size[0]))
    sizes = set()
    for seed in range(60):
        result = augmentation(image, boxes, boxes, seed)
        monkeypatch.setattr(torch, "rand", lambda *_, seed=seed: torch.tensor([uniform(seed, 4)]))
        given = {
            "image": tensors.Image(torch.from_numpy(image).permute(2, 0, 1)),
            "boxes": tensors.BoundingBoxes(torch.from_numpy(boxes), format="XYXY", canvas_size=size),
        }
        scaled = tv.ScaleJitter((64, 64), (0.1, 2.0))(given)
        whole = tuple(round(side * scale) for side, scale in zip(size, result.scale, strict=True))
        assert np.abs(np.subtract(whole, scaled["image"].shape[1:])).max() <= 1
        window = result.image.shape[:2]
        assert window == tuple(min(side, 64) for side in whole) == augmentation.target_size(*size, seed)
        top, left = (int(uniform(seed, 5 + i) * (whole[i] - window[i] + 1)) for i in range(2))
        cropped = tv.functional.crop(scaled["boxes"], top, left, *window)
        alive = ((cropped[:, 2:] - cropped[:, :2]) > 1.5).all(dim=1).numpy()  # a sliver may be there or not
        assert result.kept[alive].all()
        ours = dict(zip(np.flatnonzero(result.kept).tolist(), result.boxes, strict=True))
        for row in np.flatnonzero(alive).tolist():
            assert np.abs(ours[row] - cropped[row].numpy()).max() <= 2
        assert (result.boxes[:, 2:] > result.boxes[:, :2]).all()
        assert np.array_equal(result.proposals, result.boxes)
        sizes.add(window)
    assert min(max(window) for window in sizes) < 15
    assert 64 in {max(window) for window in sizes}


def test_a_window_takes_the_pixels_of_its_boxes() -> None:
    augmentation = Augmentation([600], 1000, scale_jitter=(2.0, 2.0), scale_jitter_side=40, horizontal_flip=0.5)
    seen = 0
    for seed in range(20):
        result = augmentation(marked(30, 40, BOXES), BOXES, None, seed)
        assert result.image.shape == (40, 40, 3)
        for row, i in enumerate(np.flatnonzero(result.kept)):
            if (result.boxes[row, 2:] - result.boxes[row, :2]).min() > 4:
                assert np.abs(result.boxes[row] - found(result.image, int(i))).max() <= 1
                seen += 1
    assert seen > 20


def test_boxes_outside_a_window_are_told() -> None:
    boxes = np.array([[0, 0, 2, 2], [1, 1, 9, 9], [2, 2, 2, 5]], dtype=np.float32)
    parts, inside = crop_boxes(boxes, 2, 2, (5, 4))
    assert inside.tolist() == [False, True, False]
    assert parts.tolist() == [[0, 0, 4, 5]]
    with pytest.raises(ValueError, match="scale jitter"):
        Augmentation([600], 1000, scale_jitter=(2.0, 1.0))


def test_flip_without_resize_is_exact() -> None:
    augmentation = Augmentation([30], 1000, horizontal_flip=1)
    image = marked(30, 40, BOXES)
    result = augmentation(image, BOXES, None, seed=1)
    assert np.array_equal(result.image, image[:, ::-1])
    assert result.boxes.tolist() == [[28, 4, 38, 10], [0, 14, 20, 30], [34, 20, 40, 30]]
    assert result.proposals is None


@given(
    corner=st.tuples(st.integers(0, 90), st.integers(0, 90)),
    side=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    horizontal=st.booleans(),
    vertical=st.booleans(),
)
def test_flips_are_their_own_inverse(
    corner: tuple[int, int], side: tuple[int, int], horizontal: bool, vertical: bool
) -> None:
    boxes = np.array([[*corner, corner[0] + side[0], corner[1] + side[1]]], dtype=np.float32)
    once = flip_boxes(boxes, (99, 99), horizontal, vertical)
    assert (once[:, 2:] > once[:, :2]).all()
    assert np.array_equal(flip_boxes(once, (99, 99), horizontal, vertical), boxes)


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (480, 640, (600, 800)),  # as in the paper
        (640, 480, (800, 600)),
        (427, 640, (600, 899)),  # 899.3
        (375, 500, (600, 800)),
        (300, 640, (469, 1000)),  # the longer side decides: 468.75
        (1, 5000, (1, 1000)),  # 0.2 of a pixel is still a pixel
        (1, 1, (600, 600)),
    ],
)
def test_sizes_follow_shorter_and_longer_side(height: int, width: int, expected: tuple[int, int]) -> None:
    assert Augmentation([600], 1000).target_size(height, width, seed=0) == expected


def test_the_edge_stays_the_edge() -> None:
    augmentation = Augmentation([600], 1000)
    for width in range(601, 700):
        whole = np.array([[0, 0, width, 427]], dtype=np.float32)
        result = augmentation(np.zeros((427, width, 3), dtype=np.uint8), whole, whole, seed=0)
        height, width = result.image.shape[:2]
        assert result.boxes.tolist() == [[0, 0, width, height]]


def test_scale_boxes_is_exact_to_float32() -> None:
    random = np.random.default_rng(0)
    boxes = random.uniform(0, 480, (1000, 4)).astype(np.float32)
    scaled = scale_boxes(boxes, (600 / 427, 899 / 640), (10_000, 10_000))
    exact = boxes.astype(np.longdouble) * np.array([899 / 640, 600 / 427] * 2)
    assert (np.abs(scaled - exact) <= np.spacing(scaled) / 2 * (1 + 1e-6)).all()


def test_one_of_several_sizes_is_drawn() -> None:
    choice = Augmentation([480, 600, 720], 2000)
    assert {choice.target_size(100, 150, seed)[0] for seed in range(100)} == {480, 600, 720}


def test_flip_probability_and_independence_of_the_draws() -> None:
    boxes = np.array([[0, 0, 1, 2]], dtype=np.float32)
    image = np.zeros((8, 8, 3), dtype=np.uint8)
    sides = {}
    for probability in (0.0, 0.3):
        augmentation = Augmentation([8, 16], 100, horizontal_flip=probability)
        results = [augmentation(image, boxes, None, seed) for seed in range(1000)]
        sides[probability] = [result.image.shape[0] for result in results]
        flipped = np.mean([result.boxes[0, 0] > 0 for result in results])
        assert abs(flipped - probability) < 0.06
    assert sides[0.0] == sides[0.3]  # switching flips on leaves the sizes as they were


def test_no_boxes() -> None:
    empty = np.zeros((0, 4), dtype=np.float32)
    result = Augmentation([20], 40, horizontal_flip=1)(np.zeros((10, 10, 3), dtype=np.uint8), empty, empty, seed=0)
    assert result.boxes.shape == (0, 4)
    assert result.proposals is not None
    assert result.proposals.shape == (0, 4)


@pytest.mark.parametrize(
    "arguments",
    [
        {"shorter_sides": [], "longer_side_max": 10},
        {"shorter_sides": [0], "longer_side_max": 10},
        {"shorter_sides": [10], "longer_side_max": 0},
        {"shorter_sides": [10], "longer_side_max": 10, "horizontal_flip": 1.5},
    ],
)
def test_impossible_settings(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must"):
        Augmentation(**arguments)


# --- albumentations -------------------------------------------------------------------------------------------------


def deep(depth: int) -> dict[str, Any]:
    """Compositions within each other."""
    return {"name": "Sequential", "transforms": [deep(depth - 1) if depth else {"name": "Blur"}]}


CROP = {"name": "RandomCrop", "height": 20, "width": 20, "p": 1.0}
COLOURS = {"name": "RandomBrightnessContrast", "p": 1.0}


def test_pipeline_moves_boxes_and_proposals_with_the_pixels() -> None:
    augmentation = Augmentation([30], 1000, albumentations=[{"name": "HorizontalFlip", "p": 1.0}])
    image = marked(30, 40, BOXES)
    result = augmentation(image, BOXES, BOXES[1:], seed=1)
    assert np.array_equal(result.image, image[:, ::-1])
    assert np.abs(result.boxes - flip_boxes(BOXES, (30, 40), True, False)).max() < 1e-4
    assert result.proposals is not None
    assert np.abs(result.proposals - result.boxes[1:]).max() < 1e-4


def test_crops_drop_and_clip_and_say_which_boxes_are_left() -> None:
    augmentation = Augmentation([20], 1000, albumentations=[CROP])
    image = marked(30, 40, BOXES)
    kept_counts = set()
    for seed in range(40):
        result = augmentation(image, BOXES, BOXES[::-1], seed)
        assert result.kept.shape == (3,)
        assert len(result.boxes) == result.kept.sum()
        kept_counts.add(int(result.kept.sum()))
        for row, i in enumerate(np.flatnonzero(result.kept)):
            assert np.abs(result.boxes[row] - found(result.image, i)).max() < 1e-3
        assert result.proposals is not None
        assert np.abs(result.proposals - result.boxes[::-1]).max(initial=0) < 1e-4
        assert result.boxes.min(initial=0) >= 0
        assert result.boxes.max(initial=0) <= 20
    assert len(kept_counts) > 1


def test_pipeline_is_a_function_of_the_seed() -> None:
    image = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    first, second = (Augmentation([30], 1000, albumentations=[COLOURS, CROP]) for _ in range(2))
    results = [first(image, BOXES, None, seed) for seed in (1, 2, 3)]
    again = [second(image, BOXES, None, seed) for seed in (3, 2, 1)]
    for one, other in zip(results, again[::-1], strict=True):
        assert np.array_equal(one.image, other.image)
        assert np.array_equal(one.boxes, other.boxes)
    assert not np.array_equal(results[0].image, results[1].image)


def test_colour_pipelines_leave_boxes_alone_to_the_bit() -> None:
    random = np.random.default_rng(0)
    boxes = np.sort(random.uniform(0, 30, (50, 2, 2)).astype(np.float32), axis=1).reshape(50, 4)
    group = {"name": "OneOf", "p": 1.0, "transforms": [COLOURS, {"name": "Blur", "p": 1.0}]}
    augmentation = Augmentation([30], 1000, albumentations=[group])
    result = augmentation(np.zeros((30, 40, 3), dtype=np.uint8), boxes, None, seed=3)
    assert np.array_equal(result.boxes, boxes)


def test_pipeline_without_boxes_and_after_pickling() -> None:
    empty = np.zeros((0, 4), dtype=np.float32)
    augmentation = pickle.loads(pickle.dumps(Augmentation([20], 1000, albumentations=[CROP])))
    result = augmentation(np.zeros((30, 40, 3), dtype=np.uint8), empty, None, seed=0)
    assert result.boxes.shape == (0, 4)
    result = augmentation(np.zeros((30, 40, 3), dtype=np.uint8), empty, BOXES, seed=0)
    assert result.boxes.shape == (0, 4)
    assert result.proposals is not None
    assert len(result.proposals) > 0


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        ({"name": "HorizontalFlop"}, "no transform named 'HorizontalFlop'; did you mean 'HorizontalFlip'"),
        ({"p": 1}, "needs a `name`"),
        ({"name": "HorizontalFlip", "probability": 1}, "HorizontalFlip cannot be built"),
        ({"name": "RandomCrop", "height": "tall"}, "RandomCrop cannot be built"),
        ({"name": "os"}, "no transform named 'os'"),
    ],
)
def test_unknown_transforms_and_arguments(transform: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Augmentation([20], 40, albumentations=[transform])


@pytest.mark.parametrize("p", [1.0, 0.01])
def test_pipelines_that_change_the_kind_of_pixels_are_refused(p: float) -> None:
    """Before any image is seen, however rarely the transform is applied."""
    with pytest.raises(UserError, match="8-bit RGB"):
        Augmentation([20], 40, albumentations=[{"name": "ToFloat", "p": p}])
    both = [{"name": "ToFloat", "p": 1.0}, {"name": "FromFloat", "dtype": "uint8", "p": 1.0}]
    assert Augmentation([20], 40, albumentations=both).pipeline is not None


@pytest.mark.parametrize(
    ("transforms", "message"),
    [
        ("HorizontalFlip", "expected a list of transforms, .* got 'HorizontalFlip'"),
        ({"name": "HorizontalFlip"}, "expected a list of transforms"),
        ([], "expected a list of transforms"),
        (["HorizontalFlip"], "expected a transform, .*, got 'HorizontalFlip'"),
        ([["HorizontalFlip"]], "expected a transform"),
        ([{"name": "OneOf", "transforms": "Blur"}], "expected a list of transforms, .* got 'Blur'"),
        ([{"name": "OneOf", "transforms": []}], "expected a list of transforms"),
        ([{"name": "OneOf", "transforms": [{"name": "Blur"}] * 101}], "more than 100 transforms"),
        ([deep(8)], "more than 5 within each other"),
        ([{"name": "Resize", "height": 10**9, "width": 10**9}], "'height' is 1000000000, which suits no image"),
        ([{"name": "Resize", "height": 32768, "width": 32768}], "makes images of up to 32768×32768 pixels"),
        ([{"name": "LongestMaxSize", "max_size": 32768}], "makes images of up to 32768×32768 pixels"),
        ([{"name": "LongestMaxSize", "max_size_hw": [32768, 32768]}], "makes images of up to"),
        ([{"name": "CropAndPad", "px": 30000}], "makes images of up to 30000×30000 pixels"),
        ([{"name": "RandomScale", "scale_limit": [0, 1000.0]}], "'scale_limit' is 1000.0, which suits no image"),
        ([{"name": "Blur", "blur_limit": float("nan")}], "'blur_limit' is nan, which suits no image"),
        ([{"name": "Resize", "height": 0, "width": 0}], "Resize cannot be built"),
        ([{"name": "MaskDropout", "p": 0.01}], "MaskDropout needs mask beside the image"),
        ([{"name": "Mosaic", "p": 0.01}], "Mosaic needs mosaic_metadata beside the image"),
        ([{"name": "OneOf", "transforms": [{"name": "Blur"}, {"name": "FDA"}]}], "FDA needs fda_metadata beside"),
        ([{"name": "RandomCropNearBBox"}], "needs cropping_bbox beside"),
        ([{"name": "CoarseDropout3D", "p": 0.1}], "CoarseDropout3D fails on images of 96×64, .* pixels .*volume"),
        ([{"name": "BasicTransform"}], "BasicTransform (cannot be built|fails)"),
        ([{"name": "Lambda", "image": "lambda"}], "Lambda (cannot be built|fails)"),
        ([{"name": "Crop", "x_min": 50000, "y_min": 0, "x_max": 60000, "y_max": 9}], "Crop fails on images of"),
    ],
)
def test_pipelines_that_can_work_on_no_image_are_refused_when_they_are_built(transforms: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        Pipeline(transforms)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "transform",
    [
        {"name": "RandomCrop", "height": 600, "width": 600},
        {"name": "RandomCrop", "height": 4000, "width": 4000},  # of aerial photographs
        {"name": "RandomSizedBBoxSafeCrop", "height": 300, "width": 400},
        {"name": "PadIfNeeded", "min_height": 1024, "min_width": 1024},
        {"name": "Affine", "scale": [0.5, 2.0], "rotate": [-30, 30]},
        {"name": "SomeOf", "n": 2, "transforms": [{"name": "Blur"}, {"name": "HueSaturationValue"}, {"name": "D4"}]},
    ],
)
def test_pipelines_that_work_on_some_images_are_taken(transform: dict[str, Any]) -> None:
    assert Augmentation([20], 40, albumentations=[transform]).pipeline is not None


def test_a_transform_that_fails_on_one_image_names_itself_and_the_remedy() -> None:
    augmentation = Augmentation(
        [600], 1000, albumentations=[{"name": "RandomCrop", "height": 600, "width": 600, "p": 1.0}]
    )
    with pytest.raises(
        TransformError, match=r"albumentations\.RandomCrop failed on this image of 40×30 pixels with 3"
    ) as caught:
        augmentation(np.zeros((30, 40, 3), dtype=np.uint8), BOXES, None, seed=0)
    assert "data.skip_unreadable=true" in str(caught.value)


def test_a_pipeline_is_not_tried_again_in_each_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    pickled = pickle.dumps(Augmentation([20], 1000, albumentations=[CROP]))
    monkeypatch.setattr("detection.data.albumentations_pipeline.try_pipeline", None)
    assert pickle.loads(pickled).pipeline is not None


def test_without_the_package_the_key_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "albumentations", None)
    with pytest.raises(UserError, match=r"data\.albumentations needs the package albumentations"):
        Pipeline([CROP])


def test_the_image_that_a_transform_fails_on_is_named_or_replaced(make_index: Callable[..., DatasetIndex]) -> None:
    index = make_index([(30, 40), (80, 90), (85, 95)])
    crop = {"name": "RandomCrop", "height": 60, "width": 60, "p": 1.0}
    augmentation = Augmentation([60], 1000, albumentations=[crop])
    with pytest.raises(ImageError) as caught:
        DetectionDataset(index, augmentation)[0, 0]
    assert str(caught.value).startswith(f"{index.path(0)}: albumentations.RandomCrop failed on this image of 40×30")
    sample = DetectionDataset(index, augmentation, unreadable="replace")[0, 0]
    assert sample.index in (1, 2)
    assert sample.problem is not None
    assert sample.problem.startswith(f"{index.path(0)}: albumentations.RandomCrop failed")
    assert DetectionDataset(index, augmentation)[0, 1].problem is None
