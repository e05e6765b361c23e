"""Torch and safetensors files: of torchvision, timm, OpenMMLab, wrappers and this project; damaged and hostile ones."""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from backbones import IMAGENET, InputFormat, UserError, create_backbone, create_classifier
from backbones.weights.formats import read_checkpoint

DEPTHS = (1, 2, 1, 1)


def torchvision_network() -> nn.Module:
    block = torchvision.models.resnet.Bottleneck
    return torchvision.models.resnet.ResNet(block, list(DEPTHS), num_classes=10, groups=32, width_per_group=4)


def timm_network() -> nn.Module:
    timm = pytest.importorskip("timm", reason="TIMM MISSING: its checkpoints were not tried; pip install timm")
    return timm.models.resnet.ResNet(
        timm.models.resnet.Bottleneck, list(DEPTHS), num_classes=10, cardinality=32, base_width=4
    )


@pytest.mark.parametrize("container", ["torch", "torch before 1.6", "safetensors"])
@pytest.mark.parametrize("make", [torchvision_network, timm_network])
def test_features_equal_the_hosts_own(tmp_path: Path, make: Callable[[], nn.Module], container: str) -> None:
    """An independent implementation with random weights and statistics, its state dict as it stands."""
    torch.manual_seed(0)
    host = make()
    for module in host.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0.0, 0.1)
            nn.init.normal_(module.running_mean, 0.0, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    host.eval()
    path = tmp_path / "weights.file"
    if container == "safetensors":
        save_file(host.state_dict(), path)
    else:
        torch.save(host.state_dict(), path, _use_new_zipfile_serialization=container == "torch")
    maps: dict[str, Tensor] = {}
    for level, stage in enumerate((host.layer1, host.layer2, host.layer3, host.layer4), 2):
        stage.register_forward_hook(lambda _, __, output, level=level: maps.update({f"c{level}": output}))
    images = torch.randn(2, 3, 64, 64)
    backbone = create_backbone("resnext50_32x4d", str(path), norm="frozen", depths=DEPTHS).eval()
    classifier = create_classifier("resnext50_32x4d", 10, str(path), depths=DEPTHS).eval()
    with torch.no_grad():
        logits, found = host(images), backbone(images)
        for level in ("c2", "c3", "c4", "c5"):
            torch.testing.assert_close(found[level], maps[level], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(classifier(images), logits, rtol=1e-4, atol=1e-4)


def wrapped(state: dict[str, Tensor]) -> dict[str, tuple[Any, list[str]]]:
    """What programs save around a state dict, and the first parts of names that are left out."""
    head = {"fc.weight": state["fc.weight"], "fc.bias": state["fc.bias"]}
    body = {name: tensor for name, tensor in state.items() if name not in head}
    other = {"rpn.head.conv.weight": torch.zeros(1), "roi_heads.fc6.weight": torch.zeros(1)}
    under = lambda prefix, names: {prefix + name: tensor for name, tensor in names.items()}  # noqa: E731
    return {
        "plain": (state, []),
        "DistributedDataParallel": (under("module.", state), []),
        "training program": ({"epoch": 3, "state_dict": under("module.", state), "optimizer": {"lr": 0.1}}, []),
        "model.": ({"model": under("model.", state)}, []),
        "OpenMMLab, distributed": (
            {"state_dict": {**under("module.backbone.", body), **under("module.head.", head)}},
            [],
        ),
        "OpenMMLab": ({"meta": {"epoch": 1}, "state_dict": {**under("backbone.", body), **under("head.", head)}}, []),
        "torchvision detector": ({**under("backbone.body.", state), **other}, ["roi_heads", "rpn"]),
        "compiled": (under("_orig_mod.module.", state), []),
    }


@pytest.mark.parametrize("kind", ["plain", "DistributedDataParallel", "training program", "model.", "OpenMMLab",
                                  "OpenMMLab, distributed", "torchvision detector", "compiled"])  # fmt: skip
def test_prefixes_and_wrappers(
    tmp_path: Path, network: nn.Module, assert_same_features: Callable[..., nn.Module], kind: str
) -> None:
    content, left_out = wrapped(network.state_dict())[kind]
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    backbone = assert_same_features(path, "batch")
    assert backbone.provenance["weights"]["left_out"] == left_out


def test_several_networks_in_one_file_are_refused(tmp_path: Path, network: nn.Module) -> None:
    path = tmp_path / "moco.pth"
    state = network.state_dict()
    torch.save({f"{encoder}.{name}": state[name] for encoder in ("query", "key") for name in state}, path)
    with pytest.raises(UserError, match=r"moco\.pth: several networks in it \(key\., query\.\)"):
        read_checkpoint(path)


def test_own_classifier_brings_its_input_format(
    tmp_path: Path, network: nn.Module, assert_same_features: Callable[..., nn.Module], caplog: pytest.LogCaptureFixture
) -> None:
    input_format = InputFormat("bgr", 255.0, (1.0, 2.0, 3.0), (4.0, 5.0, 6.0))
    path = tmp_path / "classifier.pt"
    content = {"kind": "classifier", "network": network.state_dict(), "input_format": input_format.to_dict(), "step": 7}
    torch.save(content, path)
    backbone = assert_same_features(path, "batch")
    assert backbone.input_format == input_format
    assert "does not say" not in caplog.text


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"kind": "detector", "network": {}}, "a detector without its network"),
        ({"kind": "detector", "networks": {"rpn": {}}, "input_formats": {}}, "a detector without its network"),
        ({"kind": "rpn", "networks": {"rpn": {}}, "input_formats": {}}, "a rpn without its input_format"),
        ({"kind": "rpn", "networks": {"rpn": {}}, "input_formats": {"rpn": {}}}, "whose backbone is none of these"),
        (
            {"kind": "checkpoint", "network": {}},
            "a checkpoint of an unfinished run .*rpn.pt, fastrcnn.pt or detector.pt",
        ),
        ({"kind": "toaster", "network": {}}, "holds no backbone"),
        ({"kind": "classifier", "network": {}}, "without its input_format"),
        ({"kind": "classifier", "network": {}, "input_format": {"mean": [1.0]}}, "input format: needs exactly"),
        *(
            ({"kind": "classifier", "network": {}, "input_format": {**IMAGENET.to_dict(), key: value}}, reason)
            for key, value, reason in (
                ("mean", "abc", "mean is of the wrong kind"),
                ("mean", 3, "mean is of the wrong kind"),
                ("mean", ["x", 1, 2], "mean is of the wrong kind"),
                ("mean", [0.5] * 10**6, "mean has 1000000 numbers"),
                ("mean", [float("nan")] * 3, "none of them NaN"),
                ("std", [0.0, 1.0, 1.0], "std .* above 0"),
                ("std", [float("inf")] * 3, "std .* finite"),
                ("std", [True, 1.0, 1.0], "std is of the wrong kind"),
                ("value_range", 10**400, "value_range is of the wrong kind"),
                ("value_range", float("nan"), "value_range is nan"),
                ("value_range", torch.ones(3), "value_range is of the wrong kind"),
                ("channel_order", ["rgb"], "channel_order is of the wrong kind"),
            )
        ),
        ([1, 2], "it holds list"),
        ({"a": 1, "b": "x"}, "no tensors in it; its keys are a, b"),
        ({}, "no tensors in it; its keys are none"),
    ],
)
def test_files_that_are_no_network(tmp_path: Path, content: Any, reason: str) -> None:
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    with pytest.raises(UserError, match=reason):
        read_checkpoint(path)


