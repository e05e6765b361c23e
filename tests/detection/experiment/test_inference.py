"""From a network and images to what it finds: one way, whoever takes it; and what does not fit into memory."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from backbones.common.errors import UserError
from detection.config import Config
from detection.config_file import change_config, load_config
from detection.data.demo import make_demo_dataset
from detection.data.images import read_image
from detection.data.index import DatasetIndex
from detection.detector import Detector
from detection.experiment.builders import pair
from detection.experiment.datasets import open_split
from detection.experiment.inference import Inference, batch_images, detect, prepare_inference, propose, propose_batch
from detection.experiment.model_files import Categories, Trained, TrainedDetector, save_detector
from detection.training.precision import Precision, has_bf16
from tests.detection.pipeline import MINIATURE
from tests.detection.tiny_networks import tiny_fast_rcnn, tiny_rpn

CPU = torch.device("cpu")
TINY = [
    "rpn.anchor_ratios=[0.5, 1, 2]", "rpn.channels=128", "backbone.norm=batch", "fast_rcnn.pooled_size=6",
    "data.size_divisor=32", "fast_rcnn.min_score=0.05",
]  # fmt: skip


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    folder = tmp_path_factory.mktemp("inference")
    make_demo_dataset(folder / "data", train=2, test=4)
    (folder / "miniature.yaml").write_text(MINIATURE)
    return load_config(folder / "miniature.yaml", [f"data.root={folder / 'data'}", *TINY])


@pytest.fixture(scope="module")
def index(config: Config) -> DatasetIndex:
    return open_split(config.data, "test")


@pytest.fixture(scope="module")
def networks(config: Config, index: DatasetIndex) -> TrainedDetector:
    categories = Categories(tuple(index.category_ids.tolist()), tuple(index.category_names))
    fast_rcnn = tiny_fast_rcnn(classes=len(categories), norm="batch")
    return TrainedDetector(Trained(tiny_rpn(norm="batch"), config, categories), Trained(fast_rcnn, config, categories))


def test_the_detector_and_the_tools_find_the_same_to_the_bit(
    config: Config, index: DatasetIndex, networks: TrainedDetector, tmp_path: Path
) -> None:
    """The detector's file and its images one by one, and a split with images read by workers."""
    save_detector(tmp_path / "detector.pt", networks)
    detector = Detector.load(tmp_path / "detector.pt", "cpu")
    inference = prepare_inference(pair(config, networks.rpn.network, networks.fast_rcnn.network), config, CPU)
    rows = detect(inference, index)
    assert len(rows) > 0
    for i, image_id in enumerate(index.image_ids.tolist()):
        found = detector(index.path(i))
        own = rows[rows[:, 0] == image_id]
        assert len(own) == len(found)
        corners = found.boxes.astype(np.float64)
        np.testing.assert_array_equal(own[:, 1:3], corners[:, :2])
        np.testing.assert_array_equal(own[:, 3:5], corners[:, 2:] - corners[:, :2])
        np.testing.assert_array_equal(own[:, 5], found.scores.astype(np.float64))
        np.testing.assert_array_equal(own[:, 6], found.category_ids)


AUGMENTED = [
    "data.test_scales=[64, 128]",
    "data.test_flip=true",
    "fast_rcnn.nms=linear",
    "fast_rcnn.box_voting_iou=0.8",
]


@pytest.mark.parametrize("batch_size", [1, 3])
def test_test_time_augmentation_is_the_same_for_the_detector_and_the_tools(
    config: Config, index: DatasetIndex, networks: TrainedDetector, tmp_path: Path, batch_size: int
) -> None:
    save_detector(tmp_path / "detector.pt", networks)
    changes = [*AUGMENTED, f"runtime.test_batch={batch_size}"]
    plain = Detector.load(tmp_path / "detector.pt", "cpu")
    detector = Detector.load(tmp_path / "detector.pt", "cpu", changes=changes)
    changed = change_config(config, changes)
    inference = prepare_inference(pair(changed, networks.rpn.network, networks.fast_rcnn.network), changed, CPU)
    assert [view.shorter_sides for view in inference.views] == [(64,), (128,)]
    assert [view.longer_side_max for view in inference.views] == [96, 192], "in proportion"
    rows = detect(inference, index)
    everywhere = detector([index.path(i) for i in range(len(index))], batch_size=batch_size)
    for i, image_id in enumerate(index.image_ids.tolist()):
        own, found = rows[rows[:, 0] == image_id], everywhere[i]
        assert len(own) == len(found) > 0
        if batch_size == 1:
            np.testing.assert_array_equal(own[:, 5], found.scores.astype(np.float64))
            np.testing.assert_array_equal(own[:, 1:3], found.boxes.astype(np.float64)[:, :2])
        else:  # a kernel may round differently in a batch of another size
            np.testing.assert_allclose(own[:, 5], found.scores, atol=1e-5)
        assert not np.array_equal(found.scores[:5], plain(index.path(i)).scores[:5])


def test_each_view_is_the_image_at_its_own_size(config: Config, networks: TrainedDetector) -> None:
    changed = change_config(config, ["data.test_scales=[48, 192]"])
    inference = Inference.configured(networks.rpn.network, changed)
    image = np.random.default_rng(0).integers(0, 255, (100, 150, 3), dtype=np.uint8)
    [batch] = batch_images(inference, [image], 1)
    assert batch.sizes.tolist() == [[96, 144]]
    assert [sizes.tolist() for _, sizes in batch.views] == [[[48, 72]], [[192, 288]]]
    assert [tuple(images.shape[2:]) for images, _ in batch.views] == [(64, 96), (192, 288)]
    for images, sizes in batch.views:
        height, width = sizes[0].tolist()
        expected = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
        np.testing.assert_array_equal(images[0, :, :height, :width].permute(1, 2, 0).numpy(), expected)


