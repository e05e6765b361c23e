"""The whole pair in its plain forms and in those of each kind of device: the same detections, losses and gradients."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from detection.config import Runtime
from detection.config_file import load_config
from detection.data.augmentation import Augmentation
from detection.data.batches import Sample, collate
from detection.data.demo_drawing import draw_image
from detection.data.images import read_image
from detection.experiment.builders import build_fast_rcnn, build_rpn, pair
from detection.kernels.choice import CPU, CUDA, PLAIN, Kernels, kernels_for, use_kernels
from detection.networks.faster_rcnn import FasterRCNN
from detection.training.placement import placed
from tests.detection.pipeline import REPOSITORY
from tests.detection.tiny_networks import batch, spread, tiny_fast_rcnn, tiny_rpn

TINY = ["backbone.depths=[1,1,1,1]", "backbone.planes=8", "backbone.cardinality=2", "backbone.base_width=16"]
TINY += ["backbone.stem_width=8", "backbone.weights=null", "backbone.norm=group", "backbone.freeze=null"]
TINY += ["rpn.channels=16", "fast_rcnn.min_score=0.02", "rpn.test_proposals.before_nms=300"]


@pytest.fixture(scope="module", params=["demo", "coco_small"])
def images(request: pytest.FixtureRequest) -> list[np.ndarray]:
    """Two images, drawn or real."""
    if request.param == "demo":
        return [draw_image(np.random.default_rng(seed)).image for seed in range(2)]
    folder: Path = request.getfixturevalue("shared_data") / "coco_small" / "val2017"
    return [read_image(path) for path in sorted(folder.glob("*.jpg"))[:2]]


@pytest.fixture(scope="module", params=["paper", "modern"])
def network(request: pytest.FixtureRequest) -> FasterRCNN:
    """A tiny network with a preset's pooling and limits whose boxes and scores do not tie."""
    config = load_config(REPOSITORY / f"configs/{request.param}/resnext50_32x4d.yaml", TINY)
    torch.manual_seed(0)
    network = pair(config, build_rpn(config), build_fast_rcnn(config, 5)).eval()
    spread(network)
    return network


def detections_of(network: FasterRCNN, kernels: Kernels, image: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
    network = copy.deepcopy(network)
    use_kernels(network, kernels)
    nothing = np.zeros((0, 4), dtype=np.float32)
    resized = Augmentation(shorter_sides=(200,), longer_side_max=320)(image, nothing, None, seed=0).image
    one = Sample(
        image=torch.from_numpy(resized).permute(2, 0, 1),
        image_id=1,
        index=0,
        original_size=(image.shape[0], image.shape[1]),
        boxes=torch.zeros(0, 4),
        labels=torch.zeros(0, dtype=torch.int64),
        crowds=torch.zeros(0, dtype=torch.bool),
        proposals=None,
        seed=0,
    )
    both = collate([one, one], 32)
    with torch.inference_mode():
        return network(both.images, both.sizes, both.original_sizes)[1]


def test_the_plain_pair_detects_the_same(network: FasterRCNN, images: list[np.ndarray]) -> None:
    found = 0
    for image in images:
        expected_boxes, expected_scores, expected_labels = detections_of(network, PLAIN, image)
        for kernels in (CPU, CUDA):
            boxes, scores, labels = detections_of(network, kernels, image)
            torch.testing.assert_close(scores, expected_scores, atol=1e-5, rtol=0)
            for box, score, label in zip(expected_boxes, expected_scores, expected_labels, strict=True):
                # Rounding may let two that tie change places.
                same = (labels == label) & ((scores - score).abs() < 1e-5)
                assert (boxes[same] - box).abs().amax(dim=1).min() < 1e-2
        found += len(expected_scores)
    assert found > 30


@pytest.mark.parametrize("kernels", [CPU, CUDA], ids=["CPU", "CUDA"])
@pytest.mark.parametrize("pooling", ["align", "max"])
def test_the_plain_networks_learn_the_same(pooling: str, kernels: Kernels) -> None:
    proposals = torch.tensor([[[8.0, 8, 60, 50], [30, 20, 90, 80], [0, 0, 128, 96]]] * 2)
    given = batch([[[10, 10, 60, 50]], [[40, 20, 90, 70]]], [[1], [2]], proposals=proposals)
    for network in (tiny_rpn(), tiny_fast_rcnn(pooling=pooling)):
        results = []
        for own in (PLAIN, kernels):
            use_kernels(network, own)
            losses = network(given)
            total = torch.stack([loss.sum() for loss in losses.values()]).sum()
            learning = [parameter for parameter in network.parameters() if parameter.requires_grad]
            results.append([*losses.values(), *torch.autograd.grad(total, learning)])
        for plain, other in zip(*results, strict=True):
            torch.testing.assert_close(other, plain, rtol=1e-3, atol=1e-4 * plain.abs().max().item())


def test_placement_chooses_by_the_device_and_the_configuration() -> None:
    network = placed(tiny_fast_rcnn(), Runtime(), torch.device("cpu"))
    assert network.kernels is network.box_head.kernels is CPU
    assert placed(tiny_rpn(), Runtime(kernels="plain"), torch.device("cpu")).head.kernels is PLAIN
    assert [kernels_for(torch.device(name)) for name in ("cpu", "cuda", "meta")] == [CPU, CUDA, PLAIN]
