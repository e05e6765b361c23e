"""Small networks, weights of a foreign convention on file, and stand-ins for hosts that are not installed.

The stand-ins follow the documented interfaces: detectron2.modeling.Backbone and ShapeSpec ("Write Models" and the API
pages of detectron2's documentation), MMEngine's BaseModule and MMDetection's registry ("Customize Models"). Where the
real host is installed, the tests use it.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from abc import ABCMeta, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from backbones import InputFormat, ResNeXtBackbone, create_backbone, create_classifier

NAME = "resnext50_32x4d"
STRUCTURE = {"depths": (1, 2, 1, 1), "cardinality": 4, "base_width": 16, "planes": 16, "stem_width": 16}
# Differs from ImageNet's in order, range, mean and deviation
FOREIGN = InputFormat("bgr", 255.0, (102.9801, 115.9465, 122.7717), (1.5, 2.0, 2.5))


@pytest.fixture
def structure() -> dict[str, Any]:
    """Numbers that make "resnext50_32x4d" small: channels 64, 128, 256, 512."""
    return dict(STRUCTURE)


@pytest.fixture(scope="session")
def pixels() -> Tensor:
    """Two images as they are decoded: (2, 3, 64, 96) uint8 RGB."""
    return torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="session")
def foreign_weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file of weights for the small network that expects BGR of 0–255; its BN has statistics of its own."""
    torch.manual_seed(5)
    network = create_classifier(NAME, 10, **STRUCTURE)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.running_var):
                tensor.uniform_(0.5, 1.5)
            for tensor in (module.bias.data, module.running_mean):
                tensor.normal_(0.0, 0.1)
    path: Path = tmp_path_factory.mktemp("weights") / "foreign.pt"
    torch.save({"kind": "classifier", "network": network.state_dict(), "input_format": FOREIGN.to_dict()}, path)
    return str(path)


@pytest.fixture(scope="session")
def reference(foreign_weights: str, pixels: Tensor) -> dict[str, Tensor]:
    """What those weights make of the pixels: maps c2 to c5, by the backbone alone in evaluation mode."""
    backbone: ResNeXtBackbone = create_backbone(NAME, foreign_weights, **STRUCTURE).eval()
    assert backbone.input_format == FOREIGN
    with torch.no_grad():
        return backbone(backbone.input_format.normalize(pixels))


@pytest.fixture
def assert_trains() -> Callable[[nn.Module, Tensor], None]:
    """A check that a loss has moved everything it should: gradients that are finite for every parameter that trains,
    not all zero in the backbone's, and none for those that do not."""

    def check(network: nn.Module, loss: Tensor) -> None:
        network.zero_grad(set_to_none=True)
        loss.backward()
        trained = 0
        for name, parameter in network.named_parameters():
            if not parameter.requires_grad:
                assert parameter.grad is None, name
                continue
            assert parameter.grad is not None, f"{name} got no gradient"
            assert parameter.grad.isfinite().all(), name
            in_backbone = any(part.startswith(("layer", "stage")) for part in name.split("."))
            if in_backbone and parameter.dim() == 4:
                assert parameter.grad.any(), f"{name} got a gradient of zero"
                trained += 1
        assert trained >= 3

    return check


def _replace_modules(modules: dict[str, types.ModuleType], adapter: str) -> Iterator[types.ModuleType]:
    """Imports an adapter with `modules` in place, and afterwards leaves no trace of either."""
    name = f"backbones.adapters.{adapter}"
    saved = {key: sys.modules.pop(key, None) for key in (*modules, name)}
    sys.modules.update(modules)
    try:
        yield importlib.import_module(name)
    finally:
        for key, module in saved.items():
            sys.modules.pop(key, None)
            if module is not None:
                sys.modules[key] = module


@pytest.fixture
def detectron2_backbone() -> Iterator[types.ModuleType]:
    """The adapter, on detectron2 or on a stand-in for it."""
    if importlib.util.find_spec("detectron2") is not None:
        yield importlib.import_module("backbones.adapters.detectron2_backbone")
    else:
        yield from _replace_modules(_detectron2(), "detectron2_backbone")


@pytest.fixture
def mmdetection_backbone() -> Iterator[types.ModuleType]:
    """The adapter, on MMDetection or on a stand-in for it."""
    if importlib.util.find_spec("mmdet") is not None:
        yield importlib.import_module("backbones.adapters.mmdetection_backbone")
    else:
        yield from _replace_modules(_mmdetection(), "mmdetection_backbone")


