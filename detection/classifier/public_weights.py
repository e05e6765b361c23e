"""Weights of any source that `backbones` reads, and the images of a split → a classifier that can be evaluated."""

from __future__ import annotations

import dataclasses

from backbones import create_classifier
from backbones.common.errors import UserError
from backbones.weights.pretrained import resolve_weights
from detection.classifier.classifier_file import TrainedClassifier
from detection.classifier.config import ClassifierConfig, Network
from detection.classifier.image_input import open_split


def with_public_weights(config: ClassifierConfig, network: str, weights: str) -> TrainedClassifier:
    """The network `network` with `weights` (see `backbones.create_classifier`), for the test split of `config`.

    The weights do not name their classes: they are assumed to be the split's folders in the order of their names, as
    torchvision and timm number ImageNet's.

    Raises:
        UserError: no such network or weights, without a classifier or with one for another number of classes.
    """
    classes = open_split(config.data, "test").classes
    built = create_classifier(network, len(classes), weights, norm="frozen").eval()  # some weights' BN is frozen anyway
    known = resolve_weights(weights, built.provenance["name"]).state_dict.get("fc.weight")
    if known is None or len(known) != len(classes):
        raise UserError(
            f"{weights} {'has no classifier' if known is None else f'knows {len(known)} classes'}, the images are of "
            f"{len(classes)}: they have to be of all classes that the weights know, and of no other"
        )
    named = dataclasses.replace(config, network=Network(name=network, weights=weights))
    return TrainedClassifier(named, classes, built, {"backbone": built.provenance})
