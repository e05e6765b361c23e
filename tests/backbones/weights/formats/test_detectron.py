"""Detectron's and detectron2's model files, written here from a known network in the published formats."""

from __future__ import annotations

import pickle
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from backbones import InputFormat, UserError, create_backbone, create_classifier
from backbones.normalization import FrozenBatchNorm2d
from backbones.weights.formats import detectron, fused_norm, read_checkpoint
from backbones.weights.pretrained import resolve_weights
from backbones.weights.sources import DETECTRON


def layers(network: nn.Module) -> list[tuple[str, str, nn.Conv2d, nn.BatchNorm2d]]:
    """(Detectron's name, detectron2's name, convolution, BN) of every pair."""
    pairs = [("conv1", "stem.conv1", network.conv1, network.bn1)]
    for stage in (1, 2, 3, 4):
        for number, block in enumerate(getattr(network, f"layer{stage}")):
            old, new = f"res{stage + 1}_{number}_branch", f"res{stage + 1}.{number}."
            pairs += [(f"{old}2a", f"{new}conv1", block.conv1, block.bn1)]
            pairs += [(f"{old}2b", f"{new}conv2", block.conv2, block.bn2)]
            pairs += [(f"{old}2c", f"{new}conv3", block.conv3, block.bn3)]
            if block.downsample is not None:
                pairs += [(f"{old}1", f"{new}shortcut", *block.downsample)]
    return pairs


def fused_blobs(network: nn.Module) -> dict[str, np.ndarray]:
    """Blobs of ImageNetPretrained/FBResNeXt: BN as scale and bias, the optimizer's leftovers among them."""
    blobs = {"pred_w": network.fc.weight.detach().numpy(), "pred_b": network.fc.bias.detach().numpy()}
    for name, _, convolution, norm in layers(network):
        norm_name = "res_conv1_bn" if name == "conv1" else f"{name}_bn"
        scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        blobs[f"{name}_w"] = convolution.weight.detach().numpy()
        blobs[f"{norm_name}_s"] = scale.detach().numpy()
        blobs[f"{norm_name}_b"] = (norm.bias - norm.running_mean * scale).detach().numpy()
        blobs[f"{name}_w_momentum"] = np.zeros(1, np.float32)
    return blobs


def whole_blobs(network: nn.Module) -> dict[str, np.ndarray]:
    """The same names where BN kept its statistics."""
    blobs = {"pred_w": network.fc.weight.detach().numpy(), "pred_b": network.fc.bias.detach().numpy()}
    for name, _, convolution, norm in layers(network):
        norm_name = "res_conv1_bn" if name == "conv1" else f"{name}_bn"
        blobs[f"{name}_w"] = convolution.weight.detach().numpy()
        for key, tensor in {"s": norm.weight, "b": norm.bias, "rm": norm.running_mean, "riv": norm.running_var}.items():
            blobs[f"{norm_name}_{key}"] = tensor.detach().numpy()
    return blobs


def detectron2_parameters(network: nn.Module) -> dict[str, np.ndarray]:
    parameters = {"stem.fc.weight": network.fc.weight, "stem.fc.bias": network.fc.bias}
    for _, name, convolution, norm in layers(network):
        parameters[f"{name}.weight"] = convolution.weight
        for key in ("weight", "bias", "running_mean", "running_var"):
            parameters[f"{name}.norm.{key}"] = getattr(norm, key)
    return {name: tensor.detach().numpy() for name, tensor in parameters.items()}


