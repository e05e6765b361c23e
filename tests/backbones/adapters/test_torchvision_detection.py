"""torchvision's five detectors on our backbones: they train, see the right pixels, and share names with its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import FCOS, FasterRCNN, KeypointRCNN, MaskRCNN, RetinaNet, fasterrcnn_resnet50_fpn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.keypoint_rcnn import KeypointRCNNHeads, KeypointRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from backbones import IMAGENET, UserError, create_backbone
from backbones.adapters.host_input import ZERO_TO_ONE
from backbones.adapters.torchvision_detection import c4_backbone, fpn_backbone, map_backbone

NAME = "resnext50_32x4d"
SIZES = {"min_size": 64, "max_size": 96}  # images of 64 × 96 stay as they are
FEW = {"box_batch_size_per_image": 16, "box_detections_per_img": 5, **SIZES}
RCNNS = {"faster": FasterRCNN, "mask": MaskRCNN, "keypoint": KeypointRCNN}
ONE_STAGE = {"retina": RetinaNet, "fcos": FCOS}


def _light_heads(kind: str, channels: int) -> dict[str, nn.Module]:
    """Mask and keypoint heads of 32 channels: torchvision's own are far heavier than the backbone under test."""
    if kind == "mask":
        return {"mask_head": MaskRCNNHeads(channels, (32,), 1), "mask_predictor": MaskRCNNPredictor(32, 32, 3)}
    if kind == "keypoint":
        return {
            "keypoint_head": KeypointRCNNHeads(channels, (32,)),
            "keypoint_predictor": KeypointRCNNPredictor(32, 2),
        }
    return {}


def _with_fpn(kind: str, weights: str | None = None, **options: Any) -> nn.Module:
    if kind in ONE_STAGE:
        options = {"outputs": ("c3", "c4", "c5"), "extra_blocks": LastLevelP6P7(32, 32), **options}
        return ONE_STAGE[kind](fpn_backbone(NAME, weights, out_channels=32, **options), num_classes=3, **SIZES)
    backbone = fpn_backbone(NAME, weights, out_channels=32, **options)
    box_parts = {"box_head": TwoMLPHead(32 * 7**2, 32), "box_predictor": FastRCNNPredictor(32, 3)}
    return RCNNS[kind](backbone, **box_parts, **_light_heads(kind, 32), **FEW)


def _with_c4(kind: str, weights: str | None = None, **options: Any) -> nn.Module:
    anchors = AnchorGenerator(((32, 64, 128),), ((0.5, 1.0, 2.0),))
    if kind == "retina":
        return RetinaNet(map_backbone(NAME, weights, **options), 3, anchor_generator=anchors, **SIZES)
    if kind == "fcos":
        one_a_position = AnchorGenerator(((32,),), ((1.0,),))
        return FCOS(map_backbone(NAME, weights, **options), 3, anchor_generator=one_a_position, **SIZES)
    backbone, conv5 = c4_backbone(NAME, weights, **options)
    pools = {} if kind == "faster" else {f"{kind}_roi_pool": MultiScaleRoIAlign(["0"], 14, 2)}
    return RCNNS[kind](
        backbone,
        rpn_anchor_generator=anchors,
        box_roi_pool=MultiScaleRoIAlign(["0"], 14, 2),
        box_head=conv5,
        box_predictor=FastRCNNPredictor(conv5.out_channels, 3),
        **pools,
        **_light_heads(kind, backbone.out_channels),
        **FEW,
    )


def _targets() -> list[dict[str, Tensor]]:
    boxes = torch.tensor([[4.0, 6.0, 52.0, 60.0], [30.0, 8.0, 90.0, 40.0]])
    masks = torch.zeros(2, 64, 96, dtype=torch.uint8)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes.int().tolist(), strict=True):
        mask[y0:y1, x0:x1] = 1
    keypoints = torch.stack((boxes[:, [0, 1]] + 5, boxes[:, [2, 3]] - 5), 1)
    keypoints = torch.cat((keypoints, torch.ones(2, 2, 1)), -1)
    target = {"boxes": boxes, "labels": torch.tensor([1, 2]), "masks": masks, "keypoints": keypoints}
    return [target, {name: tensor[:1] for name, tensor in target.items()}]


@pytest.mark.parametrize("kind", [*RCNNS, *ONE_STAGE])
@pytest.mark.parametrize("build", [_with_fpn, _with_c4])
def test_detectors_train_and_detect(
    build: Callable[..., nn.Module], kind: str, structure: dict[str, Any], pixels: Tensor, assert_trains: Any
) -> None:
    torch.manual_seed(0)
    detector = build(kind, freeze="c2", **structure)
    images = list(pixels.float() / 255.0)
    assert_trains(detector, sum(detector(images, _targets()).values()))
    frozen = {name for name, parameter in detector.backbone.named_parameters() if not parameter.requires_grad}
    assert {name.removeprefix("body.").split(".")[0] for name in frozen} == {"conv1", "layer1"}
    found = detector.eval()(images)
    assert len(found) == 2
    assert all(detections["boxes"].shape[1] == 4 for detections in found)


