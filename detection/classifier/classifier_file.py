"""A trained classifier ↔ `classifier.pt`: its weights by torchvision's names, classes, input convention, configuration.

The file is self-contained. `backbone.weights` of a detector's configuration accepts it (`backbones/weights/formats`
reads it), and so do `create_backbone` and `create_classifier`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from backbones import InputFormat, ResNeXt
from backbones.common.errors import UserError
from detection.classifier.config import ClassifierConfig
from detection.classifier.network import build_classifier
from detection.common.categories import checked_categories
from detection.config_file import config_of, config_to_dict
from detection.training.artifacts import load_artifact, save_artifact, versions
from detection.training.network_state import build_with_weights, plain_state

KIND = "classifier"


@dataclass(frozen=True)
class TrainedClassifier:
    """The content of a file: the network, its K class names in the order of the labels, and its provenance."""

    config: ClassifierConfig
    classes: tuple[str, ...]
    network: ResNeXt
    provenance: dict[str, Any]


def save_classifier(path: str | os.PathLike[str], trained: TrainedClassifier) -> None:
    """Writes the file, whole or not at all.

    Raises:
        UserError: it cannot be written; an earlier file stays unchanged.
    """
    save_artifact(
        path,
        KIND,
        config=config_to_dict(trained.config),
        classes=list(trained.classes),
        network=plain_state(trained.network),
        input_format=trained.network.input_format.to_dict(),
        provenance={**trained.provenance, "versions": versions()},
    )


def load_classifier(path: str | os.PathLike[str]) -> TrainedClassifier:
    """The classifier on the CPU, in evaluation mode.

    Raises:
        UserError: the file is missing, of another kind, damaged, or of a network that this version cannot build.
    """
    content = load_artifact(path, KIND)
    try:
        config = config_of(ClassifierConfig, content["config"], f"{path}: its configuration")
        names = content["classes"]
        _, classes = checked_categories(list(range(len(names))), names, str(path))
        input_format = InputFormat.from_dict(content["input_format"])
        state, provenance = content["network"], dict(content["provenance"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{path}: an entry is missing or of the wrong kind ({error!r}); it was not written by "
            "tools/train_classifier.py"
        ) from None
    network = build_with_weights(lambda: build_classifier(config.network, len(classes), pretrained=False), state, path)
    network.input_format = input_format
    return TrainedClassifier(config, classes, network, provenance)