def python2_model(blobs: dict[str, np.ndarray]) -> bytes:
    """`cPickle.dump(dict(blobs=…, cfg=…), file, 2)` of Python 2, opcode by opcode."""

    def text(value: bytes) -> bytes:
        return (b"U" + bytes([len(value)]) if len(value) < 256 else b"T" + struct.pack("<i", len(value))) + value

    def array(value: np.ndarray) -> bytes:
        shape = b"(" + b"".join(b"J" + struct.pack("<i", length) for length in value.shape) + b"t"
        dtype = b"cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        made = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        return made + b"(K\x01" + shape + dtype + b"\x89" + text(np.ascontiguousarray(value).tobytes()) + b"tb"

    items = b"".join(text(name.encode()) + array(value) for name, value in blobs.items())
    return b"\x80\x02}(" + text(b"cfg") + text(b"MODEL: {}\n") + text(b"blobs") + b"}(" + items + b"uu."


def test_fused_pickle_of_python2(
    tmp_path: Path, network: nn.Module, assert_same_features: Callable[..., nn.Module]
) -> None:
    path = tmp_path / "X-101.pkl"
    path.write_bytes(python2_model(fused_blobs(network)))
    backbone = assert_same_features(path, "frozen", 1e-4)
    assert backbone.input_format == DETECTRON, "BGR: the weights stay as they are, the input is turned round"
    assert backbone.provenance["weights"]["layout"] == "detectron"
    assert not backbone.provenance["weights"]["input_format_assumed"]


def test_fused_norm_multiplies_by_exactly_the_scale(tmp_path: Path, network: nn.Module) -> None:
    path = tmp_path / "X-101.pkl"
    blobs = fused_blobs(network)
    path.write_bytes(python2_model(blobs))
    checkpoint = read_checkpoint(path)
    assert checkpoint.frozen_norm_only
    norm = FrozenBatchNorm2d(16)
    norm.load_state_dict({key: checkpoint.state_dict[f"bn1.{key}"] for key in norm.state_dict()})
    x = torch.randn(1, 16, 5, 5)
    scale, bias = (torch.from_numpy(blobs[f"res_conv1_bn_{key}"])[:, None, None] for key in "sb")
    torch.testing.assert_close(norm(x).double(), x.double() * scale + bias, rtol=1e-6, atol=1e-6)
    assert (norm.running_var + norm.eps == 1).all()


def test_fused_weights_refuse_to_train(tmp_path: Path, network: nn.Module, structure: dict[str, Any]) -> None:
    path = tmp_path / "X-101.pkl"
    path.write_bytes(python2_model(fused_blobs(network)))
    assert resolve_weights(str(path), "resnext50_32x4d").frozen_norm_only
    for norm in ("batch", "group"):
        with pytest.raises(UserError, match="fused"):
            create_backbone("resnext50_32x4d", str(path), norm=norm, **structure)


@pytest.mark.parametrize("blobs", [fused_blobs, whole_blobs])
def test_convolution_bias_goes_into_the_norm(
    tmp_path: Path, network: nn.Module, assert_same_features: Callable[..., nn.Module], blobs: Callable[..., Any]
) -> None:
    """Caffe's conv1 has one: BN(conv + b) must come out the same whether BN is fused or whole."""
    content = blobs(network)
    bias = np.linspace(-1, 1, 16, dtype=np.float32)
    content["conv1_b"] = bias
    if "res_conv1_bn_rm" in content:
        content["res_conv1_bn_rm"] = content["res_conv1_bn_rm"] + bias
    else:
        content["res_conv1_bn_b"] = content["res_conv1_bn_b"] - bias * content["res_conv1_bn_s"]
    path = tmp_path / "X-101.pkl"
    path.write_bytes(python2_model(content))
    assert_same_features(path, "frozen", 1e-4)


def test_whole_norm_under_detectron_names(
    tmp_path: Path, network: nn.Module, assert_same_features: Callable[..., nn.Module]
) -> None:
    path = tmp_path / "X-101.pkl"
    path.write_bytes(pickle.dumps({"model": whole_blobs(network), "__author__": "Caffe2", "matching_heuristics": True}))
    assert not read_checkpoint(path).frozen_norm_only
    assert_same_features(path, "batch")


def test_a_whole_detector_gives_its_backbone_and_says_what_is_left_out(
    tmp_path: Path, network: nn.Module, assert_same_features: Callable[..., nn.Module], caplog: pytest.LogCaptureFixture
) -> None:
    """Blobs of Detectron's e2e_mask_rcnn files: BN fused, everything with its momentum, the rate beside them."""
    caplog.set_level("INFO")
    blobs = fused_blobs(network)
    for name in (
        "fpn_inner_res5_2_sum_w", "fpn_res2_2_sum_b", "conv_rpn_fpn2_w", "rpn_cls_logits_fpn2_w",
        "rpn_bbox_pred_fpn2_b", "fc6_w", "fc7_b", "cls_score_w", "bbox_pred_w", "bbox_pred_b", "_[mask]_fcn1_w",
        "mask_fcn_logits_w", "retnet_cls_pred_fpn3_w", "kps_score_lowres_w",
    ):  # fmt: skip
        blobs[name] = blobs[f"{name}_momentum"] = np.zeros((2, 3), np.float32)
    blobs["lr"] = np.array([0.02], np.float32)
    path = tmp_path / "model_final.pkl"
    path.write_bytes(python2_model(blobs))
    backbone = assert_same_features(path, "frozen", 1e-4)
    left_out = [
        "bbox_pred",
        "cls_score",
        "conv_rpn",
        "fc6",
        "fc7",
        "fpn",
        "kps",
        "lr",
        "mask",
        "momentum",
        "retnet",
        "rpn",
    ]
    assert backbone.provenance["weights"]["left_out"] == left_out
    assert f"left out, as no part of the network: {', '.join(left_out)}" in caplog.text
    assert backbone.input_format == DETECTRON


@pytest.mark.parametrize("shape", [(3,), (3, 1, 1), (1, 3, 1, 1)])
@pytest.mark.parametrize("container", ["pickle", "torch"])
def test_detectron2_input_that_the_file_states(
    tmp_path: Path, network: nn.Module, structure: dict[str, Any], caplog: pytest.LogCaptureFixture,
    shape: tuple[int, ...], container: str,
) -> None:  # fmt: skip
    stated = {
        "bgr": ((103.53, 116.28, 123.675), (57.375, 57.12, 58.395)),
        "rgb": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    }
    for order, (mean, std) in stated.items():
        model = {f"backbone.bottom_up.{name}": value for name, value in detectron2_parameters(network).items()}
        model["pixel_mean"] = np.array(mean, np.float32).reshape(shape)
        model["pixel_std"] = np.array(std, np.float32).reshape(shape)
        path = tmp_path / f"model_{order}.file"
        if container == "torch":
            torch.save({"model": {name: torch.from_numpy(value) for name, value in model.items()}}, path)
        else:
            path.write_bytes(pickle.dumps({"model": model}))
        backbone = create_backbone("resnext50_32x4d", str(path), **structure)
        assert backbone.input_format == InputFormat(order, 255.0, mean, std)
        assert not backbone.provenance["weights"]["input_format_assumed"]
        assert "pixel_mean" in backbone.provenance["weights"]["left_out"]
    assert "does not say what input" not in caplog.text


@pytest.mark.parametrize(
    ("buffers", "reason"),
    [
        ({"pixel_mean": torch.zeros(3)}, "states pixel_mean alone"),
        ({"pixel_mean": torch.zeros(4), "pixel_std": torch.ones(3)}, "its pixel_mean is no three numbers"),
        (
            {"pixel_mean": torch.zeros(()).expand(2**40), "pixel_std": torch.ones(3)},
            "its pixel_mean is no three numbers",
        ),
        ({"pixel_mean": torch.zeros(3), "pixel_std": torch.zeros(3)}, "std .* above 0"),
        ({"pixel_mean": torch.full((3,), float("nan")), "pixel_std": torch.ones(3)}, "none of them NaN or infinite"),
        ({"pixel_mean": torch.zeros(3), "pixel_std": torch.ones(3), "ema.pixel_std": torch.ones(3)}, "more than once"),
    ],
)
def test_detectron2_input_that_makes_no_sense_is_refused(
    tmp_path: Path, network: nn.Module, buffers: dict[str, torch.Tensor], reason: str
) -> None:
    state = {f"backbone.{name}": torch.from_numpy(value) for name, value in detectron2_parameters(network).items()}
    torch.save({"model": {**state, **buffers}}, tmp_path / "model.pth")
    with pytest.raises(UserError, match=rf"model\.pth: .*{reason}"):
        read_checkpoint(tmp_path / "model.pth")


@pytest.mark.parametrize(("cardinality", "std"), [(4, (57.375, 57.12, 58.395)), (1, (1.0, 1.0, 1.0))])
def test_detectron2_input_that_the_file_leaves_out_is_that_of_the_family(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, cardinality: int, std: tuple[float, ...]
) -> None:
    """By the weights themselves, whatever the network is called."""
    structure: dict[str, Any] = {"depths": (1, 1, 1, 1), "cardinality": cardinality, "base_width": 16, "planes": 16}
    network = create_classifier("resnext50_32x4d", 10, **structure)
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps({"model": detectron2_parameters(network)}))
    backbone = create_backbone("resnext50_32x4d", str(path), **structure)
    assert backbone.input_format == InputFormat("bgr", 255.0, (103.53, 116.28, 123.675), std)
    assert backbone.provenance["weights"]["input_format_assumed"]
    assert f"does not say what input it expects: taken as {backbone.input_format.to_dict()}" in caplog.text