def test_unstated_input_is_said(
    tmp_path: Path, network: nn.Module, structure: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "weights.pth"
    torch.save(network.state_dict(), path)
    backbone = create_backbone("resnext50_32x4d", str(path), **structure)
    assert backbone.input_format == IMAGENET
    assert backbone.provenance["weights"]["input_format_assumed"]
    assert "does not say what input it expects" in caplog.text


class Attack:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_torch_file_never_runs(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "weights.pth"
    torch.save(
        {"conv1.weight": torch.zeros(1), "x": Attack(tmp_path / "ran")}, path, _use_new_zipfile_serialization=zipped
    )
    with pytest.raises(UserError, match=r"weights\.pth: it names \S*system, .* not loaded"):
        read_checkpoint(path)
    assert not (tmp_path / "ran").exists()
    torch.save(nn.Linear(2, 2), path)
    with pytest.raises(UserError, match=r"torch\.nn\.modules\.linear\.Linear.*save the state dict alone"):
        read_checkpoint(path)


@pytest.mark.parametrize("container", ["zip", "legacy", "safetensors"])
def test_truncated_files_are_user_errors(tmp_path: Path, container: str) -> None:
    path = tmp_path / "weights.file"
    state = {"conv1.weight": torch.arange(100.0), "bn1.weight": torch.ones(3)}
    if container == "safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=container == "zip")
    whole = path.read_bytes()
    for length in range(0, len(whole) - 1, 37):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=re.escape(str(path))):
            read_checkpoint(path)


@pytest.mark.parametrize("content", [b"", b"<!DOCTYPE html><html>", b"\x89PNG\r\n\x1a\n", bytes(100), b"{}", b"a"])
def test_files_of_no_known_format(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"weights\.pth: no format that is read here"):
        read_checkpoint(path)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "absent.pth", "cannot read the weights"), (tmp_path, "is a directory")):
        with pytest.raises(UserError, match=reason):
            read_checkpoint(path)


