"""A trained classifier ↔ `classifier.pt`: its weights by torchvision's names, classes, input convention, configuration.

The file needs nothing else. `backbone.weights` of a detector's configuration takes it as it stands
(`backbones/weights/formats` reads it), and so do `create_backbone` and `create_classifier`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch

from backbones import InputFormat, ResNeXt
from backbones.common.errors import UserError
from detection.classifier.config import ClassifierConfig
from detection.classifier.network import build_classifier
from detection.config_file import config_of, config_to_dict
from detection.experiment.model_files import versions
from detection.training.artifacts import load_artifact, save_artifact

KIND = "classifier"


@dataclass(frozen=True)
class TrainedClassifier:
    """What a file holds: the network, its K class names in the order of the labels, and how it was made."""

    config: ClassifierConfig
    classes: tuple[str, ...]
    network: ResNeXt
    provenance: dict[str, Any]


def save_classifier(path: str | os.PathLike[str], trained: TrainedClassifier) -> None:
    """Writes the file, whole or not at all.

    Raises:
        UserError: it cannot be written; what stood there before is untouched.
    """
    state = {
        name: value.detach().to("cpu", memory_format=torch.contiguous_format)
        for name, value in trained.network.state_dict().items()
    }
    save_artifact(
        path,
        KIND,
        config=config_to_dict(trained.config),
        classes=list(trained.classes),
        network=state,
        input_format=trained.network.input_format.to_dict(),
        provenance={**trained.provenance, "versions": versions()},
    )


def load_classifier(path: str | os.PathLike[str]) -> TrainedClassifier:
    """The classifier on the CPU, in evaluation mode.

    Raises:
        UserError: no such file, not one of ours, of another kind, damaged, or of a network that this version cannot
            build.
    """
    content = load_artifact(path, KIND)
    try:
        config = config_of(ClassifierConfig, content["config"], f"{path}: its configuration")
        classes = tuple(map(str, content["classes"]))
        input_format = InputFormat.from_dict(content["input_format"])
        state, provenance = content["network"], dict(content["provenance"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not a file of tools/train_classifier.py ({error!r})") from None
    network = build_classifier(config.network, len(classes), pretrained=False)
    try:
        network.load_state_dict(state)
    except (RuntimeError, AttributeError, TypeError) as error:
        lines = "\n".join(str(error).splitlines()[:6])
        raise UserError(f"{path}: its weights do not fit the network that its configuration names: {lines}") from None
    network.input_format = input_format
    return TrainedClassifier(config, classes, network.eval(), provenance)
