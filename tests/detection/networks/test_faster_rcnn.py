"""The pair: what it finds lies where the original image has it, and an image fares the same alone and in company."""

from __future__ import annotations

import threading

import pytest
import torch

from detection.networks.faster_rcnn import FasterRCNN, to_original
from tests.detection.tiny_networks import batch, tiny_fast_rcnn, tiny_rpn


@pytest.fixture
def network() -> FasterRCNN:
    return FasterRCNN(
        tiny_rpn().eval(), tiny_fast_rcnn().eval(), before_nms=200, proposals=30, min_side=8.0, min_score=0.1
    ).eval()


def test_boxes_are_scaled_back_in_each_direction() -> None:
    boxes = torch.tensor([[[10.0, 20, 30, 40]], [[10.0, 20, 30, 40]]])
    original = to_original(boxes, torch.tensor([[100, 200], [50, 50]]), torch.tensor([[200, 200], [50, 100]]))
    assert original.tolist() == [[[10, 40, 30, 80]], [[20, 20, 60, 40]]]


def test_detections_lie_in_the_original_image(network: FasterRCNN) -> None:
    whole = batch([[], []], [[], []], sizes=[(96, 120), (80, 128)])
    original = torch.tensor([[48, 60], [160, 256]])
    found = network(whole.images, whole.sizes, original)
    assert all(len(one.scores) > 0 for one in found)
    for one, (height, width) in zip(found, original.tolist(), strict=True):
        assert one.boxes.min() >= 0
        assert one.boxes[:, 2].max() <= width
        assert one.boxes[:, 3].max() <= height


def test_smallest_side_counts_in_the_original_image(network: FasterRCNN) -> None:
    """8 pixels of an image that is shown at twice its size are 16 pixels of the network's input."""
    whole = batch([[]], [[]])
    boxes, _, counts = network.propose(whole.images, whole.sizes, whole.sizes // 2)
    own = boxes[0, : counts[0]]
    assert (own[:, 2:] - own[:, :2]).min() >= 16


def test_an_image_fares_the_same_alone_and_in_a_batch(network: FasterRCNN) -> None:
    whole = batch([[], []], [[], []])
    together = network(whole.images, whole.sizes, whole.sizes)
    for image, expected in enumerate(together):
        one = slice(image, image + 1)
        (alone,) = network(whole.images[one], whole.sizes[one], whole.sizes[one])
        torch.testing.assert_close(alone.boxes, expected.boxes, atol=1e-3, rtol=0)
        torch.testing.assert_close(alone.scores, expected.scores, atol=1e-5, rtol=0)
        assert torch.equal(alone.labels, expected.labels)


def test_several_threads_may_call_it_at_once(network: FasterRCNN) -> None:
    whole = batch([[], []], [[], []])
    expected = network(whole.images, whole.sizes, whole.sizes)
    answers: list[object] = []

    def ask() -> None:
        for _ in range(5):
            answers.append(network(whole.images, whole.sizes, whole.sizes))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 20
    for answer in answers:
        for one, other in zip(answer, expected, strict=True):  # type: ignore[call-overload]
            assert torch.equal(one.boxes, other.boxes)


def test_the_two_networks_share_no_tensor(network: FasterRCNN) -> None:
    rpn = {value.data_ptr() for value in network.rpn.state_dict().values() if value.numel()}
    fast = {value.data_ptr() for value in network.fast_rcnn.state_dict().values() if value.numel()}
    assert not rpn & fast
