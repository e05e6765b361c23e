"""A ResNeXt and a batch of labelled images → the loss of each image, for the training loop.

Shapes: N images, K classes.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from backbones import InputFormat, ResNeXt, create_classifier
from detection.classifier.config import Network
from detection.classifier.labelled_batches import LabelledBatch


def build_classifier(network: Network, classes: int, *, pretrained: bool = True) -> ResNeXt:
    """The configured network for `classes` classes. Without `pretrained` it starts from random weights.

    Raises:
        UserError: an unknown name, numbers that define no network, or weights that do not fit.
    """
    weights = network.weights if pretrained else None
    built = create_classifier(network.name, classes, weights, norm=network.norm, **network.structure())
    if network.mean is not None and network.std is not None:
        built.input_format = InputFormat("rgb", 255.0, network.mean, network.std)
    return built


class ClassifierTraining(nn.Module):
    """The network with its loss.

    Attributes:
        network: the network that is trained.
    """

    def __init__(self, network: ResNeXt) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: LabelledBatch) -> dict[str, Tensor]:
        """Cross-entropy of each image, float32 (N,)."""
        logits = self.network(self.network.input_format.normalize(batch.images))
        return {"cross_entropy": F.cross_entropy(logits.float(), batch.labels, reduction="none")}
