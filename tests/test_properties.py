"""Laws that hold for all inputs, tried on random ones: geometry, configuration, annotations.

A bounded run in the suite; `PROPERTY_EXAMPLES=100000 python -m pytest tests/test_properties.py` is a long one.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

hypothesis = pytest.importorskip("hypothesis", reason="HYPOTHESIS MISSING: no law was tried; pip install hypothesis")

from hypothesis import strategies as st  # noqa: E402

from backbones.common.errors import UserError  # noqa: E402
from detection.common.core_yaml import parse_yaml  # noqa: E402
from detection.config import Config  # noqa: E402
from detection.config_file import change_config, config_to_dict, config_to_yaml, load_config  # noqa: E402
from detection.data.augmentation import flip_boxes  # noqa: E402
from detection.data.index import load_index  # noqa: E402
from detection.experiment.ground_truth_loading import ground_truth_of, load_ground_truth  # noqa: E402
from detection.geometry import boxes as box_ops  # noqa: E402
from detection.geometry.coding import BoxCoder  # noqa: E402
from detection.geometry.matching import match  # noqa: E402
from detection.kernels.suppression import suppress_in_blocks as suppress  # noqa: E402

bounded = hypothesis.settings(
    max_examples=int(os.environ.get("PROPERTY_EXAMPLES", "60")), deadline=None, derandomize=True, database=None
)


def box_lists(low: int = 1, high: int = 12, smallest: float = 0.0) -> st.SearchStrategy[torch.Tensor]:
    """float32 (low … high, 4): boxes within 1000 pixels, sides of `smallest` at least, often with edges in common."""
    place = st.integers(0, 900) | st.floats(0, 900, width=32)
    side = (st.integers(math.ceil(smallest), 100) | st.floats(smallest, 100, width=32)).map(float)
    box = st.tuples(place, place, side, side).map(lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]])
    return st.lists(box, min_size=low, max_size=high).map(lambda rows: torch.tensor(rows, dtype=torch.float32))


@bounded
@hypothesis.given(data=st.data(), boxes=box_lists(smallest=2))
def test_decoding_undoes_encoding(data: st.DataObject, boxes: torch.Tensor) -> None:
    count = len(boxes)
    reference = data.draw(box_lists(count, count, smallest=2))
    numbers = st.lists(st.floats(0.05, 2), min_size=4, max_size=4)
    coder = BoxCoder(data.draw(numbers), [value - 1 for value in data.draw(numbers)])
    decoded = coder.decode(coder.encode(boxes, reference), reference)
    torch.testing.assert_close(decoded, boxes, atol=0.02, rtol=1e-4)


@bounded
@hypothesis.given(first=box_lists(), second=box_lists())
def test_iou_is_symmetric_between_0_and_1_and_1_with_itself(first: torch.Tensor, second: torch.Tensor) -> None:
    iou = box_ops.iou(first, second)
    assert torch.equal(iou, box_ops.iou(second, first).T)
    assert iou.min() >= 0
    assert iou.max() <= 1 + 1e-6
    itself = box_ops.iou(first, first).diagonal()
    area = box_ops.area(first)
    assert (itself[area == 0] == 0).all()
    assert torch.allclose(itself[area > 1e-9], torch.ones(()), atol=1e-5)


@bounded
@hypothesis.given(boxes=box_lists(), height=st.integers(1, 999), width=st.integers(1, 999))
def test_clipped_boxes_lie_inside_and_stay_as_they_are(boxes: torch.Tensor, height: int, width: int) -> None:
    sizes = torch.tensor([[height, width]])
    clipped = box_ops.clip(boxes[None] - 50, sizes)
    assert box_ops.inside(clipped[0], sizes).all()
    assert torch.equal(box_ops.clip(clipped, sizes), clipped)


@bounded
@hypothesis.given(boxes=box_lists(high=40, smallest=0.0625), threshold=st.floats(0.1, 0.9))
def test_survivors_of_nms_survive_again_and_the_others_overlap_one(boxes: torch.Tensor, threshold: float) -> None:
    boxes = torch.cat([boxes, boxes + 3.0, boxes[:5]])
    index, kept = suppress(boxes[None], torch.ones(1, len(boxes), dtype=torch.bool), threshold, len(boxes))
    survivors = index[kept]
    again, kept = suppress(boxes[None, survivors], torch.ones(1, len(survivors), dtype=torch.bool), threshold, 10**6)
    assert again[kept].tolist() == list(range(len(survivors)))
    overlaps = box_ops.iou(boxes, boxes[survivors])
    for position in set(range(len(boxes))) - set(survivors.tolist()):
        better = survivors < position
        assert (overlaps[position, better] > threshold - 1e-5).any()


@bounded
@hypothesis.given(data=st.data(), truth=box_lists(high=5), boxes=box_lists(high=20), best=st.booleans())
def test_matching_does_not_depend_on_the_order(
    data: st.DataObject, truth: torch.Tensor, boxes: torch.Tensor, best: bool
) -> None:
    rows = torch.tensor(data.draw(st.permutations(range(len(truth)))))
    columns = torch.tensor(data.draw(st.permutations(range(len(boxes)))))
    everyone = torch.ones(1, len(truth), dtype=torch.bool)
    how = {"positive": 0.5, "negative": 0.3, "best_is_positive": best}
    one = match(truth[None], everyone, boxes, **how)
    other = match(truth[None, rows], everyone, boxes[columns], **how)
    assert torch.equal(other.kind, one.kind[:, columns])
    # Where two objects are overlapped alike either may be answered for; the overlap is the same.
    overlaps = box_ops.iou(truth, boxes)[None]
    chosen = overlaps.gather(1, one.ground_truth[:, None])[:, 0, columns]
    mixed = overlaps[:, rows][:, :, columns]
    assert torch.equal(mixed.gather(1, other.ground_truth[:, None])[:, 0], chosen)


@bounded
@hypothesis.given(boxes=box_lists(), horizontal=st.booleans(), vertical=st.booleans())
def test_a_flip_undoes_itself_and_keeps_sizes(boxes: torch.Tensor, horizontal: bool, vertical: bool) -> None:
    size = (1024, 1024)  # a power of two: subtracting from it and back loses no digit that an image's scale has
    rows = np.round(boxes.numpy() * 16) / 16
    flipped = flip_boxes(rows, size, horizontal, vertical)
    assert np.array_equal(flipped[:, 2:] - flipped[:, :2], rows[:, 2:] - rows[:, :2])
    assert np.array_equal(flip_boxes(flipped, size, horizontal, vertical), rows)


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
odd_texts = texts | st.sampled_from(
    ["1e3", "010", "no", "null", "~", ".5", "1_000", ".inf", "0x10", "1:30", "=", "<<", "2001-01-01", "-", "?", "%a"]
)


@bounded
@hypothesis.given(
    name=odd_texts,
    root=odd_texts,
    seed=st.integers(0, 2**62),
    rate=st.floats(0, 1e6),
    means=st.tuples(*[st.floats(-1e6, 1e6)] * 4),
    compiled=st.booleans(),
    limit=st.none() | st.integers(1, 10**9),
)
def test_a_configuration_survives_its_file(
    tmp_path_factory: pytest.TempPathFactory,
    name: str,
    root: str,
    seed: int,
    rate: float,
    means: tuple[float, ...],
    compiled: bool,
    limit: int | None,
) -> None:
    values = config_to_dict(Config())
    values["name"], values["seed"] = name, seed
    values["data"] |= {"layout": "coco", "root": root}
    values["data"]["train"]["limit"] = limit
    values["rpn"]["training"]["learning_rate"] = rate
    values["fast_rcnn"]["box_means"] = list(means)
    values["backbone"]["weights"] = name
    values["runtime"]["compile"] = compiled
    from detection.config_file import config_from_dict

    config = config_from_dict(values, "values")
    path = tmp_path_factory.getbasetemp() / "config.yaml"
    path.write_text(config_to_yaml(config), encoding="utf-8", newline="")
    assert load_config(path) == config


def refusal_of(read: Callable[[], object]) -> str | None:
    try:
        read()
    except UserError as error:
        return str(error)
    return None


KEYS = ["seed", "name", "data", "data.root", "rpn.samples", "rpn.training.steps", "fast_rcnn.box_stds", "backbone.norm"]


@bounded
@hypothesis.given(text=st.text(max_size=60) | st.text(st.sampled_from("[]{}:,-?!&*#|>'\"%@ \n\tab1.e~"), max_size=60))
def test_any_text_is_a_configuration_or_a_user_error(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "random.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    for read in (
        lambda: parse_yaml(text, "text"),
        lambda: load_config(path),
        lambda: load_config(None, [text]),
        *(lambda key=key: change_config(Config(), [f"{key}={text}"]) for key in KEYS),
    ):
        refusal = refusal_of(read)
        assert refusal is None or refusal.strip()


names = st.sampled_from(
    ["id", "image_id", "category_id", "bbox", "iscrowd", "area", "segmentation", "file_name", "width", "height"]
)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(names | st.text(max_size=3), inner, max_size=5),
    max_leaves=10,
)
entries = st.fixed_dictionaries(
    {"id": st.integers(0, 4) | values},
    optional={
        "image_id": st.integers(0, 4) | values,
        "category_id": st.integers(0, 4) | values,
        "bbox": st.lists(st.floats() | st.integers(-5, 50), min_size=4, max_size=4) | values,
        "iscrowd": st.sampled_from([0, 1, "0", True]) | values,
        "segmentation": st.lists(st.lists(st.integers(0, 50), min_size=6, max_size=6), min_size=1, max_size=2) | values,
        "file_name": st.text(max_size=6) | values,
        "width": st.integers(1, 60) | values,
        "height": st.integers(1, 60) | values,
        "name": values,
    },
)


@bounded
@hypothesis.given(
    content=st.fixed_dictionaries(
        {}, optional={key: st.lists(entries, max_size=5) | values for key in ("images", "annotations", "categories")}
    )
    | values
)
def test_annotations_are_an_index_or_a_user_error(tmp_path_factory: pytest.TempPathFactory, content: Any) -> None:
    path: Path = tmp_path_factory.getbasetemp() / "random.json"
    path.write_text(json.dumps(content))
    refusal = refusal_of(lambda: load_index(path, path.parent / "none", name="random"))
    if refusal is not None:
        assert str(path) in refusal
        return
    index = load_index(path, path.parent / "none", name="random")
    # What a training takes an evaluation takes, with images and without, and neither the images nor the objects differ.
    evaluation = load_index(path, path.parent / "none", name="random", purpose="evaluation")
    assert evaluation.fingerprint == index.fingerprint
    for truth in (ground_truth_of(evaluation), load_ground_truth(path), load_ground_truth(content)):
        assert truth.image_ids.tolist() == index.image_ids.tolist() == sorted(set(index.image_ids.tolist()))
        assert np.isfinite(truth.boxes).all()
        assert (truth.areas >= 0).all()
        assert len(truth.boxes) == len(truth.areas) == len(truth.crowds) >= len(index.boxes)
        assert set(truth.object_category_ids.tolist()) <= set(index.category_ids.tolist())
    assert len(index) == len(index.heights) == len(index.offsets) - 1 > 0
    assert len(index.category_ids) == len(index.category_names) > 0
    assert index.offsets[-1] == len(index.boxes) == len(index.labels) == len(index.crowds) == len(index.areas)
    assert np.isfinite(index.boxes).all()
    assert (index.boxes[:, 2:] > index.boxes[:, :2]).all()
    assert set(index.labels.tolist()) <= set(range(1, len(index.category_ids) + 1))
    for i in range(len(index)):
        index.file_name(i)
        boxes = index.objects(i)[0]
        assert (boxes[:, 2] <= index.widths[i]).all()
        assert (boxes[:, 3] <= index.heights[i]).all()
