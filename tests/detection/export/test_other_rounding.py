"""A network that rounds otherwise differs by no more than rounding, and turns what lies between two results."""

from __future__ import annotations

import torch

from detection.export.other_rounding import MOVE, rounded_otherwise
from detection.networks.faster_rcnn import FasterRCNN
from tests.detection.tiny_networks import tiny_fast_rcnn, tiny_rpn

SIZE = torch.tensor([[96.0, 128.0]])
IMAGE = torch.randint(256, (1, 3, 96, 128), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


def tiny_pair() -> FasterRCNN:
    pair = FasterRCNN(tiny_rpn(), tiny_fast_rcnn(), before_nms=200, proposals=30, min_side=8.0, min_score=0.1)
    return pair.eval()


def test_weights_and_proposals_move_by_their_rounding() -> None:
    network = tiny_pair()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    rounded = rounded_otherwise(network, 1)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    for ours, theirs in zip(network.parameters(), rounded.parameters(), strict=True):
        torch.testing.assert_close(theirs, ours, rtol=3e-7, atol=0)
    assert any(not torch.equal(*both) for both in zip(network.parameters(), rounded.parameters(), strict=True))
    ours, theirs = network.propose(IMAGE, SIZE, SIZE), rounded.propose(IMAGE, SIZE, SIZE)
    assert 0 < (theirs.boxes - ours.boxes).abs().max() < 2 * MOVE
    found, expected = rounded(IMAGE, SIZE, SIZE)[0], network(IMAGE, SIZE, SIZE)[0]
    assert len(found.boxes) == len(expected.boxes) > 0
    torch.testing.assert_close(found.scores, expected.scores, rtol=1e-3, atol=1e-4)


def test_the_first_of_equal_scores_is_another_one() -> None:
    network = tiny_pair()
    candidates = network.fast_rcnn.candidates

    def tied(*arguments: object, **options: object) -> object:
        found = candidates(*arguments, **options)
        return found._replace(scores=torch.ones_like(found.scores))

    network.fast_rcnn.candidates = tied  # type: ignore[method-assign, assignment]

    def first(one: FasterRCNN) -> list[float]:
        return one(IMAGE, SIZE, SIZE)[0].boxes[0].tolist()

    assert len({str(first(rounded_otherwise(network, seed))) for seed in range(6)}) > 1
