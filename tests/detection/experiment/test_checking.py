"""The verdict on a data set before a long run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detection import config as settings
from detection.data.findings import KINDS
from detection.experiment.checking import check_splits

DATA = {
    "train": settings.Split("train", annotations="train.json", images="train"),
    "test": settings.Split("test", annotations="test.json", images="test"),
}


def write_split(folder: Path, which: str, seeds: list[int], **annotation: Any) -> dict[str, Any]:
    """Images of random pixels, each seed its own, with an object on every one but the last."""
    (folder / which).mkdir(exist_ok=True)
    for i, seed in enumerate(seeds):
        pixels = np.random.default_rng(seed).integers(0, 256, (40, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / which / f"{i}.png")
    content = {
        "images": [{"id": i, "file_name": f"{i}.png", "height": 40, "width": 60} for i in range(len(seeds))],
        "annotations": [
            {"id": i + 1, "image_id": i, "category_id": 1, "bbox": [1, 1, 9, 9], "area": 60, "iscrowd": 0} | annotation
            for i in range(len(seeds) - 1)
        ],
        "categories": [{"id": 1, "name": "thing"}],
    }
    (folder / f"{which}.json").write_text(json.dumps(content))
    return content


def verdicts(folder: Path, **data: Any) -> list[tuple[str, bool]]:
    found = check_splits(settings.Data(root=str(folder), **DATA, **data))
    return [(verdict.text, verdict.refused) for verdict in found]


def test_what_a_sound_data_set_holds_and_what_is_not_trained_on(tmp_path: Path) -> None:
    write_split(tmp_path, "train", [1, 2, 3, 4])
    write_split(tmp_path, "test", [5, 6])
    assert verdicts(tmp_path) == [
        (
            f"data.train: {tmp_path}/train.json: 4 images (1 without objects, not trained on unless "
            "data.keep_empty=true), 3 objects, 1 classes; nothing to repair",
            False,
        ),
        (
            f"data.test: {tmp_path}/test.json: 2 images (1 without objects), 1 objects, 1 classes; nothing to repair",
            False,
        ),
    ]
    assert "(1 without objects, trained on, too), " in verdicts(tmp_path, keep_empty=True)[0][0]


def test_an_image_in_both_splits(tmp_path: Path) -> None:
    write_split(tmp_path, "train", [1, 2, 3, 4])
    write_split(tmp_path, "test", [5, 3, 1])
    (train, _), (test, refused) = verdicts(tmp_path)
    assert train.endswith("nothing to repair")
    kind = KINDS["image_in_both_splits"]
    assert f"; found:\n2 {kind.found}: {kind.then} (1.png is 2.png; 2.png is 0.png)" in test
    assert not refused


def test_nearly_equal_images(tmp_path: Path) -> None:
    """A scaled copy in train, and a brighter one of another image in test."""
    write_split(tmp_path, "train", [1, 2, 3, 4])
    write_split(tmp_path, "test", [5, 6])
    for seed, names in ((7, ["train/0.png", "train/1.png"]), (8, ["train/2.png", "test/1.png"])):
        colors = np.random.default_rng(seed).integers(0, 200, (5, 6, 3), dtype=np.uint8)
        image = Image.fromarray(colors).resize((60, 40), Image.Resampling.BICUBIC)
        image.save(tmp_path / names[0])
        Image.fromarray(np.asarray(image) + 20).save(tmp_path / names[1])
    (train, _), (test, _) = verdicts(tmp_path)
    kind = KINDS["image_nearly_twice"]
    assert f"; found:\n1 {kind.found}: {kind.then} (1.png nearly equals 0.png)" in train
    kind = KINDS["image_nearly_in_both_splits"]
    assert f"; found:\n1 {kind.found}: {kind.then} (1.png nearly equals 2.png)" in test


def test_what_a_training_refuses_is_refused(tmp_path: Path) -> None:
    """An evaluation takes the same images."""
    write_split(tmp_path, "train", [1, 2], iscrowd=1)
    write_split(tmp_path, "test", [3, 4], iscrowd=1)
    (train, train_refused), (_, test_refused) = verdicts(tmp_path)
    assert (train_refused, test_refused) == (True, False)
    assert "train.json: no image has an object that could be trained on" in train
    assert not verdicts(tmp_path, keep_empty=True)[0][1]


@pytest.mark.parametrize("missing", ["train", "test"])
def test_one_split_is_looked_at_though_the_other_is_not_there(missing: str, tmp_path: Path) -> None:
    for which, seeds in (("train", [1, 2]), ("test", [3, 4])):
        write_split(tmp_path, which, seeds)
    (tmp_path / f"{missing}.json").unlink()
    found = {text.split(":")[0]: refused for text, refused in verdicts(tmp_path)}
    assert found == {f"data.{which}": which == missing for which in ("train", "test")}
