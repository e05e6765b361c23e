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
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn

from backbones import InputFormat
from detection import config as settings
from detection.builders import build_fast_rcnn, build_rpn
from detection.config_file import config_from_dict, config_to_dict
from detection.errors import UserError
from detection.fast_rcnn import FastRCNN
from detection.rpn import RPN
from detection.training.artifacts import load_artifact, save_artifact


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
    except KeyError as error:
        raise UserError(f"{path}: lacks the entry {error}; it was not written by this project's tools") from None
    rpn = fast_rcnn = None
    if "rpn" in states:
        rpn = build_rpn(rpn_config or config, pretrained=False)
        _fill(rpn, states["rpn"], formats["rpn"], path)
    if "fastrcnn" in states:
        fast_rcnn = build_fast_rcnn(config, len(categories), pretrained=False)
        _fill(fast_rcnn, states["fastrcnn"], formats["fastrcnn"], path)
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


def _fill(network: RPN | FastRCNN, state: Any, input_format: Any, path: str | os.PathLike[str]) -> None:
    try:
        network.load_state_dict(state)
    except (RuntimeError, AttributeError, TypeError) as error:
        first_lines = "\n".join(str(error).splitlines()[:6])
        raise UserError(
            f"{Path(path)}: its weights do not fit the network that its configuration names: {first_lines}"
        ) from None
    backbone = network.backbone if isinstance(network, RPN) else network.trunk
    backbone.input_format = InputFormat.from_dict(input_format)
    network.eval()
