"""A set in one piece, divided."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from backbones.common.errors import UserError
from detection import config as settings
from detection.data.division import part_of
from detection.data.tables import Tables
from detection.experiment.checking import check_splits
from tests.detection.data.readers.folders import draw, opened, voc, write


def tables_of(classes: list[list[int]], names: list[str] | None = None) -> Tables:
    """An image for each list of its objects' classes."""
    count = sum(map(len, classes))
    return Tables(
        image_ids=np.arange(1, 1 + len(classes)),
        heights=np.full(len(classes), 40),
        widths=np.full(len(classes), 60),
        names=names or [f"images/{i}.jpg" for i in range(len(classes))],
        annotation_ids=np.arange(count),
        image_of=np.repeat(np.arange(1, 1 + len(classes)), list(map(len, classes))),
        category_of=np.array([number for own in classes for number in own], dtype=np.int64),
        boxes=np.ones((count, 4)),
        crowds=np.zeros(count, dtype=bool),
        areas=np.ones(count),
        categories=[(number, f"class {number}") for number in range(1, 6)],
    )


@pytest.mark.parametrize("share", [0.1, 0.2, 0.5])
def test_every_class_has_its_share(share: float) -> None:
    random = np.random.default_rng(0)
    classes = [sorted(set(random.choice([1, 2, 3, 4, 5], size=2, p=[0.5, 0.25, 0.15, 0.07, 0.03]))) for _ in range(600)]
    classes += [[] for _ in range(100)]
    test = part_of(tables_of(classes), "test", share, 0)
    train = part_of(tables_of(classes), "train", share, 0)
    assert (test ^ train).all()
    assert test.mean() == pytest.approx(share, abs=0.02)
    for number in range(1, 6):
        has = np.array([number in own for own in classes])
        assert test[has].sum() == pytest.approx(share * has.sum(), abs=max(2, 0.1 * share * has.sum()))
    assert test[-100:].mean() == pytest.approx(share, abs=0.05)


def test_the_same_for_everybody() -> None:
    """The expected images are written down: another machine, version or order of the labels must not change them."""
    classes = [[1 + i % 3] for i in range(10)]
    names = [f"{i}.jpg" for i in range(10)]
    test = {name for name, own in zip(names, part_of(tables_of(classes, names), "test", 0.3, 0), strict=True) if own}
    assert test == {"2.jpg", "3.jpg", "4.jpg"}
    order = np.random.default_rng(1).permutation(10).tolist()
    shuffled = tables_of([classes[i] for i in order], [f"elsewhere/{names[i]}" for i in order])
    part = part_of(shuffled, "test", 0.3, 0)
    assert {Path(name).name for name, own in zip(shuffled.names, part, strict=True) if own} == test
    assert (part_of(shuffled, "test", 0.3, 1) != part).any()


def test_a_small_set_of_many_classes_has_its_share(shared_data: Path) -> None:
    """16 images of 49 classes, nearly each of which has a class of its own."""
    split = settings.Division(test=0.2)
    train, test = (opened(shared_data / "coco_tiny", which, split=split) for which in ("train", "test"))
    assert (len(train), len(test)) == (13, 3)
    assert len(test.boxes) > 0
    classes = [[2, 3], [1, 3], [1, 2], [3], [1], []] * 4
    part = part_of(tables_of(classes), "test", 0.25, 0)
    assert part.sum() == pytest.approx(6, abs=1)
    for number, images in ((1, 12), (2, 8), (3, 12)):
        assert part[[number in own for own in classes]].sum() == pytest.approx(images / 4, abs=1)


def test_a_class_of_one_image_is_trained_on_and_a_part_is_never_empty() -> None:
    test = part_of(tables_of([[2], *[[1]] * 9]), "test", 0.3, 0)
    assert not test[0]
    assert part_of(tables_of([[1], [2]]), "test", 0.1, 0).sum() == 1


def test_both_parts_of_a_folder(tmp_path: Path) -> None:
    for i in range(10):
        draw(tmp_path / f"{i}.jpg", seed=0 if i in (3, 4) else i)
        write(tmp_path / f"{i}.xml", voc(f"{i}.jpg", ("cat", 1, 1, 9, 9)))
    split = settings.Division(test=0.3)
    train, test = opened(tmp_path, split=split), opened(tmp_path, "test", split=split)
    names = [{index.file_name(i) for i in range(len(index))} for index in (train, test)]
    assert (len(names[0]), len(names[1])) == (7, 3)
    assert not names[0] & names[1]
    assert train.fingerprint != test.fingerprint
    assert opened(tmp_path, split=settings.Division(0.3, seed=5)).fingerprint != train.fingerprint


def test_a_training_split_alone_is_divided(tmp_path: Path) -> None:
    for i in range(4):
        draw(tmp_path / "train" / f"{i}.png", seed=i)
        write(tmp_path / "train" / f"{i}.xml", voc(f"{i}.png", ("cat", 1, 1, 9, 9)))
    with pytest.raises(UserError, match=r"data\.split\.test=0\.2 divides it, data\.test\.name=train takes all of it"):
        opened(tmp_path, "test")
    split = settings.Division(test=0.25)
    assert [len(opened(tmp_path, which, split=split)) for which in ("train", "test")] == [3, 1]


def test_the_same_image_in_both_parts_is_told(tmp_path: Path) -> None:
    for i in range(4):
        draw(tmp_path / f"{i}.png")  # all alike
        write(tmp_path / f"{i}.xml", voc(f"{i}.png", ("cat", 1, 1, 9, 9)))
    verdicts = list(check_splits(settings.Data(root=str(tmp_path), split=settings.Division(test=0.5))))
    assert "2 images of data.test with the same pixels as one of data.train" in verdicts[1].text
