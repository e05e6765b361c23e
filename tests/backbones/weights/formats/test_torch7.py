"""Torch7 files: written here by the rules of torch7's File.lua and Tensor.c, read by the package."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from backbones import IMAGENET, create_classifier
from backbones.cifar import CIFAR
from backbones.common.errors import UserError
from backbones.weights.formats import read_checkpoint, torch7
from backbones.weights.formats.torch7 import Object
from backbones.weights.pretrained import resolve_weights


class Lua:
    """A function of Lua, for the writer: bytecode and upvalues."""


class Torch7Writer:
    """Writes objects as torch.save(name, object) does. Tensors that share memory share their storage in the file."""

    tensor_types = {torch.float32: "Float", torch.float64: "Double", torch.int64: "Long", torch.uint8: "Byte"}  # noqa: RUF012

    def __init__(self, *, cuda: bool = False) -> None:
        self.cuda = cuda  # CudaTensor instead of FloatTensor
        self.indices: dict[Any, int] = {}
        self.kept: list[Any] = []  # so that no id is used twice

    def write(self, value: Any) -> bytes:
        if value is None:
            return self.int(0)
        if isinstance(value, bool):
            return self.int(5) + self.int(value)
        if isinstance(value, (int, float)):
            return self.int(1) + struct.pack("<d", value)
        if isinstance(value, str):
            return self.int(2) + self.string(value)
        if isinstance(value, Tensor):
            return self.once(4, ("tensor", id(value)), lambda: self.tensor(value), value)
        if isinstance(value, Object):
            return self.once(4, id(value), lambda: self.class_name(value.class_name) + self.write(value.fields), value)
        if isinstance(value, Lua):
            return self.once(8, id(value), lambda: self.string("\x1bLJ bytecode") + self.write({1: "upvalue"}), value)
        if isinstance(value, dict):
            return self.once(3, id(value), lambda: self.table(value), value)
        raise TypeError(type(value))

    def once(self, tag: int, key: Any, write: Callable[[], bytes], value: Any) -> bytes:
        self.kept.append(value)
        if key in self.indices:
            return self.int(tag) + self.int(self.indices[key])
        self.indices[key] = len(self.indices) + 1
        return self.int(tag) + self.int(self.indices[key]) + write()

    def table(self, value: dict[Any, Any]) -> bytes:
        return self.int(len(value)) + b"".join(self.write(key) + self.write(item) for key, item in value.items())

    def tensor(self, value: Tensor) -> bytes:
        sizes, strides, offset = value.shape, value.stride(), value.storage_offset() + 1
        head = self.class_name(self.type_name(value.dtype) + "Tensor") + self.int(len(sizes))
        head += struct.pack(f"<{2 * len(sizes) + 1}q", *sizes, *strides, offset)
        storage = value.untyped_storage()
        if len(storage) == 0:
            return head + self.int(0)
        return head + self.once(4, ("storage", storage.data_ptr()), lambda: self.storage(value), storage)

    def storage(self, value: Tensor) -> bytes:
        raw = torch.empty(0, dtype=value.dtype).set_(value.untyped_storage()).numpy().tobytes()
        return self.class_name(self.type_name(value.dtype) + "Storage") + self.long(len(raw) // value.itemsize) + raw

    def type_name(self, dtype: torch.dtype) -> str:
        return "torch." + ("Cuda" if self.cuda and dtype == torch.float32 else self.tensor_types[dtype])

    def class_name(self, name: str) -> bytes:
        return self.string("V 1") + self.string(name)

    def string(self, text: str) -> bytes:
        return self.int(len(text)) + text.encode("latin1")

    def int(self, value: int) -> bytes:
        return struct.pack("<i", value)

    def long(self, value: int) -> bytes:
        return struct.pack("<q", value)


def sequential(*modules: Object, **more: Any) -> Object:
    return Object("nn.Sequential", {"modules": dict(enumerate(modules, 1)), "train": False, **more})


def lua_convolution(convolution: nn.Conv2d, *, bias: Tensor | None = None) -> Object:
    weight = convolution.weight.data
    return Object(
        "cudnn.SpatialConvolution",
        {
            "weight": weight, "bias": bias, "gradWeight": torch.empty(0), "output": torch.empty(0),
            "nInputPlane": convolution.in_channels, "nOutputPlane": convolution.out_channels,
            "groups": convolution.groups, "kH": convolution.kernel_size[0], "kW": convolution.kernel_size[1],
            "dH": convolution.stride[0], "dW": convolution.stride[1], "fmode": 1.0,
        },
    )  # fmt: skip


def lua_norm(norm: nn.BatchNorm2d) -> Object:
    fields = {name: getattr(norm, name).data for name in ("weight", "bias", "running_mean", "running_var")}
    return Object("nn.SpatialBatchNormalization", {**fields, "eps": 1e-5, "momentum": 0.1, "affine": True, "nDim": 4})


def lua_network(network: nn.Module, *, nested: bool = False, convolution_bias: bool = False) -> Object:
    """The modules of facebookresearch/ResNeXt's createModel, form (c)."""

    def pair(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> list[Object]:
        if not convolution_bias:
            return [lua_convolution(convolution), lua_norm(norm)]
        bias = torch.linspace(-1, 1, convolution.out_channels)
        shifted = lua_norm(norm)
        shifted.fields["running_mean"] = shifted.fields["running_mean"] + bias
        return [lua_convolution(convolution, bias=bias), shifted]

    def block(source: nn.Module) -> Object:
        relu = Object("cudnn.ReLU", {"inplace": True})
        first = [*pair(source.conv1, source.bn1), relu, *pair(source.conv2, source.bn2), relu]
        last = pair(source.conv3, source.bn3)
        residual = sequential(sequential(*first), *last) if nested else sequential(*first, *last)
        shortcut = sequential(*pair(*source.downsample)) if source.downsample is not None else Object("nn.Identity")
        both = Object("nn.ConcatTable", {"modules": {1: residual, 2: shortcut}})
        return sequential(both, Object("nn.CAddTable", {"inplace": True}), relu)

    stages = [sequential(*map(block, stage)) for name, stage in network.named_children() if name.startswith("layer")]
    linear = Object("nn.Linear", {"weight": network.fc.weight.data, "bias": network.fc.bias.data})
    pool = Object("nn.SpatialMaxPooling", {"kW": 3, "ceil_mode": False})
    average, view = Object("cudnn.SpatialAveragePooling", {"kW": 7}), Object("nn.View", {"numElements": 2048})
    relu = Object("cudnn.ReLU", {"inplace": True})
    pools = [pool] if len(stages) == 4 else []  # CIFAR's networks have three stages and no pool before them
    return sequential(*pair(network.conv1, network.bn1), relu, *pools, *stages, average, view, linear)


def save(value: Any, path: Path, **options: Any) -> Path:
    path.write_bytes(Torch7Writer(**options).write(value))
    return path


def test_every_kind_of_object(tmp_path: Path) -> None:
    shared = {"inner": True}
    grid = torch.arange(24, dtype=torch.float64).reshape(2, 3, 4)
    function = Lua()
    value = {
        1: "one", 2: 2.5, "nothing": None, "yes": True, "no": False, "infinite": float("inf"), "latin": "é",
        "shared": shared, "again": shared, "tensor": grid, "view": grid[1, :, 1:3].t(), "long": torch.arange(3),
        "bytes": torch.tensor([1, 2], dtype=torch.uint8), "empty": torch.empty(0),
        "function": function, "call": function,
        "object": Object("my.Class", {"tensor": grid}),
    }  # fmt: skip
    found = torch7.load(save(value, tmp_path / "x.t7"))
    assert list(found) == list(value)
    for key, item in value.items():
        if isinstance(item, Tensor):
            assert found[key].dtype == item.dtype or item.numel() == 0
            assert torch.equal(found[key].to(item), item)
        elif isinstance(item, Lua):
            assert found[key] is None, "a function is skipped"
        elif not isinstance(item, Object):
            assert found[key] == item
    assert found["shared"] is found["again"]
    assert found["object"].class_name == "my.Class"
    assert found["object"].fields["tensor"] is found["tensor"]
    assert found["view"].data_ptr() - found["tensor"].data_ptr() == 13 * 8, "views share their storage"


def test_table_inside_itself(tmp_path: Path) -> None:
    value: dict[str, Any] = {}
    value["self"] = value
    found = torch7.load(save(value, tmp_path / "x.t7"))
    assert found["self"] is found


@pytest.mark.parametrize("cuda", [False, True])
@pytest.mark.parametrize("nested", [False, True])
def test_paper_network(
    tmp_path: Path, network: nn.Module, assert_same_features: Callable[..., Any], cuda: bool, nested: bool
) -> None:
    path = save(lua_network(network, nested=nested), tmp_path / "resnext.t7", cuda=cuda)
    backbone = assert_same_features(path, "batch")
    assert backbone.input_format == IMAGENET
    assert backbone.provenance["weights"]["layout"] == "torch7"


def test_paper_network_for_cifar(tmp_path: Path) -> None:
    structure = {"depths": (1, 1, 1), "cardinality": 2, "base_width": 16, "planes": 16, "stem_width": 16}
    trained = create_classifier("resnext29", 10, **structure).eval()
    path = save(lua_network(trained), tmp_path / "resnext.t7")
    found = create_classifier("resnext29", 10, str(path), **structure).eval()
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(found(images), trained(images))
    assert found.input_format == CIFAR


def test_paper_network_whose_parameters_share_one_storage(
    tmp_path: Path, network: nn.Module, assert_same_features: Callable[..., Any]
) -> None:
    """As after getParameters(), which the paper's training code calls: every weight is a view into one storage."""
    flat = torch.cat([parameter.data.flatten() for parameter in network.parameters()])
    offset = 0
    for parameter in network.parameters():
        parameter.data = flat[offset : offset + parameter.numel()].view_as(parameter)
        offset += parameter.numel()
    path = save(lua_network(network), tmp_path / "resnext.t7")
    assert path.stat().st_size < 1.2 * 4 * len(flat) + 100_000
    assert_same_features(path)


def test_paper_network_with_convolution_biases(
    tmp_path: Path, network: nn.Module, assert_same_features: Callable[..., Any]
) -> None:
    """As cuDNN before version 4 wrote: the bias goes into the BN behind it."""
    assert_same_features(save(lua_network(network, convolution_bias=True), tmp_path / "resnext.t7"), tolerance=1e-4)


def test_weights_arrive_bit_for_bit(tmp_path: Path, network: nn.Module) -> None:
    checkpoint = read_checkpoint(save(lua_network(network), tmp_path / "resnext.t7"))
    expected = {name: tensor for name, tensor in network.state_dict().items() if "num_batches" not in name}
    assert checkpoint.state_dict.keys() == expected.keys()
    assert all(torch.equal(checkpoint.state_dict[name], tensor) for name, tensor in expected.items())
    assert not checkpoint.frozen_norm_only
    assert not resolve_weights(str(tmp_path / "resnext.t7"), "resnext50_32x4d").provenance["input_format_assumed"]


def test_other_modules_are_refused_by_name(tmp_path: Path, network: nn.Module) -> None:
    modules = list(lua_network(network).fields["modules"].values())
    cases = {
        "nn.Parallel": Object("nn.Parallel", {"modules": {}}),
        "nn.SpatialFullConvolution": sequential(
            Object("nn.SpatialFullConvolution", {"weight": torch.zeros(2)}), *modules
        ),
        "without modules": Object("nn.Sequential", {}),
        "ConcatTable": sequential(sequential(sequential(Object("nn.Identity")))),
        "conv1., bn1.": sequential(*modules[1:]),
        "without weight": sequential(*modules[:-1], Object("nn.Linear", {})),
    }
    for expected, value in cases.items():
        path = save(value, tmp_path / "x.t7")
        with pytest.raises(UserError, match=rf"x\.t7: not a ResNeXt .*{expected}"):
            read_checkpoint(path)


def test_modules_within_themselves_are_refused(tmp_path: Path) -> None:
    loop = sequential()
    loop.fields["modules"][1] = sequential(sequential(Object("nn.ConcatTable", {"modules": {1: loop, 2: loop}})))
    laughs = Object("nn.Identity")
    for _ in range(30):  # 2^30 modules, if each were walked through
        laughs = sequential(laughs, laughs)
    both = sequential(sequential(sequential(Object("nn.ConcatTable", {"modules": {1: laughs, 2: laughs}}))))
    for value in (loop, both):
        with pytest.raises(UserError, match="within itself"):
            read_checkpoint(save(value, tmp_path / "x.t7"))


def test_table_of_tensors_by_name_is_a_state_dict(tmp_path: Path, network: nn.Module) -> None:
    state = dict(network.state_dict())
    state = {name: tensor for name, tensor in state.items() if tensor.dim()}
    checkpoint = read_checkpoint(save(state, tmp_path / "x.t7"))
    assert torch.equal(checkpoint.state_dict["conv1.weight"], state["conv1.weight"])


def nested_tables(depth: int) -> bytes:
    writer = Torch7Writer()
    stream = b"".join(
        writer.int(3) + writer.int(index) + writer.int(1) + writer.write("x") for index in range(1, depth)
    )
    return stream + writer.int(0)


INT, LONG = struct.Struct("<i").pack, struct.Struct("<q").pack
NAME = INT(4) + INT(1) + INT(3) + b"V 1"


@pytest.mark.parametrize(
    ("stream", "reason"),
    [
        (nested_tables(100_000), "within one another"),
        (INT(3) + INT(1) + INT(2**31 - 1), "announced"),
        (INT(3) + INT(1) + INT(-1), "announced"),
        (INT(3) + INT(1) + INT(1) + INT(3) + INT(2) + INT(0) + INT(0), "a key of type dict"),
        (INT(3) + INT(1) + INT(1) + INT(0) + INT(0), "a key of type NoneType"),
        (INT(2) + INT(2**31 - 1) + b"abc", "announced"),
        (INT(2) + INT(-5) + b"abc", "announced"),
        (NAME + INT(18) + b"torch.FloatStorage" + LONG(2**61), "announced"),
        (NAME + INT(18) + b"torch.FloatStorage" + LONG(-1), "announced"),
        (NAME + INT(17) + b"torch.FloatTensor" + INT(2**30), "dimensions"),
        (NAME + INT(17) + b"torch.FloatTensor" + INT(-1), "dimensions"),
        (NAME + INT(8) + b"nn.Thing" + INT(0), "without fields"),
        (INT(9) + INT(1), "unknown tag"),
        (INT(1) + b"\0\0", "announced"),
        (INT(3) + INT(1) + INT(600_000) + (INT(1) + bytes(8) + INT(0)) * 600_000, "more than 1000000 objects"),
    ],
)
def test_hostile_files_are_refused(tmp_path: Path, stream: bytes, reason: str) -> None:
    path = tmp_path / "x.t7"
    path.write_bytes(stream)
    with pytest.raises(UserError, match=rf"x\.t7: .*{reason}"):
        torch7.load(path)


@pytest.mark.parametrize(
    ("sizes", "strides", "offset"),
    [
        ((3,), (1,), 3),  # beyond the end
        ((1000, 1000, 1000), (0, 0, 0), 1),  # a small storage blown up
        ((2,), (-1,), 2),
        ((-2,), (1,), 1),
        ((2,), (1,), 0),  # before the start
        ((2, 2), (2**62, 2**62), 1),
    ],
)
def test_tensors_stay_inside_their_storage(
    tmp_path: Path, sizes: tuple[int, ...], strides: tuple[int, ...], offset: int
) -> None:
    stream = NAME + INT(17) + b"torch.FloatTensor" + INT(len(sizes))
    stream += struct.pack(f"<{2 * len(sizes) + 1}q", *sizes, *strides, offset)
    stream += INT(4) + INT(2) + INT(3) + b"V 1" + INT(18) + b"torch.FloatStorage" + LONG(4) + bytes(16)
    path = tmp_path / "x.t7"
    path.write_bytes(stream)
    with pytest.raises(UserError, match="in a storage of 4 numbers"):
        torch7.load(path)


def test_damaged_files_raise_nothing_else(tmp_path: Path, network: nn.Module) -> None:
    """Truncated anywhere, or with any byte changed: a UserError, or something is read, but nothing worse."""
    small = Torch7Writer().write(sequential(lua_norm(network.bn1), Object("nn.View", {"x": {1: 2.0, "y": "z"}})))
    path = tmp_path / "x.t7"
    for length in range(0, len(small), 7):
        path.write_bytes(small[:length])
        with pytest.raises(UserError):
            torch7.load(path)
    generator = torch.Generator().manual_seed(0)
    for _ in range(300):
        flipped = bytearray(small)
        position, value = torch.randint(2**31, (2,), generator=generator).tolist()
        flipped[position % len(small)] = value % 256
        path.write_bytes(flipped)
        with contextlib.suppress(UserError):
            torch7.load(path)
