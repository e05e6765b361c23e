"""torchvision's detector, as the benchmarks build it, computes what ours computes: losses, proposals, detections."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torchvision.models.detection.image_list import ImageList

from backbones import InputFormat
from benchmarks.common import matched_share
from benchmarks.detector import agreements
from benchmarks.gpu.scenes import SMALL
from benchmarks.scene import Scene, make_scene
from benchmarks.torchvision_peer import PeerDetector, as_floats, as_lists, build_peer
from detection.config import Config
from detection.config_file import load_config
from detection.networks.network_input import prepare
from detection.networks.torchvision_weights import from_torchvision
from tests.detection.tiny_networks import batch as make_batch

OVERRIDES = [*SMALL, "runtime.device=cpu"]
SIZE = (96, 120)  # padded to 128


def config_of(repository: object, preset: str, *changes: str) -> Config:
    return load_config(f"{repository}/configs/{preset}/resnext50_32x4d.yaml", [*OVERRIDES, *changes])


@pytest.fixture(scope="module", params=["paper", "modern", "pyramid"])
def scene(request: pytest.FixtureRequest, repository: object) -> Scene:
    return make_scene(config_of(repository, request.param), SIZE, torch.device("cpu"))


def test_both_find_the_same(scene: Scene) -> None:
    assert agreements(scene) == {"proposals": 1.0, "detections": 1.0, "detections with one trunk": 1.0}
    arguments = (scene.batch.images, scene.batch.sizes, scene.batch.original_sizes)
    with torch.inference_mode():
        (found,) = scene.detector(*arguments)
    assert len(found.scores) >= 5, "agreement on next to nothing says nothing"


def test_a_wrong_answer_would_be_noticed(scene: Scene) -> None:
    box = scene.detector.fast_rcnn.box_targets
    with torch.no_grad():
        box.bias += 0.5
    try:
        assert agreements(scene)["detections"] < 0.5
    finally:
        with torch.no_grad():
            box.bias -= 0.5


def test_boxes_come_back_in_pixels_of_the_original(scene: Scene) -> None:
    batch = scene.batch
    larger = batch.original_sizes * torch.tensor([[2, 3]])
    with torch.inference_mode():
        (ours,), (theirs,) = (
            network(batch.images, batch.sizes, larger) for network in (scene.detector, PeerDetector(scene.peer))
        )
    # The paper's smallest side counts in the original image with us, and in the resized one there.
    if scene.config.rpn.test_proposals.min_side == 0:
        assert matched_share(ours, theirs, (3e-2, 1e-4, 0)) == 1
    assert theirs.boxes[:, 2].max() > batch.sizes[0, 1]


def test_the_rpn_loses_the_same_over_all_anchors(repository: object) -> None:
    """Sampling is random on either side; with a quota for all anchors there is nothing to draw."""
    config = config_of(repository, "modern", "rpn.samples=100000", "rpn.positive_share=1.0", "rpn.allowed_border=null")
    scene = make_scene(config, SIZE, torch.device("cpu"))
    # No object so small that several anchors contain it whole: they tie, and torchvision's rounding decides.
    boxes = torch.tensor([[[10.0, 10, 60, 50], [64, 20, 120, 90], [5, 30, 50, 95]]])
    batch = dataclasses.replace(
        scene.batch, boxes=boxes, labels=scene.batch.labels[:, :3], crowds=torch.zeros(1, 3) > 0
    )
    ours = scene.rpn(batch)
    images, targets = scene.peer.transform(*as_lists(batch))
    _, theirs = scene.peer.train().rpn(images, scene.peer.backbone(images.tensors), targets)
    assert ours["objectness"].item() == pytest.approx(theirs["loss_objectness"].item(), rel=1e-4)
    assert ours["box"].item() == pytest.approx(theirs["loss_rpn_box_reg"].item(), rel=1e-4)


@pytest.mark.parametrize("preset", ["paper", "modern", "pyramid"])
def test_the_heads_lose_the_same_over_all_regions(repository: object, preset: str) -> None:
    config = config_of(
        repository,
        preset,
        "fast_rcnn.samples=1000",
        "fast_rcnn.positive_share=1.0",
        "fast_rcnn.smooth_l1_beta=0.1111111111111111",
    )
    scene = make_scene(config, SIZE, torch.device("cpu"))
    batch = scene.batch
    assert batch.proposals is not None
    assert batch.proposal_counts is not None
    ours = scene.fast_rcnn(batch)
    images, targets = scene.peer.transform(*as_lists(batch))
    features = scene.peer.backbone(images.tensors)
    proposals = [batch.proposals[0, : batch.proposal_counts[0]]]
    _, theirs = scene.peer.train().roi_heads(features, proposals, images.image_sizes, targets)
    assert ours["class"].item() == pytest.approx(theirs["loss_classifier"].item(), rel=1e-4)
    assert ours["box"].item() == pytest.approx(theirs["loss_box_reg"].item(), rel=1e-4)


def test_the_same_parts_learn(scene: Scene) -> None:
    learning = {name for name, parameter in scene.fast_rcnn.trunk.named_parameters() if parameter.requires_grad}
    theirs = {name for name, parameter in scene.peer.backbone.trunk.named_parameters() if parameter.requires_grad}
    if "p2" in scene.fast_rcnn.trunk.channels:
        _, renamed = from_torchvision({f"backbone.{name}": torch.zeros(1) for name in theirs})
        theirs = {name.removeprefix("trunk.") for name in renamed}
        assert not any(name.startswith(("backbone.conv1", "backbone.layer1")) for name in theirs)
    assert theirs == learning
    assert not any(name.startswith(("conv1", "layer1")) for name in theirs)
    assert theirs


def test_images_are_normalised_and_padded_as_ours() -> None:
    whole = make_batch([[], []], [[], []], size=(96, 128), sizes=[(96, 100), (70, 128)])
    backbone_format = InputFormat("rgb", 1.0, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    peer = build_peer(
        Config(), torch.nn.Identity(), torch.nn.Identity(), widths=(4, 4), classes=2, input_format=backbone_format
    )
    transformed: ImageList = peer.eval().transform(as_floats(whole.images, whole.sizes))[0]
    assert transformed.image_sizes == [(96, 100), (70, 128)]
    torch.testing.assert_close(transformed.tensors, prepare(whole.images, whole.sizes, backbone_format))


def test_targets_are_the_objects_without_crowds_and_padding() -> None:
    whole = make_batch([[[0, 0, 9, 9], [5, 5, 20, 30]], []], [[2, 1], []], crowds=[[True, False], []])
    _, targets = as_lists(whole)  # type: ignore[arg-type]
    assert targets[0]["boxes"].tolist() == [[5, 5, 20, 30]]
    assert targets[0]["labels"].tolist() == [1]
    assert targets[1]["boxes"].shape == (0, 4)


def test_what_torchvision_cannot_do_is_refused() -> None:
    config = Config()
    fast = dataclasses.replace(config.fast_rcnn, box_means=(0.1, 0.0, 0.0, 0.0))
    rgb = InputFormat("rgb", 1.0, (0.5,) * 3, (0.5,) * 3)
    bgr = InputFormat("bgr", 255.0, (100.0,) * 3, (1.0,) * 3)
    trunk, conv5 = torch.nn.Identity(), torch.nn.Identity()
    with pytest.raises(ValueError, match="box_means"):
        build_peer(
            dataclasses.replace(config, fast_rcnn=fast), trunk, conv5, widths=(4, 4), classes=2, input_format=rgb
        )
    with pytest.raises(ValueError, match="bgr"):
        build_peer(config, trunk, conv5, widths=(4, 4), classes=2, input_format=bgr)
