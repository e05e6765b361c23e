"""Trained networks ↔ self-contained `.pt` files: weights, configuration, classes, input format, provenance.

    rpn.pt       the proposal network
    fastrcnn.pt  the region classifier
    detector.pt  both

The network is rebuilt from the configuration, the input format describes the input that the weights expect, and the
provenance describes what they were trained on. No file refers to another, so each can be moved.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

from backbones import InputFormat
from backbones.common.errors import UserError
from detection import config as settings
from detection.common.categories import Categories, checked_categories
from detection.config_file import config_from_dict, config_to_dict
from detection.experiment.builders import build_fast_rcnn, build_rpn
from detection.experiment.earlier_versions import rename_weights
from detection.networks.fast_rcnn import FastRCNN
from detection.networks.rpn import RPN
from detection.training.artifacts import load_artifact, save_artifact, versions
from detection.training.checkpoints import evaluated_weights
from detection.training.network_state import build_with_weights, plain_state

N = TypeVar("N", RPN, FastRCNN)

_NETWORKS = {"rpn": {"rpn"}, "fastrcnn": {"fastrcnn"}, "detector": {"rpn", "fastrcnn"}}  # of each kind of file


@dataclass(frozen=True)
class Trained(Generic[N]):
    """A trained network, the configuration that it was trained with, its classes, and its provenance."""

    network: N
    config: settings.Config
    categories: Categories
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def began_with(self) -> Mapping[str, Any] | None:
        """What is known of the weights that the backbone began with; None: from scratch, or nothing is known."""
        backbone = self.provenance.get("backbone")
        weights = backbone.get("weights") if isinstance(backbone, Mapping) else None
        return weights if isinstance(weights, Mapping) else None


@dataclass(frozen=True)
class TrainedDetector:
    """Two networks that were trained separately. The RPN may be from another run, with a different backbone."""

    rpn: Trained[RPN]
    fast_rcnn: Trained[FastRCNN]

    @property
    def config(self) -> settings.Config:
        """The configuration of the detector, which is that of the Fast R-CNN."""
        return self.fast_rcnn.config

    @property
    def categories(self) -> Categories:
        """The classes of the detector, which are those of the Fast R-CNN."""
        return self.fast_rcnn.categories


def save_rpn(path: str | os.PathLike[str], rpn: Trained[RPN]) -> None:
    """Writes an `rpn.pt`.

    Raises:
        UserError: the file cannot be written; an earlier file at `path` is unchanged.
    """
    _save(path, "rpn", rpn, {"rpn": rpn.network})


def save_fast_rcnn(path: str | os.PathLike[str], fast_rcnn: Trained[FastRCNN]) -> None:
    """Writes a `fastrcnn.pt`; raises the errors of `save_rpn`."""
    _save(path, "fastrcnn", fast_rcnn, {"fastrcnn": fast_rcnn.network})


def save_detector(path: str | os.PathLike[str], detector: TrainedDetector) -> None:
    """Writes a `detector.pt`; raises the errors of `save_rpn`."""
    rpn, fast_rcnn = detector.rpn, detector.fast_rcnn
    both = Trained(
        fast_rcnn.network,
        detector.config,
        detector.categories,
        {"rpn": rpn.provenance, "fastrcnn": fast_rcnn.provenance},
    )
    _save(path, "detector", both, {"rpn": rpn.network, "fastrcnn": fast_rcnn.network}, rpn.config)


def load_rpn(path: str | os.PathLike[str]) -> Trained[RPN]:
    """The RPN of an `rpn.pt` or `detector.pt`, on the CPU and in evaluation mode.

    Raises:
        UserError: the file is missing, damaged, of another kind or not of this project, or this version cannot build
            its network.
    """
    return _File(path, load_artifact(path, "rpn", "detector")).rpn()


def load_fast_rcnn(path: str | os.PathLike[str]) -> Trained[FastRCNN]:
    """The Fast R-CNN of a `fastrcnn.pt` or `detector.pt`; otherwise as `load_rpn`."""
    return _File(path, load_artifact(path, "fastrcnn", "detector")).fast_rcnn()


def load_detector(path: str | os.PathLike[str]) -> TrainedDetector:
    """Both networks of a `detector.pt`; otherwise as `load_rpn`."""
    return _File(path, load_artifact(path, "detector")).detector()


def load_rpn_or_detector(path: str | os.PathLike[str]) -> Trained[RPN] | TrainedDetector:
    """The RPN of an `rpn.pt`, or the detector of a `detector.pt`; otherwise as `load_rpn`."""
    file = _File(path, load_artifact(path, "rpn", "detector"))
    return file.rpn() if file.kind == "rpn" else file.detector()


def describe(kind: Literal["rpn", "fastrcnn"], trained: Trained[N]) -> dict[str, Any]:
    """What a checkpoint holds beside the weights for `load_checkpoint`, as plain values."""
    return {
        "kind": kind,
        "config": config_to_dict(trained.config),
        "categories": _categories_dict(trained.categories),
        "input_format": _input_format(trained.network).to_dict(),
        "provenance": dict(trained.provenance),
    }


def load_checkpoint(path: str | os.PathLike[str]) -> Trained[RPN] | Trained[FastRCNN]:
    """The network of a checkpoint of a training, with the weights that were evaluated: the averaged ones, if the
    training averages them. Its provenance is that of the files of a finished training.

    Raises:
        UserError: the errors of `load_rpn`, or the checkpoint is of an earlier version or of a classifier.
    """
    content = load_artifact(path, "checkpoint")
    model = content.get("model")
    if not isinstance(model, Mapping) or model.get("kind") not in ("rpn", "fastrcnn"):
        raise UserError(
            f"{path} does not describe a network of a detector: it is of a classifier, or was written by an earlier "
            "version. Continue that run with --resume; the next checkpoint describes it"
        )
    kind = model["kind"]
    try:
        state, steps = evaluated_weights(content), content["step"]
        file = _File(
            path,
            {
                **model,
                "rpn_config": None,
                "networks": {kind: state},
                "input_formats": {kind: model["input_format"]},
                "provenance": {**model["provenance"], "steps": steps, "weights": "of a checkpoint"},
            },
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: an entry is missing or of the wrong kind ({error!r:.200})") from None
    return file.rpn() if kind == "rpn" else file.fast_rcnn()


def _categories_dict(categories: Categories) -> dict[str, Any]:
    return {"ids": list(categories.ids), "names": list(categories.names)}


def _save(
    path: str | os.PathLike[str],
    kind: str,
    trained: Trained[N],
    networks: Mapping[str, RPN | FastRCNN],
    rpn_config: settings.Config | None = None,
) -> None:
    save_artifact(
        path,
        kind,
        config=config_to_dict(trained.config),
        rpn_config=None if rpn_config is None else config_to_dict(rpn_config),
        categories=_categories_dict(trained.categories),
        networks={name: plain_state(network) for name, network in networks.items()},
        input_formats={name: _input_format(network).to_dict() for name, network in networks.items()},
        provenance={**trained.provenance, "versions": versions()},
    )


class _File:
    """The checked content of a file, except its networks, which the methods build."""

    def __init__(self, path: str | os.PathLike[str], content: Mapping[str, Any]) -> None:
        self.path = path
        self.kind: str = content["kind"]
        try:
            self.config = config_from_dict(content["config"], f"{path}: its configuration")
            rpn_config = content["rpn_config"]
            self.rpn_config = self.config
            if rpn_config is not None:
                self.rpn_config = config_from_dict(rpn_config, f"{path}: its RPN's configuration")
            categories = content["categories"]
            self.categories = Categories(*checked_categories(categories["ids"], categories["names"], str(path)))
            self.states: Mapping[str, Any] = content["networks"]
            formats: Mapping[str, Any] = content["input_formats"]
            self.provenance = dict(content["provenance"])
            if set(self.states) != _NETWORKS[self.kind]:
                raise ValueError(f"its networks are {list(self.states)}")
            self.input_formats = {name: InputFormat.from_dict(formats[name]) for name in self.states}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(
                f"{path}: an entry is missing or of the wrong kind ({error!r}); it was not written by this project's "
                "tools"
            ) from None

    def rpn(self) -> Trained[RPN]:
        network = build_with_weights(
            lambda: build_rpn(self.rpn_config, pretrained=False), self.states["rpn"], self.path, rename_weights
        )
        network.backbone.input_format = self.input_formats["rpn"]
        return Trained(network, self.rpn_config, self.categories, self._provenance_of("rpn"))

    def fast_rcnn(self) -> Trained[FastRCNN]:
        network = build_with_weights(
            lambda: build_fast_rcnn(self.config, len(self.categories), pretrained=False),
            self.states["fastrcnn"],
            self.path,
            rename_weights,
        )
        network.trunk.input_format = self.input_formats["fastrcnn"]
        return Trained(network, self.config, self.categories, self._provenance_of("fastrcnn"))

    def detector(self) -> TrainedDetector:
        return TrainedDetector(self.rpn(), self.fast_rcnn())

    def _provenance_of(self, network: str) -> dict[str, Any]:
        own = self.provenance if self.kind == network else self.provenance.get(network)
        return dict(own) if isinstance(own, Mapping) else {}


def _input_format(network: RPN | FastRCNN) -> InputFormat:
    return network.backbone.input_format if isinstance(network, RPN) else network.trunk.input_format