@pytest.mark.parametrize("build", [_with_fpn, _with_c4])
def test_pixels_arrive_in_the_convention_of_the_weights(
    build: Callable[..., nn.Module],
    foreign_weights: str,
    structure: dict[str, Any],
    pixels: Tensor,
    reference: dict[str, Tensor],
) -> None:
    detector = build("faster", foreign_weights, **structure).eval()
    assert detector.backbone.provenance["weights"]["sha256"]
    assert detector.backbone.image_mean == detector.transform.image_mean
    assert detector.backbone.image_std == detector.transform.image_std
    images, _ = detector.transform(list(pixels.float() / 255.0))
    with torch.no_grad():
        if build is _with_fpn:
            maps = list(detector.backbone.body(images.tensors).values())
            expected = [reference[level] for level in ("c2", "c3", "c4", "c5")]
        else:
            maps = list(detector.backbone(images.tensors).values())
            expected = [reference["c4"]]
            regions = detector.roi_heads.box_head(maps[0])
            torch.testing.assert_close(regions, reference["c5"].mean((2, 3)), rtol=1e-4, atol=1e-4)
    for got, wanted in zip(maps, expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


def test_a_detector_with_settings_of_its_own(
    foreign_weights: str, structure: dict[str, Any], pixels: Tensor, reference: dict[str, Tensor]
) -> None:
    backbone = fpn_backbone(NAME, foreign_weights, host_format=ZERO_TO_ONE, **structure)
    settings = {"image_mean": backbone.image_mean, "image_std": backbone.image_std}
    assert settings == {"image_mean": [0.0] * 3, "image_std": [1.0] * 3}
    detector = FasterRCNN(backbone, 3, **settings, **SIZES).eval()
    images, _ = detector.transform(list(pixels.float() / 255.0))
    with torch.no_grad():
        maps = detector.backbone.body(images.tensors)
    torch.testing.assert_close(maps["3"], reference["c5"], rtol=1e-4, atol=1e-4)


def test_declared_channels_and_order_of_maps(structure: dict[str, Any]) -> None:
    backbone = fpn_backbone(NAME, outputs=("c3", "c5"), out_channels=24, **structure)
    maps = backbone(torch.rand(1, 3, 64, 96))
    assert {name: tuple(single.shape) for name, single in maps.items()} == {
        "0": (1, 24, 8, 12),
        "1": (1, 24, 2, 3),
        "pool": (1, 24, 1, 2),
    }
    assert (backbone.image_mean, backbone.image_std) == (list(IMAGENET.mean), list(IMAGENET.std))
    dilated = map_backbone(NAME, output="c5", output_stride=16, **structure)
    assert dilated.out_channels == 512
    assert dilated(torch.rand(1, 3, 64, 96))["0"].shape == (1, 512, 4, 6)


def test_channels_without_a_custom_follow_the_network(structure: dict[str, Any]) -> None:
    backbone = map_backbone(NAME, in_channels=1, **structure)
    detector = RetinaNet(
        backbone,
        3,
        anchor_generator=AnchorGenerator(((32,),), ((1.0,),)),
        image_mean=backbone.image_mean,
        image_std=backbone.image_std,
        **SIZES,
    )
    assert len(detector.eval()([torch.rand(1, 64, 96)])) == 1
    with pytest.raises(UserError, match="host_format"):
        map_backbone(NAME, in_channels=1, host_format=IMAGENET, **structure)


def test_names_and_numbers_are_those_of_torchvisions_detector(pixels: Tensor) -> None:
    theirs = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, **SIZES)
    ours = FasterRCNN(fpn_backbone("resnet50", norm="frozen"), num_classes=91, **SIZES)
    state = theirs.state_dict()
    generator = torch.Generator().manual_seed(0)
    for name, tensor in state.items():
        if name.endswith("running_var"):
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
        elif name.endswith("running_mean"):
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.1)
    loaded = ours.load_state_dict(state, strict=False)
    assert all(name.endswith("num_batches_tracked") for name in loaded.unexpected_keys)
    assert not loaded.missing_keys
    images = pixels[:1].float() / 255.0
    with torch.no_grad():
        maps, expected = ours.eval().backbone(images), theirs.eval().backbone(images)
    assert maps.keys() == expected.keys()
    for name in maps:
        largest = expected[name].abs().max().item()
        torch.testing.assert_close(maps[name], expected[name], rtol=0, atol=1e-5 * largest)  # BN is folded in ours


def test_layers_are_shared_not_copied(structure: dict[str, Any]) -> None:
    """An adapted backbone is the backbone: same parameters in the same order."""
    torch.manual_seed(0)
    body = fpn_backbone(NAME, **structure).body
    torch.manual_seed(0)
    backbone = create_backbone(NAME, **structure)
    for (name, ours), (other, theirs) in zip(body.state_dict().items(), backbone.state_dict().items(), strict=True):
        assert name == other
        assert torch.equal(ours, theirs)