@pytest.mark.parametrize("names", ["torchvision", "CIFAR", "detectron2", "Detectron"])
def test_a_network_of_basic_blocks_says_what_it_is(tmp_path: Path, names: str) -> None:
    path = tmp_path / "resnet18.file"
    state = torchvision.models.resnet18().state_dict()
    if names == "torchvision":
        torch.save(state, path)
    elif names == "CIFAR":  # as pytorch_resnet_cifar10 saves them
        kept = {
            f"module.{name}": tensor for name, tensor in state.items() if "layer4" not in name and "fc." not in name
        }
        torch.save({"state_dict": {**kept, "module.linear.weight": torch.zeros(10, 64)}, "best_prec1": 91.7}, path)
    else:
        blobs = {}
        for stage in (2, 3, 4, 5):
            for block in (0, 1):
                weights = [state[f"layer{stage - 1}.{block}.conv{number}.weight"].numpy() for number in (1, 2)]
                for letter, number, weight in zip("ab", (1, 2), weights, strict=True):
                    name = f"res{stage}_{block}_branch2{letter}_w"
                    blobs[f"res{stage}.{block}.conv{number}.weight" if names == "detectron2" else name] = weight
        blobs["stem.conv1.weight" if names == "detectron2" else "conv1_w"] = state["conv1.weight"].numpy()
        path.write_bytes(pickle.dumps({"model": blobs}))
    with pytest.raises(UserError, match=r"resnet18\.file: a network of basic blocks.*take a ResNet-50"):
        create_backbone("resnet50", str(path))


