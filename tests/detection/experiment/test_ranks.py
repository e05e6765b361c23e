"""A split looked at by several ranks: the same figures and detections to the last digit, whatever is found."""

from __future__ import annotations

import json
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from backbones.common.errors import UserError
from detection.config import Config
from detection.config_file import load_config
from detection.data.index import DatasetIndex, load_index
from detection.experiment.inference import Inference, average_precision_of
from detection.networks.detections import Detections
from tests.detection import ranks
from tests.detection.pipeline import MINIATURE

IMAGES = 7


def objects(level: int) -> Tensor:
    """The ground truth (6, 4) of the image of this grey level."""
    random = torch.Generator().manual_seed(1000 + level)
    corner = torch.rand(6, 2, generator=random) * 40
    return torch.cat([corner, corner + 10 + torch.rand(6, 2, generator=random) * 20], dim=1)


class Scripted(nn.Module):
    """Finds in an image what its grey level says: nothing, many equal scores, more than count, or this and that."""

    def __init__(self, nan_in: int = -1) -> None:
        super().__init__()
        self.nan_in = nan_in
        self.detections = 100  # the most an image has in the figures
        self.place = nn.Parameter(torch.zeros(()))

    def forward(self, images: Tensor, sizes: Tensor, original_sizes: Tensor) -> list[Detections]:
        return [self.found(int(level)) for level in images[:, 0, 0, 0]]

    def found(self, level: int) -> Detections:
        random = torch.Generator().manual_seed(level)
        count = (0, 40, 250, 60)[level % 4]
        corner = torch.rand(count, 2, generator=random) * 50
        boxes = torch.cat([corner, corner + 5 + torch.rand(count, 2, generator=random) * 20], dim=1)
        boxes[:6] = objects(level)[: min(6, count)] + 0.5
        scores = torch.full((count,), 0.5) if level % 4 == 1 else torch.rand(count, generator=random)
        if level == self.nan_in:
            scores[0] = float("nan")
        labels = torch.ones(count) if level % 4 == 2 else torch.randint(1, 3, (count,), generator=random)
        return Detections(boxes, scores.sort(descending=True).values, labels.long())


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, DatasetIndex]:
    folder = tmp_path_factory.mktemp("split")
    content: dict[str, list[dict[str, object]]] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": 3, "name": "three"}, {"id": 8, "name": "eight"}],
    }
    for i in range(IMAGES):
        height = 80 + i % 2  # two padded sizes, so that batches are not full
        cv2.imwrite(str(folder / f"{i}.png"), np.full((height, 80, 3), i, dtype=np.uint8))
        content["images"].append({"id": 90 - i, "file_name": f"{i}.png", "height": height, "width": 80})
        for x, y, right, bottom in objects(i).tolist():
            number = len(content["annotations"]) + 1
            content["annotations"].append(
                {
                    "id": number,
                    "image_id": 90 - i,
                    "category_id": (3, 8)[number % 2],
                    "bbox": [x, y, right - x, bottom - y],
                    "area": (right - x) * (bottom - y),
                    "iscrowd": int(number % 11 == 0),
                }
            )
    (folder / "annotations.json").write_text(json.dumps(content))
    (folder / "miniature.yaml").write_text(MINIATURE)
    changes = [f"data.root={folder}", "data.test_shorter_side=80", "data.size_divisor=8", "runtime.test_batch=2"]
    index = load_index(folder / "annotations.json", folder, name="split", purpose="evaluation")
    return load_config(folder / "miniature.yaml", changes), index


def figures_of(config: Config, index: DatasetIndex, nan_in: int, device: torch.device) -> tuple[str, bytes]:
    try:
        inference: Any = Inference.configured(Scripted(nan_in).to(device), config)
        figures, detections = average_precision_of(inference, index)
    except UserError as error:
        return f"error: {error}", b""
    return json.dumps(figures.to_dict()), detections.tobytes()


def by_ranks(config: Config, index: DatasetIndex, world: int, nan_in: int = -1) -> list[tuple[str, bytes]]:
    """What each of several processes comes to."""
    return ranks.by_ranks(world, lambda _, device: figures_of(config, index, nan_in, device))  # type: ignore[return-value]


def test_the_figures_are_those_of_one_to_the_last_digit(split: tuple[Config, DatasetIndex]) -> None:
    """With images where nothing is found, equal scores, and more than 100 detections of a class."""
    config, index = split
    alone = figures_of(config, index, -1, torch.device("cpu"))
    assert json.loads(alone[0])["figures"]["AP50"] > 0.02
    assert len(alone[1]) == 8 * 7 * (40 + 250 + 60 + 40 + 250)
    for world in (2, 3):
        assert by_ranks(config, index, world) == [alone] * world


def test_a_rank_without_an_image_has_nothing_to_do(split: tuple[Config, DatasetIndex]) -> None:
    config, index = split
    few = index.subset([1])
    assert by_ranks(config, few, 2) == [figures_of(config, few, -1, torch.device("cpu"))] * 2


def test_a_score_that_is_no_number_stops_every_rank_with_the_image_s_name(
    split: tuple[Config, DatasetIndex],
) -> None:
    config, index = split
    told = by_ranks(config, index, 2, nan_in=3)
    assert told[0] == told[1] == figures_of(config, index, 3, torch.device("cpu"))
    assert told[0][0].startswith("error: ")
    assert "87" in told[0][0]  # the id of the image of grey level 3
