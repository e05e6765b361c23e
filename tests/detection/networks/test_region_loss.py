"""Class-balanced weights by the paper's formula, and the class loss that they weight."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch

from detection.networks.region_loss import class_balanced_weights
from tests.detection.networks.test_fast_rcnn import LABELS, OBJECTS, around
from tests.detection.tiny_networks import batch, tiny_fast_rcnn


def exact(counts: list[int], beta: Fraction) -> list[float]:
    """In exact fractions: the effective number of n samples is 1 + β + β² + … + βⁿ⁻¹ (the paper's section 3.2)."""
    effective = [sum(beta**power for power in range(count)) for count in counts]
    inverse = [1 / number if number else None for number in effective]
    known = [one for one in inverse if one is not None]
    scale = len(known) / sum(known)
    return [1.0] + [1.0 if one is None else float(one * scale) for one in inverse]


@pytest.mark.parametrize("beta", [Fraction(9, 10), Fraction(99, 100), Fraction(1, 2), Fraction(0)])
def test_weights_are_the_inverse_effective_numbers(beta: Fraction) -> None:
    counts = [1, 5, 60, 0, 200]
    weights = class_balanced_weights(counts, float(beta))
    assert weights.tolist() == pytest.approx(exact(counts, beta), rel=1e-5)
    assert weights.dtype == torch.float32


def test_the_limits_are_no_weights_and_the_inverse_frequency() -> None:
    """Section 4: β = 0 weights nothing, β → 1 by the inverse of the number."""
    assert class_balanced_weights([3, 500], 0.0).tolist() == [1, 1, 1]
    assert class_balanced_weights([100, 300], 1 - 1e-9).tolist() == pytest.approx([1, 1.5, 0.5], rel=1e-4)
    assert class_balanced_weights([0, 0], 0.9).tolist() == [1, 1, 1]


def test_the_class_loss_of_each_region_has_its_class_s_weight() -> None:
    weights = torch.tensor([1.0, 0.25, 3.0, 0.5])
    network = tiny_fast_rcnn(samples=1000, positive_share=1.0, class_weights=weights)
    whole = batch(OBJECTS, LABELS, proposals=around(OBJECTS, 30))
    losses = network(whole)
    regions, labels, _, valid = network.sample_regions(whole)
    logits, _ = network.predict(whole.images, whole.sizes, regions)
    for image in range(3):
        expected = 0.0
        for s in range(int(valid[image].sum())):
            label = int(labels[image, s])
            row = logits.unflatten(0, labels.shape)[image, s].detach().double()
            expected -= float(weights[label]) * row.log_softmax(0)[label].item()
        assert losses["class"][image].item() == pytest.approx(expected / int(valid[image].sum()), rel=1e-5)
    assert not any("class_weights" in name for name in network.state_dict()), "the weights are not part of a file"
