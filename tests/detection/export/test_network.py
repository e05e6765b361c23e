"""The module that is exported against the `Detector`, both in PyTorch."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch

from backbones import FeaturePyramid
from detection.common.categories import Categories
from detection.data.augmentation import Augmentation
from detection.detector import Detector
from detection.detector_interface import ImageDetections
from detection.export.network import BatchDetector, ImageDetector
from detection.export.suppression import nms, onnx_nms
from detection.export.verification import difference
from detection.geometry.anchors import Anchors
from detection.geometry.roi_pooling import RoIPooling
from detection.kernels import region_features
from detection.networks.box_heads import TwoLayerBoxHead
from detection.networks.fast_rcnn import FastRCNN
from detection.networks.faster_rcnn import FasterRCNN
from detection.networks.rpn import RPN
from tests.detection.tiny_networks import spread, tiny_backbone, tiny_fast_rcnn, tiny_rpn

CLASSES = Categories((3, 7, 9), ("cat", "dog", "owl"))
RESIZE = Augmentation((96,), 160)
SHAPES = [(96, 128), (50, 40), (97, 61), (3, 200), (200, 1), (7, 7)]


def c4(pooling: str) -> FasterRCNN:
    return FasterRCNN(
        tiny_rpn(), tiny_fast_rcnn(pooling=pooling), before_nms=200, proposals=30, min_side=1.0, min_score=0.1
    )


def pyramids() -> FasterRCNN:
    torch.manual_seed(0)
    levels = ("c2", "c3", "c4", "c5")
    own = FeaturePyramid(tiny_backbone(outputs=levels), 16, outputs=("p2", "p3", "p4", "p5", "p6"))
    strides = list(own.strides.values())
    rpn = RPN(own, Anchors([[8.0], [16], [32], [64], [128]], (0.5, 1.0), strides), channels=16)
    trunk = FeaturePyramid(tiny_backbone(outputs=levels), 16, outputs=("p2", "p3", "p4", "p5"))
    head = TwoLayerBoxHead(RoIPooling("align", 4, tuple(trunk.strides.values()), 2), 16, 32)
    fast_rcnn = FastRCNN(trunk, head, classes=len(CLASSES))
    spread(rpn)
    spread(fast_rcnn)
    return FasterRCNN(rpn, fast_rcnn, before_nms=50, proposals=40, min_side=1.0, min_score=0.1)


NETWORKS: dict[str, Callable[[], FasterRCNN]] = {
    "C4, RoIAlign": lambda: c4("align"),
    "C4, RoI max-pooling": lambda: c4("max"),
    "pyramids": pyramids,
}


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in SHAPES]


def detections(boxes: torch.Tensor, scores: torch.Tensor, labels: torch.Tensor) -> ImageDetections:
    return ImageDetections.of_labels(boxes.numpy(), scores.numpy(), labels.numpy(), CLASSES)


def assert_same(got: ImageDetections, expected: ImageDetections) -> None:
    outcome = difference(got, expected)
    assert not isinstance(outcome, str), outcome
    assert outcome[0] < 1e-3
    assert outcome[1] < 1e-5


@pytest.mark.parametrize("wide", [1, 1 << 20])
@pytest.mark.parametrize("name", NETWORKS)
def test_it_detects_what_the_detector_detects(
    name: str, wide: int, images: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also with conv5's first convolution before the pooling, which wide networks have there."""
    monkeypatch.setattr(region_features, "_WIDE", wide)
    network = NETWORKS[name]()
    detector = Detector(copy.deepcopy(network), CLASSES, RESIZE)
    module = ImageDetector(BatchDetector(network, RESIZE, 32))
    found = 0
    for image in images:
        expected = detector(image)
        with torch.no_grad():
            got = module(torch.from_numpy(image))
        assert [part.dtype for part in got] == [torch.float32, torch.float32, torch.int64]
        assert_same(detections(*got), expected)
        found += len(expected)
    assert found > 20


def test_in_a_batch_it_detects_the_same(images: list[np.ndarray]) -> None:
    network = c4("align")
    module = BatchDetector(network, RESIZE, 160, onnx_nms)  # one padded size for all
    detector = Detector(copy.deepcopy(network), CLASSES, RESIZE, size_divisor=160)
    padded = torch.full((len(images), 200, 200, 3), 77, dtype=torch.uint8)
    for place, image in zip(padded, images, strict=True):
        place[: image.shape[0], : image.shape[1]] = torch.from_numpy(image)
    with torch.no_grad():
        found = module(padded, torch.tensor([image.shape[:2] for image in images]))
    for boxes, scores, labels, count, image in zip(*found, images, strict=True):
        assert_same(detections(boxes[:count], scores[:count], labels[:count]), detector(image))
        assert not boxes[count:].any()
        assert not scores[count:].any()
        assert not labels[count:].any()


def test_no_detections_at_all(images: list[np.ndarray]) -> None:
    network = c4("align")
    network.min_score = 1.0
    with torch.no_grad():
        boxes, scores, labels = ImageDetector(BatchDetector(network, RESIZE, 32))(torch.from_numpy(images[0]))
    assert (boxes.shape, scores.shape, labels.shape) == ((0, 4), (0,), (0,))


def test_the_limit_of_detections_counts_all_classes(images: list[np.ndarray]) -> None:
    network = c4("align")
    network.detections = 3
    expected = Detector(copy.deepcopy(network), CLASSES, RESIZE)(images[0])
    assert len(expected) == 3
    with torch.no_grad():
        assert_same(
            detections(*ImageDetector(BatchDetector(network, RESIZE, 32, nms))(torch.from_numpy(images[0]))), expected
        )


def test_the_network_given_is_not_changed() -> None:
    network = c4("align")
    before = network.rpn.kernels
    ImageDetector(BatchDetector(network, RESIZE, 32))
    assert network.rpn.kernels is before
    assert any(parameter.requires_grad for parameter in network.parameters())
