"""Weights of torchvision's Faster R-CNN with a feature pyramid → the weights of the two networks here, each with its
own backbone.

| torchvision | ours |
| --- | --- |
| backbone.body.… | rpn: backbone.backbone.…; Fast R-CNN: trunk.backbone.… |
| backbone.fpn.inner_blocks.i.0.… | ….lateral.p(i + 2).… |
| backbone.fpn.layer_blocks.i.0.… | ….smooth.p(i + 2).… |
| rpn.head.conv.0.0.…, rpn.head.cls_logits.…, rpn.head.bbox_pred.… | rpn: head.conv.…, head.objectness.…, head.box.… |
| roi_heads.box_head.fc6.…, fc7.… | Fast R-CNN: box_head.fc6.…, fc7.… |
| roi_heads.box_predictor.cls_score.… | Fast R-CNN: class_logits.… |
| roi_heads.box_predictor.bbox_pred.…, without its first four rows, the background's | Fast R-CNN: box_targets.… |

Source: torchvision, `models/detection/faster_rcnn.py` (fasterrcnn_resnet50_fpn) and `ops/feature_pyramid_network.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from backbones.common.errors import UserError

_PYRAMID = {"inner_blocks": "lateral", "layer_blocks": "smooth"}
_RPN = {
    "rpn.head.conv.0.0.": "head.conv.",
    "rpn.head.cls_logits.": "head.objectness.",
    "rpn.head.bbox_pred.": "head.box.",
}
_FAST_RCNN = {
    "roi_heads.box_head.": "box_head.",
    "roi_heads.box_predictor.cls_score.": "class_logits.",
    "roi_heads.box_predictor.bbox_pred.": "box_targets.",
}


def from_torchvision(
    state: Mapping[str, Tensor], *, bn_eps: float = 1e-5
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The RPN's and the Fast R-CNN's weights by name, to be loaded into `RPN` and `FastRCNN` on a `FeaturePyramid`.

    Args:
        state: of `torchvision.models.detection.FasterRCNN` on `resnet_fpn_backbone`, its box head `TwoMLPHead`.
        bn_eps: what that network adds to the variance of batch normalisation. The networks here add 1e-5, so the
            difference is added to the variance: `fasterrcnn_resnet50_fpn(weights="COCO_V1")` has 0.

    Raises:
        UserError: a name that such a network does not have.
    """
    rpn: dict[str, Tensor] = {}
    fast_rcnn: dict[str, Tensor] = {}
    for name, value in state.items():
        if name.endswith("running_var"):
            value = value + (bn_eps - 1e-5)
        if name.startswith("backbone."):
            own = _backbone_name(name)
            rpn[f"backbone.{own}"] = value
            fast_rcnn[f"trunk.{own}"] = value
            continue
        prefix = next((prefix for prefix in _RPN | _FAST_RCNN if name.startswith(prefix)), None)
        if prefix is None:
            raise UserError(f"{name!r} is no weight of torchvision's Faster R-CNN with a feature pyramid")
        end = name.removeprefix(prefix)
        if prefix in _RPN:
            rpn[_RPN[prefix] + end] = value
        else:
            fast_rcnn[_FAST_RCNN[prefix] + end] = value[4:] if "bbox_pred" in prefix else value
    return rpn, fast_rcnn


def _backbone_name(name: str) -> str:
    """The name within a `FeaturePyramid` of one that begins with "backbone."."""
    if name.startswith("backbone.body."):
        return "backbone." + name.removeprefix("backbone.body.")
    # Before torchvision 0.13 this was the convolution itself, without the ".0" of a block.
    found = re.fullmatch(r"backbone\.fpn\.(inner_blocks|layer_blocks)\.(\d)\.(?:0\.)?(weight|bias)", name)
    if found is None:
        raise UserError(f"{name!r} is no weight of torchvision's feature pyramid")
    return f"{_PYRAMID[found[1]]}.p{int(found[2]) + 2}.{found[3]}"