@pytest.mark.parametrize("prefix", ["", "backbone.bottom_up."])
def test_detectron2(
    tmp_path: Path, network: nn.Module, assert_same_features: Callable[..., nn.Module], prefix: str
) -> None:
    path = tmp_path / "model.pkl"
    model = {prefix + name: value for name, value in detectron2_parameters(network).items()}
    if prefix:
        model["proposal_generator.rpn_head.conv.weight"] = np.zeros((1, 1, 3, 3), np.float32)
    path.write_bytes(pickle.dumps({"model": model, "__author__": "someone"}))
    backbone = assert_same_features(path, "batch")
    weights = backbone.provenance["weights"]
    assert weights["layout"] == "detectron2"
    assert weights["left_out"] == (["proposal_generator"] if prefix else [])
    assert backbone.input_format.channel_order == "bgr"


def test_detectron2_in_a_torch_file(
    tmp_path: Path, network: nn.Module, assert_same_features: Callable[..., nn.Module]
) -> None:
    path = tmp_path / "model.pth"
    torch.save({"model": {name: torch.from_numpy(v) for name, v in detectron2_parameters(network).items()}}, path)
    assert_same_features(path, "batch")


def test_weights_arrive_bit_for_bit(tmp_path: Path, network: nn.Module) -> None:
    expected = {name: tensor for name, tensor in network.state_dict().items() if "num_batches" not in name}
    for number, content in enumerate((whole_blobs(network), detectron2_parameters(network))):
        path = tmp_path / f"{number}.pkl"
        path.write_bytes(pickle.dumps(content))
        state = read_checkpoint(path).state_dict
        assert state.keys() == expected.keys()
        assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())


def test_blobs_that_are_no_part_of_the_network_are_listed(
    tmp_path: Path, network: nn.Module, structure: dict[str, Any]
) -> None:
    blobs = {**fused_blobs(network), "res6_0_branch2a_w": np.zeros(1, np.float32)}
    del blobs["res3_1_branch2b_w"]
    path = tmp_path / "X-101.pkl"
    path.write_bytes(python2_model(blobs))
    with pytest.raises(UserError) as caught:
        create_classifier("resnext50_32x4d", 10, str(path), norm="frozen", **structure)
    assert re.search(r"missing \(1\): layer2\.1\.conv2\.weight", str(caught.value))
    assert re.search(r"unknown \(1\): res6_0_branch2a_w", str(caught.value))


def test_names() -> None:
    names = {
        "conv1_w": "conv1.weight", "res_conv1_bn_s": "bn1.weight", "conv1_bn_b": "bn1.bias", "fc1000_w": "fc.weight",
        "res4_22_branch2c_bn_riv": "layer3.22.bn3.running_var", "res5_0_branch1_w": "layer4.0.downsample.0.weight",
        "res5_0_branch1_bn_s": "layer4.0.downsample.1.weight", "res6_0_branch1_w": "res6_0_branch1_w",
        "res2_0_branch2a_gn_s": "res2_0_branch2a_gn_s",
    }  # fmt: skip
    state, left_out = detectron.rename(dict.fromkeys([*names, "conv_rpn_w"]))
    assert list(state) == list(names.values())
    assert left_out == ("conv_rpn",)


def test_norm_with_half_its_statistics_is_not_fused() -> None:
    state = {"bn1.weight": torch.ones(2), "bn1.bias": torch.ones(2), "bn1.running_mean": torch.ones(2)}
    assert not fused_norm.complete(state)
    assert "bn1.running_var" not in state, "the loader will say that it is missing"
