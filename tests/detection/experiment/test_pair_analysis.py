"""The losses of the proposals and of the classifier, each beside the plain way to compute it."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch

from detection.config_file import load_config
from detection.data.augmentation import Augmentation
from detection.data.demo import make_demo_dataset
from detection.data.demo_drawing import CLASSES
from detection.data.images import read_image
from detection.data.index import DatasetIndex
from detection.evaluation.proposal_share import Coverage, best_overlaps, proposal_share
from detection.experiment.builders import build_fast_rcnn, build_rpn, pair
from detection.experiment.datasets import open_split
from detection.experiment.inference import Inference, batch_images, detect, prepare_inference
from detection.experiment.pair_analysis import PairDetections, detect_pair
from detection.networks.faster_rcnn import FasterRCNN
from tests.detection.pipeline import MINIATURE
from tests.detection.tiny_networks import spread


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Inference[FasterRCNN], DatasetIndex, PairDetections]:
    folder = tmp_path_factory.mktemp("data")
    make_demo_dataset(folder, train=1, test=4)
    (folder / "miniature.yaml").write_text(MINIATURE)
    config = load_config(folder / "miniature.yaml", [f"data.root={folder}", "runtime.test_batch=2"])
    torch.manual_seed(0)
    rpn, fast_rcnn = build_rpn(config), build_fast_rcnn(config, len(CLASSES))
    spread(rpn)
    spread(fast_rcnn)
    index = open_split(config.data, "test")
    inference = prepare_inference(pair(config, rpn, fast_rcnn), config, torch.device("cpu"))
    return inference, index, detect_pair(inference, index)


def test_detections_are_the_detector_s(
    made: tuple[Inference[FasterRCNN], DatasetIndex, PairDetections],
) -> None:
    inference, index, found = made
    assert len(found.rows) > 0
    assert np.array_equal(found.rows, detect(inference, index))


def test_detections_in_several_views_are_the_detector_s_too(
    made: tuple[Inference[FasterRCNN], DatasetIndex, PairDetections],
) -> None:
    plain, index, alone = made
    view = Augmentation(shorter_sides=(128,), longer_side_max=192)
    inference = dataclasses.replace(plain, views=(view,), flip=True)
    found = detect_pair(inference, index)
    assert np.array_equal(found.rows, detect(inference, index))
    assert not np.array_equal(found.rows, alone.rows)
    assert np.array_equal(found.coverage, alone.coverage), "the recall is that without augmentation"
    # An object is classified in every view: boxes of one view alone are among those of all, before the suppression.
    everything = dataclasses.replace(plain, network=copy.copy(plain.network))
    everything.network.nms_iou, everything.network.detections = 1.0, 100_000
    rows = [
        detect_pair(dataclasses.replace(everything, views=views, flip=flip), index).with_ground_truth
        for views, flip in (((), False), ((view,), True))
    ]
    few, many = ({tuple(np.round(row[[0, 5, 6]], 4)) for row in own} for own in rows)
    assert len(few & many) > 0.95 * len(few) > 0
    assert len(rows[1]) > 2 * len(rows[0])


def test_the_ground_truth_takes_the_proposals_place(
    made: tuple[Inference[FasterRCNN], DatasetIndex, PairDetections],
) -> None:
    inference, index, found = made
    for i, image_id in enumerate(index.image_ids.tolist()):
        (batch,) = batch_images(inference, [read_image(index.path(i))], 1)
        boxes, _, crowds = index.objects(i)
        scale = np.tile((batch.sizes / batch.original_sizes)[0].flip(0).numpy(), 2)  # of x, y, x, y
        objects = torch.from_numpy((boxes[~crowds] * scale).astype(np.float32))[None]
        with torch.inference_mode():
            (alone,) = inference.network.classify(
                inference.network.fast_rcnn.feature_maps(batch.images, batch.sizes),
                batch.sizes,
                batch.original_sizes,
                objects,
                torch.tensor([objects.shape[1]]),
            )
            proposals, _, counts = inference.network.propose(batch.images, batch.sizes, batch.original_sizes)
        own = found.with_ground_truth[found.with_ground_truth[:, 0] == image_id]
        assert own[:, 5] == pytest.approx(alone.scores.double().numpy(), abs=1e-4)
        in_image = proposals[0, : int(counts[0])].numpy() / scale
        first = int(index.offsets[i])
        own_rows = slice(first, first + len(boxes))
        assert found.coverage.overlaps[own_rows] == pytest.approx(best_overlaps(in_image, boxes), abs=0.02)
        half = in_image[: (len(in_image) + 1) // 2]
        assert found.coverage.of_better_half[own_rows] == pytest.approx(best_overlaps(half, boxes), abs=0.02)
        anchors = inference.network.rpn.predict(batch.images, batch.sizes).anchors
        best = best_overlaps(anchors.numpy(), objects[0].numpy())
        assert found.coverage.of_anchors[own_rows] == pytest.approx(best, abs=1e-4)
        sides = np.sqrt((objects[0, :, 2:] - objects[0, :, :2]).prod(dim=1).numpy())
        assert found.coverage.sides[own_rows] == pytest.approx(sides, rel=1e-3)
    assert found.coverage.areas.tolist() == index.areas[~index.crowds].tolist()


def test_recall_by_size_and_iou() -> None:
    boxes = np.array([[0, 0, 10, 10], [0, 0, 100, 100], [200, 200, 300, 300]])
    proposals = np.array([[0, 0, 10, 8], [0, 0, 100, 100]])
    overlaps = best_overlaps(proposals, boxes)
    assert overlaps.tolist() == [0.8, 1.0, 0.0]
    areas = np.array([100.0, 1e4, 1e4])
    coverage = Coverage(areas, np.array([5.0, 50.0, 70.0]), overlaps, overlaps - 0.4, 0.6 * np.ones(3))
    share = proposal_share(coverage, 2, {"AP": 0.1}, {"AP": 0.3})
    assert share.objects == {
        "all": 3,
        "below 16": 1,
        "16–32": 0,
        "32–64": 0,
        "64–96": 0,
        "96–192": 2,
        "192 and above": 0,
    }
    assert share.recall["below 16"] == [1.0] * 7 + [0.0] * 3
    assert share.recall["96–192"] == [0.5] * 10
    assert share.recall["16–32"] is None
    assert (share.sides["96–192"], share.sides["16–32"]) == (60.0, None)
    assert share.half_recall == {**dict.fromkeys(share.objects), "all": 1 / 3, "below 16": 0.0, "96–192": 0.5}
    assert share.anchor_recall["all"] == 1.0
    assert best_overlaps(proposals[:0], boxes).tolist() == [0.0] * 3
    assert best_overlaps(proposals, boxes[:0]).tolist() == []