def test_an_unreadable_image_has_no_detections_in_any_view(
    config: Config, index: DatasetIndex, networks: TrainedDetector, tmp_path: Path
) -> None:
    shutil.copytree(index.path(0).parent, tmp_path / "test")
    (tmp_path / "test" / index.path(1).name).write_bytes(b"no image")
    damaged = dataclasses.replace(index, image_root=tmp_path / "test")
    changed = change_config(config, AUGMENTED)
    inference = prepare_inference(pair(changed, networks.rpn.network, networks.fast_rcnn.network), changed, CPU)
    rows = detect(inference, damaged)
    assert set(rows[:, 0].astype(int)) == set(index.image_ids.tolist()) - {int(index.image_ids[1])}


def test_proposals_are_made_without_augmentation(
    config: Config, index: DatasetIndex, networks: TrainedDetector
) -> None:
    limits = config.rpn.test_proposals
    plain, augmented = (
        list(propose(prepare_inference(networks.rpn.network, one, CPU), index, limits))
        for one in (config, change_config(config, AUGMENTED[:2]))
    )
    for (_, boxes, _), (_, others, _) in zip(plain, augmented, strict=True):
        np.testing.assert_array_equal(boxes, others)


def test_proposals_of_an_image_alone_are_those_in_its_split(
    config: Config, index: DatasetIndex, networks: TrainedDetector
) -> None:
    inference, limits = prepare_inference(networks.rpn.network, config, CPU), config.rpn.test_proposals
    of_split = {image_id: (boxes, scores) for image_id, boxes, scores in propose(inference, index, limits)}
    assert len(of_split) == 4
    for i, image_id in enumerate(index.image_ids.tolist()):
        [batch] = batch_images(inference, [read_image(index.path(i))], 1)
        [(boxes, scores)] = propose_batch(inference, batch, limits)
        assert len(boxes) > 0
        np.testing.assert_array_equal(boxes, of_split[image_id][0])
        np.testing.assert_array_equal(scores, of_split[image_id][1])


@pytest.mark.skipif(not has_bf16(), reason="PRECISION NOT TRIED: this processor has no instructions for bf16")
def test_the_configured_precision_is_everyone_s(
    config: Config, index: DatasetIndex, networks: TrainedDetector, tmp_path: Path
) -> None:
    """Other scores in bf16, and the same for the detector and a split."""
    save_detector(tmp_path / "detector.pt", networks)
    image = index.path(0)
    exact = Detector.load(tmp_path / "detector.pt", "cpu")
    assert exact.precision.name == "fp32", "a small network is not measured"
    coarse = Detector.load(tmp_path / "detector.pt", "cpu", changes=["runtime.precision=bf16"])
    config = dataclasses.replace(config, runtime=dataclasses.replace(config.runtime, precision="bf16"))
    inference = prepare_inference(pair(config, networks.rpn.network, networks.fast_rcnn.network), config, CPU)
    assert coarse.precision == inference.precision == Precision("bf16", "as configured")
    assert coarse.network.rpn.backbone.conv1.weight.dtype == torch.bfloat16
    rows = detect(inference, index)
    found = coarse(image)
    own = rows[rows[:, 0] == index.image_ids[0]]
    np.testing.assert_array_equal(own[:, 5], found.scores.astype(np.float64))
    assert found.scores.dtype == found.boxes.dtype == np.float32
    assert not np.array_equal(found.scores[:5], exact(image).scores[:5])
    np.testing.assert_allclose(found.scores[:5], exact(image).scores[:5], atol=0.05)


def test_only_images_of_one_padded_size_share_a_batch(config: Config, networks: TrainedDetector) -> None:
    inference = prepare_inference(networks.rpn.network, config, CPU)
    shapes = [(96, 128), (96, 128), (96, 128), (128, 96), (96, 128), (97, 128)]
    images = [np.full((*shape, 3), 10 * i, np.uint8) for i, shape in enumerate(shapes)]
    batches = list(batch_images(inference, iter(images), 2))
    assert [batch.image_ids.tolist() for batch in batches] == [[0, 1], [2], [3], [4, 5]]
    assert [tuple(size) for batch in batches for size in batch.original_sizes.tolist()] == shapes
    assert [int(batch.images[-1, 0, 0, 0]) for batch in batches] == [10, 20, 30, 50]


class Greedy(nn.Module):
    """Asks for more memory than there is."""

    def __init__(self) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.zeros(()))

    def forward(self, *_: Any) -> Any:
        return torch.empty(1 << 58)

    def propose(self, *_: Any, **__: Any) -> Any:
        return torch.empty(1 << 58)


@pytest.mark.parametrize("look", ["detect", "propose"])
def test_out_of_memory_names_sizes_and_what_to_lower(look: str, config: Config, index: DatasetIndex) -> None:
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, size_divisor=160))
    inference: Any = Inference.configured(Greedy(), config)

    def run() -> object:
        if look == "detect":
            return detect(inference, index)
        return list(propose(inference, index, config.rpn.test_proposals))

    with pytest.raises(
        UserError, match=r"out of memory on .* 1 image\(s\) of 160 × 160 pixels .*Lower runtime\.test_batch"
    ):
        run()