def test_a_safetensors_file_of_endless_names_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    header = b"{" + b" " * (1 << 24) + b"}"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(UserError, match=r"weights\.safetensors: .* a header of 16777218 bytes"):
        read_checkpoint(path)


def test_what_is_no_plain_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pth")
    (tmp_path / "device.pth").symlink_to("/dev/zero")
    for name, kind in (("pipe.pth", "a pipe"), ("device.pth", "a device")):
        with pytest.raises(UserError, match=rf"{name} is {kind}, not a file"):
            read_checkpoint(tmp_path / name)


def test_a_flipped_bit_in_a_tensor_is_noticed(tmp_path: Path) -> None:
    """torch's own reader takes it without a word."""
    path = tmp_path / "weights.pth"
    torch.save({"conv1.weight": torch.arange(1000.0), "layer1.0.conv1.weight": torch.ones(3)}, path)
    whole = bytearray(path.read_bytes())
    whole[whole.index(torch.arange(1000.0).numpy().tobytes()) + 403] ^= 0x40
    path.write_bytes(whole)
    assert not torch.equal(torch.load(path, weights_only=True)["conv1.weight"], torch.arange(1000.0))
    with pytest.raises(UserError, match=r"weights\.pth: .* does not match its checksum"):
        read_checkpoint(path)


def test_compressed_entries_are_refused(tmp_path: Path) -> None:
    """They could unpack to any size."""
    plain, packed = tmp_path / "plain.pth", tmp_path / "packed.pth"
    torch.save({"conv1.weight": torch.zeros(100_000), "layer1.0.conv1.weight": torch.zeros(1)}, plain)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry), compresslevel=9)
    assert packed.stat().st_size < plain.stat().st_size / 100
    with pytest.raises(UserError, match="compressed entries"):
        read_checkpoint(packed)


def grouped_rename(name: str) -> str:
    """torchvision's name → detectron2's."""
    name = re.sub(r"^(conv1|bn1)\.", lambda m: "stem.conv1." + ("norm." if m[1] == "bn1" else ""), name)
    name = re.sub(r"^layer(\d)", lambda m: f"res{int(m[1]) + 1}", name)
    name = re.sub(r"\.bn(\d)\.", r".conv\1.norm.", name)
    return re.sub(r"downsample\.0", "shortcut", re.sub(r"downsample\.1", "shortcut.norm", name))


