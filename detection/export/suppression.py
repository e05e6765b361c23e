"""Non-maximum suppression in forms that can be exported: its number of results is the only size that depends on values.

`NMS` is the basic function, of several sets of boxes at once. `nms` computes it by torchvision's operator, for a `.pt2`
file. `onnx_nms` is an operator of its own, which becomes ONNX's NonMaxSuppression.

Shapes: S sets of boxes, R boxes a set, M kept boxes of all sets, N images, D boxes kept in an image.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
import torchvision
from torch import Tensor
from torch.nn import functional

# Boxes (S, R, 4), scores (S, R), IoU threshold, least score, limit → int64 (M, 2): set and position of each kept box. A
# set's boxes follow each other in descending order of score. Boxes with scores up to the least score are ignored. At
# least the first `limit` of a set are computed; more may follow.
NMS: TypeAlias = Callable[[Tensor, Tensor, float, float, int], Tensor]

UNLIMITED = 2**31 - 1


def nms(boxes: Tensor, scores: Tensor, iou: float, min_score: float, limit: int) -> Tensor:
    """An `NMS`. Boxes must not have negative coordinates.

    The sets are separated by offsets, in double precision, which does not round the boxes.
    """
    index, position = (scores > min_score).nonzero(as_tuple=True)
    boxes, scores = boxes[index, position].double(), scores[index, position].double()
    apart = index * (functional.pad(boxes, (0, 0, 0, 1)).max() + 1)
    # torchvision tells torch.export that its operator keeps at least two boxes (torch/library.py: the default least
    # size), which the exported program would assert. Two more boxes, which are kept, make this true.
    two = boxes.new_tensor([[-4.0, -4.0, -3.0, -3.0], [-2.0, -2.0, -1.0, -1.0]])
    kept = torchvision.ops.nms(torch.cat([boxes + apart[:, None], two]), torch.cat([scores, scores.new_zeros(2)]), iou)
    kept = kept[kept < index.shape[0]]
    return torch.stack([index[kept], position[kept]], dim=1)


@torch.library.custom_op("resnext_detection::nms", mutates_args=())
def onnx_nms(boxes: Tensor, scores: Tensor, iou: float, min_score: float, limit: int) -> Tensor:
    """An `NMS` that is one operator; `detection.export.onnx_program` translates it."""
    return nms(boxes, scores, iou, min_score, limit)


@onnx_nms.register_fake
def _(boxes: Tensor, scores: Tensor, iou: float, min_score: float, limit: int) -> Tensor:
    return boxes.new_empty((torch.library.get_ctx().new_dynamic_size(), 2), dtype=torch.int64)


def suppress_by(form: NMS) -> Callable[[Tensor, Tensor, float, int], tuple[Tensor, Tensor]]:
    """The function `suppress` of `detection.kernels.choice.Kernels`, computed by `form`."""

    def suppress(boxes: Tensor, valid: Tensor, threshold: float, limit: int) -> tuple[Tensor, Tensor]:
        count = boxes.shape[1]
        descending = torch.arange(count, 0, -1, device=boxes.device, dtype=boxes.dtype)
        survives = survivors(form(boxes, descending * valid, threshold, 0.0, limit), valid)
        positions = torch.where(survives, torch.arange(count, device=boxes.device), count)
        index = positions.topk(torch.sym_min(limit, count), dim=1, largest=False).values
        kept = index < count
        return index.masked_fill(~kept, 0), kept

    return suppress


def survivors(kept: Tensor, like: Tensor) -> Tensor:
    """The result (M, 2) of an `NMS` as bool (S, R), the shape of `like`."""
    ones = torch.ones_like(kept[:, 0], dtype=torch.bool)
    return torch.zeros_like(like, dtype=torch.bool).index_put((kept[:, 0], kept[:, 1]), ones)