def _module(name: str, **contents: Any) -> types.ModuleType:
    module = types.ModuleType(name)
    module.__dict__.update(contents)
    return module


def _detectron2() -> dict[str, types.ModuleType]:
    @dataclass
    class ShapeSpec:
        channels: int | None = None
        height: int | None = None
        width: int | None = None
        stride: int | None = None

    class Backbone(nn.Module, metaclass=ABCMeta):
        def __init__(self) -> None:
            super().__init__()

        @abstractmethod
        def forward(self) -> None: ...

        @property
        def size_divisibility(self) -> int:
            return 0

        @property
        def padding_constraints(self) -> dict[str, int]:
            return {}

        def output_shape(self) -> dict[str, ShapeSpec]:
            raise AttributeError("the default reads _out_features, which only a subclass sets")

    class Registry:
        def __init__(self) -> None:
            self.entries: dict[str, Any] = {}

        def register(self) -> Callable[[Any], Any]:
            def enter(entry: Any) -> Any:
                assert entry.__name__ not in self.entries
                self.entries[entry.__name__] = entry
                return entry

            return enter

        def get(self, name: str) -> Any:
            return self.entries[name]

    class CfgNode(dict):
        def __init__(self, values: dict[str, Any] | None = None) -> None:
            super().__init__(
                {key: CfgNode(value) if isinstance(value, dict) else value for key, value in (values or {}).items()}
            )

        def __getattr__(self, name: str) -> Any:
            try:
                return self[name]
            except KeyError:
                raise AttributeError(name) from None

        def __setattr__(self, name: str, value: Any) -> None:
            self[name] = value

    def get_cfg() -> CfgNode:
        return CfgNode(
            {
                "INPUT": {"FORMAT": "BGR"},
                "MODEL": {
                    "PIXEL_MEAN": [103.530, 116.280, 123.675],
                    "PIXEL_STD": [1.0, 1.0, 1.0],
                    "BACKBONE": {"NAME": "build_resnet_backbone", "FREEZE_AT": 2},
                },
            }
        )

    registry = Registry()

    def build_backbone(cfg: CfgNode, input_shape: ShapeSpec | None = None) -> Backbone:
        if input_shape is None:
            input_shape = ShapeSpec(channels=len(cfg.MODEL.PIXEL_MEAN))
        backbone = registry.get(cfg.MODEL.BACKBONE.NAME)(cfg, input_shape)
        assert isinstance(backbone, Backbone)
        return backbone

    return {
        "detectron2": _module("detectron2"),
        "detectron2.config": _module("detectron2.config", CfgNode=CfgNode, get_cfg=get_cfg),
        "detectron2.layers": _module("detectron2.layers", ShapeSpec=ShapeSpec),
        "detectron2.modeling": _module(
            "detectron2.modeling", BACKBONE_REGISTRY=registry, Backbone=Backbone, build_backbone=build_backbone
        ),
    }


def _mmdetection() -> dict[str, types.ModuleType]:
    class BaseModule(nn.Module, metaclass=ABCMeta):
        def __init__(self, init_cfg: Any = None) -> None:
            super().__init__()
            self.init_cfg = init_cfg

        def init_weights(self) -> None:
            """Of its documented behaviour the part that matters here: without init_cfg weights stay, and "Pretrained"
            loads a file by names, ignoring what does not fit."""
            for settings in [self.init_cfg] if isinstance(self.init_cfg, dict) else self.init_cfg or []:
                assert settings["type"] == "Pretrained"
                self.load_state_dict(torch.load(settings["checkpoint"], weights_only=True)["state_dict"], strict=False)

    class Registry:
        def __init__(self) -> None:
            self.entries: dict[str, Any] = {}

        def register_module(self) -> Callable[[Any], Any]:
            def enter(entry: Any) -> Any:
                assert entry.__name__ not in self.entries
                self.entries[entry.__name__] = entry
                return entry

            return enter

        def build(self, cfg: dict[str, Any]) -> Any:
            return self.entries[cfg["type"]](**{key: value for key, value in cfg.items() if key != "type"})

    return {
        "mmdet": _module("mmdet"),
        "mmdet.registry": _module("mmdet.registry", MODELS=Registry()),
        "mmengine": _module("mmengine"),
        "mmengine.model": _module("mmengine.model", BaseModule=BaseModule),
    }
