"""Real data broken on purpose: the page's sentences name what is wrong, and nothing of it where nothing was broken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.broken_data import Bench
from benchmarks.data_faults import Fault, half_removed, invented, shifted, shuffled_names, training_faults
from detection.config_file import load_config
from detection.evaluation.average_precision import average_precision
from detection.experiment.analysis import analyse
from detection.experiment.ground_truth_loading import load_ground_truth
from detection.report.advice import advice
from detection.report.seen import Seen

RULES = ("are probably missing", "look exchanged", "do not mean the same by a box", "whether there is an object in")


def perturbed(content: dict[str, Any], *, overlooked: float = 1 / 12) -> np.ndarray:
    """Detections (D, 7) of a good detector that was trained on sound labels: each object a little displaced, some of
    them overlooked, and as many detections of nothing, of low score."""
    draw = np.random.default_rng(0)
    objects = [one for one in content["annotations"] if not one["iscrowd"] and min(one["bbox"][2:]) > 1]
    rows = []
    for one in objects:
        x, y, width, height = one["bbox"]
        if draw.uniform() < overlooked:
            box = [x + 3 * width, y, width, height, draw.uniform(0.05, 0.3)]
        else:
            dx, dy, dw, dh = draw.normal(scale=0.06, size=4)
            box = [x + dx * width, y + dy * height, width * (1 + dw), height * (1 + dh), draw.uniform(0.5, 1)]
        rows.append([one["image_id"], *box, one["category_id"]])
    return np.array(rows)


def said(content: dict[str, Any], rows: np.ndarray, on_objects: np.ndarray) -> str:
    truth = load_ground_truth(content)
    figures = average_precision(truth, rows)
    return " ".join(advice(Seen(figures.to_dict(), analyse(truth, rows, figures, None, on_objects).content)))


@pytest.fixture(scope="module")
def coco(shared_data: Path) -> dict[str, Any]:
    """All 108 images as one split: single classes of the 42 of val are too few."""
    parts = [json.loads((shared_data / f"coco_small/annotations/instances_{name}2017.json").read_text())
             for name in ("train", "val")]  # fmt: skip
    return {
        "images": [one for part in parts for one in part["images"]],
        "annotations": [one for part in parts for one in part["annotations"]],
        "categories": parts[0]["categories"],
    }


@pytest.mark.parametrize(
    ("broken", "rule", "words"),
    [
        (None, None, "Objects that nothing finds cost"),
        (half_removed("person"), RULES[0], "confident detections of person lie where nothing is annotated"),
        (shuffled_names, RULES[1], "objects of bicycle are detected as person"),
        (shifted, RULES[2], "lie to the left of the annotated boxes by"),
        (invented, RULES[3], "annotated boxes the classifier sees nothing of any class"),
    ],
    ids=["sound", "half of person removed", "names shuffled", "boxes shifted", "boxes invented"],
)
def test_coco_small_with_a_made_detector(coco: dict[str, Any], broken: Any, rule: str | None, words: str) -> None:
    text = said(broken(coco, coco) if broken else coco, perturbed(coco), perturbed(coco, overlooked=0.0))
    assert words in text
    assert [one for one in RULES if one in text] == ([] if rule is None else [rule]), text


@pytest.mark.slow
def test_anchors_that_fit_nothing_are_named_on_bccd(shared_data: Path, tmp_path: Path) -> None:
    """Trainings of a minute each; what the anchors' size costs shows at once."""
    split = "annotations: annotations/{0}.json, images: images"
    config = load_config(
        Path("configs/small/base.yaml").resolve(),
        [
            f"data.root={shared_data / 'bccd'}", "data.layout=files", "runtime.device=cpu",
            *(f"data.{name}={{name: {name}, {split.format(name)}}}" for name in ("train", "test")),
            "data.shorter_sides=[160]", "data.longer_side=240", "data.test_shorter_side=160",
            "data.test_longer_side=240", "rpn.anchor_sizes=[13,33,40,64,86]",
        ],
    )  # fmt: skip
    bench = Bench(config, tmp_path, torch.device("cpu"))
    faults = dict(bench.trained(160, (60, 100), ["nothing", "too small"]))
    assert set(faults) == {"trained: nothing", "trained: anchors too small"}
    assert [failure for _, failure in faults.values()] == ["", ""]
    assert isinstance(training_faults(bench.contents["test"])["trained: nothing"], Fault)
