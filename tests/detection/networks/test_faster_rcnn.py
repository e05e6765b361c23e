"""The pair: what it finds lies where the original image has it, and an image fares the same alone and in company."""

from __future__ import annotations

import threading

import pytest
import torch
import torchvision
from torch.nn import functional

from detection.networks.detections import Suppression
from detection.networks.faster_rcnn import FasterRCNN, View, to_original
from detection.networks.network_input import mirrored
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


SIZES = [(96, 120), (80, 128)]


def test_one_view_finds_what_a_plain_call_finds(network: FasterRCNN) -> None:
    whole = batch([[], []], [[], []], sizes=SIZES)
    original = torch.tensor([[48, 60], [160, 256]])
    expected = network(whole.images, whole.sizes, original)
    found = network.detect_in_views([View(whole.images, whole.sizes)], original)
    for one, other in zip(found, expected, strict=True):
        assert len(one.scores) == len(other.scores) > 0
        torch.testing.assert_close(one.boxes, other.boxes)
        assert torch.equal(one.scores, other.scores)
        assert torch.equal(one.labels, other.labels)


def test_views_propose_on_their_own_and_one_suppression_merges_them(network: FasterRCNN) -> None:
    """Detectron's union: every view's boxes above the score, in pixels of the image, through one NMS."""
    whole = batch([[], []], [[], []], sizes=SIZES)
    larger = functional.interpolate(whole.images.float(), scale_factor=1.5).to(torch.uint8)
    views = [
        View(whole.images, whole.sizes),
        View(whole.images, whole.sizes, is_mirrored=True),
        View(larger, whole.sizes * 3 // 2),
    ]
    found = network.detect_in_views(views, whole.sizes)
    for image, (height, width) in enumerate(SIZES):
        boxes, scores, labels = [], [], []
        for images, sizes, is_mirrored in views:
            own, size = images[image : image + 1].clone(), sizes[image : image + 1]
            if is_mirrored:
                own[..., :width] = own[..., :width].flip(3)
            proposals, _, counts = network.propose(own, size, whole.sizes[image : image + 1])
            with torch.no_grad():
                logits, targets = network.fast_rcnn.predict(own, size, proposals[:, : counts[0]])
            for row, region, target in zip(logits.softmax(1)[:, 1:], proposals[0], targets, strict=False):
                for label in range(3):
                    if row[label] <= 0.1:
                        continue
                    x0, y0, x1, y1 = network.fast_rcnn.coder.decode(target[label], region).tolist()
                    x0, x1 = (min(max(x, 0), int(size[0, 1])) for x in (x0, x1))
                    y0, y1 = (min(max(y, 0), int(size[0, 0])) for y in (y0, y1))
                    if is_mirrored:
                        x0, x1 = width - x1, width - x0
                    across, down = width / int(size[0, 1]), height / int(size[0, 0])
                    boxes.append([x0 * across, y0 * down, x1 * across, y1 * down])
                    scores.append(float(row[label]))
                    labels.append(label + 1)
        kept = torchvision.ops.batched_nms(torch.tensor(boxes), torch.tensor(scores), torch.tensor(labels), 0.3)[:100]
        assert len(found[image].scores) == len(kept) > 20
        torch.testing.assert_close(found[image].boxes, torch.tensor(boxes)[kept], atol=1e-2, rtol=0)
        torch.testing.assert_close(found[image].scores, torch.tensor(scores)[kept], atol=1e-5, rtol=0)
        assert torch.equal(found[image].labels, torch.tensor(labels)[kept])


def test_an_image_and_its_mirror_image_get_mirrored_detections(network: FasterRCNN) -> None:
    whole = batch([[], []], [[], []], sizes=SIZES)
    views = [View(whole.images, whole.sizes, flag) for flag in (False, True)]
    other_way = mirrored(whole.images, whole.sizes)
    assert torch.equal(mirrored(other_way, whole.sizes), whole.images)
    assert torch.equal(other_way[0, :, :96, :120], whole.images[0, :, :96, :120].flip(2))
    assert torch.equal(other_way[1, :, :, 128:], whole.images[1, :, :, 128:])
    found = network.detect_in_views(views, whole.sizes)
    flipped = network.detect_in_views([View(other_way, whole.sizes, flag) for flag in (False, True)], whole.sizes)
    for one, other, (_, width) in zip(found, flipped, SIZES, strict=True):
        x0, y0, x1, y1 = other.boxes.unbind(1)
        torch.testing.assert_close(one.boxes, torch.stack([width - x1, y0, width - x0, y1], 1), atol=1e-3, rtol=0)
        torch.testing.assert_close(one.scores, other.scores)


def test_the_suppression_is_the_configured_one(network: FasterRCNN) -> None:
    whole = batch([[]], [[]])
    plain = network(whole.images, whole.sizes, whole.sizes)[0]
    network.suppression = Suppression("gaussian", voting_iou=0.8)
    (soft,) = network(whole.images, whole.sizes, whole.sizes)
    (viewed,) = network.detect_in_views([View(whole.images, whole.sizes)], whole.sizes)
    assert len(soft.scores) > len(plain.scores)
    torch.testing.assert_close(viewed.boxes, soft.boxes)