QUANTIZED = "sparse, quantized, complex"
ODD: list[tuple[str, Callable[[Tensor], Tensor], str]] = [
    ("sparse", lambda t: t.to_sparse(), QUANTIZED),
    ("no numbers", lambda t: t.to("meta"), "without numbers"),
    ("complex", lambda t: t.to(torch.complex64), "complex"),
    ("booleans", lambda t: t.bool(), "booleans"),
    ("whole numbers", lambda t: t.to(torch.int8), "of whole numbers"),
    ("8-bit floats", lambda t: t.to(torch.float8_e4m3fn), "8 bits"),
    ("quantized", lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8), "quantized"),
    ("a terabyte of one number", lambda t: t.flatten()[:1].as_strided((2**19, 2**19), (0, 0)), "of another shape"),
    ("as large as the network's in one number", lambda t: t.flatten()[:1].as_strided((2**40,), (0,)), "another shape"),
    ("no dimension", lambda t: t.flatten()[0].clone(), "of another shape"),
    ("one dimension", lambda t: t.flatten(), "of another shape"),
    ("64 dimensions", lambda t: t.flatten()[:1].reshape((1,) * 64), "of another shape"),
    ("empty", lambda t: t[:0], "of another shape"),
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("layout", ["torchvision", "detectron2", "detectron2, BN fused"])
@pytest.mark.parametrize("kind", [kind for kind, _, _ in ODD])
def test_odd_tensors_are_refused_before_anything_is_computed(
    tmp_path: Path, network: nn.Module, structure: dict[str, Any], layout: str, kind: str
) -> None:
    change, reason = next((change, reason) for name, change, reason in ODD if name == kind)
    plain = {name: tensor for name, tensor in network.state_dict().items() if "num_batches" not in name}
    if "fused" in layout:
        plain = {name: tensor for name, tensor in plain.items() if "running" not in name}
    for name in (
        "conv1.weight",
        "layer2.1.conv2.weight",
        "bn1.weight",
        "layer1.0.downsample.1.bias",
        "layer1.0.conv2.bias",
    ):
        if kind == "one dimension" and plain.get(name, torch.zeros(1)).dim() == 1:
            continue
        state = dict(plain)
        state[name] = change(state.get(name, torch.ones(64)))
        if layout != "torchvision":
            state = {grouped_rename(key): tensor for key, tensor in state.items() if "fc." not in key}
        path = tmp_path / "weights.pth"
        torch.save(state, path)
        for in_channels in (3, 5) if name == "conv1.weight" else (3,):  # for 5 the stem is computed anew
            with pytest.raises(UserError, match=reason) as caught:
                create_backbone("resnext50_32x4d", path, norm="frozen", in_channels=in_channels, **structure)
            assert name in str(caught.value)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda t: t.to_sparse(), "sparse, quantized, complex"),
        (lambda t: t.to("meta"), "without numbers"),
        (lambda t: t.to(torch.complex64), "complex"),
        (lambda t: t.to(torch.float8_e4m3fn), "8 bits"),
        (lambda t: t.index_fill(0, torch.tensor(0), float("nan")), "NaN"),
        (lambda t: t.index_fill(0, torch.tensor(0), float("inf")), "infinite"),
        (lambda t: t.double().index_fill(0, torch.tensor(0), 1e200), "infinite"),
        (lambda t: -t, "variances below 0"),
    ],
)
def test_tensors_that_no_network_can_have_are_refused(
    tmp_path: Path, network: nn.Module, structure: dict[str, Any], change: Callable[[Tensor], Tensor], reason: str
) -> None:
    state = network.state_dict()
    name = "layer2.1.bn1.running_var"
    state[name] = change(state[name])
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(UserError, match=reason) as caught:
        create_backbone("resnext50_32x4d", tmp_path / "weights.pth", **structure)
    assert name in str(caught.value)
    create_backbone("resnext50_32x4d", tmp_path / "weights.pth", ("c2",), **structure)  # which does not need it
