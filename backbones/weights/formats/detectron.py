"""Blob names of Detectron (Caffe2) → torchvision's names.

    conv1_w                          conv1.weight
    res_conv1_bn_s, _b               bn1.weight, .bias
    res2_0_branch2a_w                layer1.0.conv1.weight        (2b: conv2, 2c: conv3)
    res2_0_branch2a_bn_s, _b         layer1.0.bn1.weight, .bias
    res2_0_branch1_w, _bn_s          layer1.0.downsample.0.weight, .downsample.1.weight
    pred_w, pred_b                   fc.weight, .bias

Where BN was not fused, _bn_rm and _bn_riv are its running mean and running variance (not its inverse, as the name
says). A whole detector's file has the blobs of its other parts beside these, the optimizer's momentum of each blob, and
the learning rate: fpn_inner_res5_2_sum_w, conv_rpn_fpn2_w, cls_score_w, fc6_w_momentum, lr.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_PARAMETERS = {
    "w": "weight", "b": "bias", "s": "weight", "gamma": "weight", "beta": "bias",
    "rm": "running_mean", "riv": "running_var", "running_mean": "running_mean", "running_var": "running_var",
}  # fmt: skip
_BRANCHES = {
    "1": ("downsample.0", "downsample.1"),
    "2a": ("conv1", "bn1"),
    "2b": ("conv2", "bn2"),
    "2c": ("conv3", "bn3"),
}

_BLOCK = re.compile(r"res([2-5])_(\d+)_branch(1|2[abc])(_bn)?_([a-z_]+)")
_STEM = re.compile(r"(?:res_)?conv1(_bn)?_([a-z_]+)")
_CLASSIFIER = re.compile(r"(?:pred|fc1000)_([wb])")
_MOMENTUM = "_momentum"
_OF_NETWORK = ("res", "conv1", "pred", "fc1000")  # prefixes; all other blobs belong to a detector's other parts
_OTHER_PART = re.compile(r"[\W_]*((?:(?:conv|cls|bbox|head|weight)_)?[A-Za-z0-9]*)")


def is_named_so(names: Mapping[str, Any]) -> bool:
    """Whether a model's blobs have these names."""
    return any(_BLOCK.fullmatch(name) for name in names)


def rename(blobs: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """(the network's blobs by their new names, unknown names unchanged; the parts of a detector and of its training
    that were left out)."""
    left_out = {"momentum" for name in blobs if name.endswith(_MOMENTUM)}
    state = {}
    for name, blob in blobs.items():
        if name.endswith(_MOMENTUM):
            continue
        if name.startswith(_OF_NETWORK):
            state[_renamed(name)] = blob
        elif part := _OTHER_PART.match(name):
            left_out.add(part[1])
    return state, tuple(sorted(left_out)[:30])


def _renamed(name: str) -> str:
    if match := _BLOCK.fullmatch(name):
        stage, block, branch, normalization, parameter = match.groups()
        layer = f"layer{int(stage) - 1}.{block}.{_BRANCHES[branch][normalization is not None]}"
    elif match := _STEM.fullmatch(name):
        normalization, parameter = match.groups()
        layer = "bn1" if normalization else "conv1"
    elif match := _CLASSIFIER.fullmatch(name):
        layer, parameter = "fc", match[1]
    else:
        return name
    return f"{layer}.{_PARAMETERS[parameter]}" if parameter in _PARAMETERS else name
