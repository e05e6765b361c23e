"""Trained networks ↔ `.pt` files that need nothing else: weights, configuration, classes, input convention, provenance.

    rpn.pt       the proposal network
    fastrcnn.pt  the region classifier
    detector.pt  both

The configuration rebuilds the network, the input format says what numbers the weights expect, and the provenance tells
what they were made of. No file names another: one can be moved anywhere.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
import torchvision
from torch import nn

from backbones import InputFormat
from backbones.common.errors import UserError
from detection import config as settings
from detection.config_file import config_from_dict, config_to_dict
from detection.experiment.builders import build_fast_rcnn, build_rpn
from detection.networks.fast_rcnn import FastRCNN
from detection.networks.rpn import RPN
from detection.training.artifacts import load_artifact, save_artifact

N = TypeVar("N", RPN, FastRCNN)

_NETWORKS = {"rpn": {"rpn"}, "fastrcnn": {"fastrcnn"}, "detector": {"rpn", "fastrcnn"}}  # of each kind of file


@dataclass(frozen=True)
class Categories:
    """The classes, in the order of the labels 1..K: their ids in the annotation files, and their names."""

    ids: tuple[int, ...]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ids)

    def name(self, label: int) -> str:
        """The name of label 1..K."""
        return self.names[label - 1]


@dataclass(frozen=True)
class Trained:
    """What a file holds. `rpn` and `fast_rcnn` are None where the file has no such network.

    `config` is the one that the detector works by; `rpn_config` the one that the RPN was trained by, where that is
    another (an RPN may come from elsewhere, with a backbone of its own).
    """

    config: settings.Config
    categories: Categories
    provenance: dict[str, Any] = field(default_factory=dict)
    rpn: RPN | None = None
    fast_rcnn: FastRCNN | None = None
    rpn_config: settings.Config | None = None


def save_trained(path: str | os.PathLike[str], trained: Trained) -> None:
    """Writes the networks that `trained` holds; two of them make a detector.

    Raises:
        UserError: the file cannot be written; what stood there before is untouched.
    """
    networks: dict[str, RPN | FastRCNN] = {}
    if trained.rpn is not None:
        networks["rpn"] = trained.rpn
    if trained.fast_rcnn is not None:
        networks["fastrcnn"] = trained.fast_rcnn
    kind = "detector" if len(networks) == 2 else next(iter(networks))
    save_artifact(
        path,
        kind,
        config=config_to_dict(trained.config),
        rpn_config=None if trained.rpn_config is None else config_to_dict(trained.rpn_config),
        categories={"ids": list(trained.categories.ids), "names": list(trained.categories.names)},
        networks={name: _plain_state(network) for name, network in networks.items()},
        input_formats={name: _input_format(network).to_dict() for name, network in networks.items()},
        provenance={**trained.provenance, "versions": versions()},
    )


def load_trained(path: str | os.PathLike[str], *kinds: str) -> Trained:
    """The networks of a file of one of `kinds` ("rpn", "fastrcnn", "detector"), on the CPU and in evaluation mode.

    Raises:
        UserError: no such file, not one of ours, of another kind, damaged, or of a network that this version cannot
            build.
    """
    content = load_artifact(path, *kinds)
    try:
        config = config_from_dict(content["config"], f"{path}: its configuration")
        rpn_config = content["rpn_config"] and config_from_dict(
            content["rpn_config"], f"{path}: its RPN's configuration"
        )
        categories = Categories(tuple(content["categories"]["ids"]), tuple(content["categories"]["names"]))
        states: Mapping[str, Any] = content["networks"]
        formats: Mapping[str, Any] = content["input_formats"]
        provenance = content["provenance"]
        if set(states) != _NETWORKS[content["kind"]]:
            raise ValueError(f"its networks are {list(states)}")
        if len(categories.ids) != len(categories.names):
            raise ValueError("its classes have not a name each")
        input_formats = {name: InputFormat.from_dict(formats[name]) for name in states}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{path}: an entry is missing or of the wrong kind ({error!r}); it was not written by this project's tools"
        ) from None
    rpn = fast_rcnn = None
    if "rpn" in states:
        rpn = _filled(lambda: build_rpn(rpn_config or config, pretrained=False), states["rpn"], path)
        rpn.backbone.input_format = input_formats["rpn"]
    if "fastrcnn" in states:
        fast_rcnn = _filled(
            lambda: build_fast_rcnn(config, len(categories), pretrained=False), states["fastrcnn"], path
        )
        fast_rcnn.trunk.input_format = input_formats["fastrcnn"]
    return Trained(config, categories, provenance, rpn, fast_rcnn, rpn_config)


def versions() -> dict[str, str]:
    """What the result depends on besides its inputs."""
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "torchvision": str(torchvision.__version__),
    }


def _plain_state(network: nn.Module) -> dict[str, torch.Tensor]:
    """The weights by name, on the CPU, in ordinary memory order: the file is the same wherever it was trained."""
    return {
        name: value.detach().to("cpu", memory_format=torch.contiguous_format)
        for name, value in network.state_dict().items()
    }


def _input_format(network: RPN | FastRCNN) -> InputFormat:
    return network.backbone.input_format if isinstance(network, RPN) else network.trunk.input_format


def _filled(build: Callable[[], N], state: Any, path: str | os.PathLike[str]) -> N:
    """The network with the weights `state`, in evaluation mode.

    It is built without memory first, because a stranger's configuration could ask for any amount.
    """
    try:
        with torch.device("meta"):
            expected = {name: value.shape for name, value in build().state_dict().items()}
        found = {name: value.shape for name, value in state.items()}
    except (RuntimeError, AttributeError, TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{Path(path)}: its network cannot be built: {error!r:.200}") from None
    different = [name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)]
    if different:
        first = "; ".join(
            f"{name}: {_size(found.get(name))} in the file, {_size(expected.get(name))} by its configuration"
            for name in sorted(different)[:6]
        )
        raise UserError(
            f"{Path(path)}: its weights do not fit the network that its configuration names, in {len(different)} "
            f"place(s): {first}"
        )
    network = build()
    network.load_state_dict(state)
    return network.eval()


def _size(shape: torch.Size | None) -> str:
    return "absent" if shape is None else str(tuple(shape))
