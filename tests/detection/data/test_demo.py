"""The demo's data set: the same every time, sound as a COCO data set, completed where it lacks something, and refused
where somebody has touched it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from detection.data.demo import demo_files, make_demo_dataset, run_lengths
from detection.data.demo_drawing import CLASSES, EMPTY_SHARE, SHAPE_SIDE, draw_image
from detection.data.images import read_image
from detection.data.index import load_index


def digest(folder: Path) -> str:
    """Of all files but the lock's, which is empty."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "demo.lock")
    return hashlib.sha256(b"".join(path.name.encode() + path.read_bytes() for path in paths)).hexdigest()


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "made"
    make_demo_dataset(folder, train=60, test=10, seed=3)
    return folder


def test_deterministic_and_seeded(demo: Path, tmp_path: Path) -> None:
    make_demo_dataset(tmp_path / "again", train=60, test=10, seed=3)
    assert digest(tmp_path / "again") == digest(demo)
    make_demo_dataset(tmp_path / "other", train=60, test=10, seed=4)
    assert digest(tmp_path / "other") != digest(demo)


def test_sound_and_varied(demo: Path) -> None:
    index = load_index(*demo_files(demo, "train"), name="demo", check="sound")
    assert index.findings.summary() == ""
    assert index.category_names == list(CLASSES)
    assert len(CLASSES) >= 5
    assert len(index) == 60
    assert set(np.unique(index.labels)) == set(range(1, len(CLASSES) + 1))
    assert index.crowds.any()
    assert 0 < 60 - len(index.non_empty()) < 60 * EMPTY_SHARE * 4
    assert {bool(ratio >= 1) for ratio in index.aspect_ratios} == {True, False}
    for i in range(60):
        image = read_image(index.path(i), index.size(i))
        assert 144 <= min(image.shape[:2]) <= 192 <= max(image.shape[:2]) <= 256
    sides = (index.boxes[:, 2:] - index.boxes[:, :2]).max(axis=1)
    assert sides[~index.crowds].max() <= SHAPE_SIDE[1] + 1
    assert len(load_index(*demo_files(demo, "test"), name="demo")) == 10


def test_pycocotools_agrees_on_masks_areas_and_boxes(demo: Path) -> None:
    reference = COCO(str(demo / "annotations" / "instances_train.json"))
    short_of = []
    for annotation in reference.anns.values():
        mask = reference.annToMask(annotation)
        x, y, width, height = annotation["bbox"]
        rows, columns = np.nonzero(mask)
        box = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        own = np.array([x, y, x + width, y + height])
        if annotation["iscrowd"]:
            assert mask.sum() == annotation["area"]
            assert box.tolist() == own.tolist()
            continue
        # Outlines run through the middles of the border pixels: what is thinner than a pixel gets lost (sharp tips, and
        # slivers beside a shape in front), and holes are filled.
        assert (np.abs(box - own) <= max(width, height) / 3).all()
        assert mask.sum() > 0.4 * annotation["area"]
        short_of.append(np.abs(box - own).max())
    assert np.mean(np.array(short_of) <= 3) > 0.95


def test_boxes_are_those_of_the_pixels() -> None:
    for seed in range(20):
        drawing = draw_image(np.random.default_rng(seed))
        together = np.zeros(drawing.image.shape[:2], dtype=int)
        for drawn in drawing.objects:
            assert drawn.mask.any()
            together += drawn.mask
        assert together.max(initial=0) <= 1  # what is in sight of one object hides what is behind


def test_some_of_the_classes_and_no_crowds() -> None:
    drawn = [
        draw_image(np.random.default_rng(seed), classes=("star", "disc"), crowds=False).objects for seed in range(40)
    ]
    assert {CLASSES[one.label] for objects in drawn for one in objects} == {"star", "disc"}
    assert not any(one.crowd for objects in drawn for one in objects)
    assert any(one.crowd for seed in range(40) for one in draw_image(np.random.default_rng(seed)).objects)


def test_left_alone_when_whole_and_completed_when_not(demo: Path) -> None:
    whole = digest(demo)
    times = {path: path.stat().st_mtime_ns for path in demo.rglob("*")}
    make_demo_dataset(demo, train=60, test=10, seed=3)
    assert {path: path.stat().st_mtime_ns for path in demo.rglob("*")} == times
    for name in ("train/000007.jpg", "annotations/instances_test.json"):
        (demo / name).unlink()
        make_demo_dataset(demo, train=60, test=10, seed=3)
        assert digest(demo) == whole


def test_stopped_half_way_and_asked_for_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import detection.data.demo as module

    drawn = []

    def draw_and_stop(random: np.random.Generator) -> object:
        drawn.append(1)
        if len(drawn) == 7:
            raise KeyboardInterrupt
        return draw_image(random)

    monkeypatch.setattr(module, "draw_image", draw_and_stop)
    with pytest.raises(KeyboardInterrupt):
        make_demo_dataset(tmp_path / "a", train=10, test=2)
    monkeypatch.undo()
    make_demo_dataset(tmp_path / "a", train=10, test=2)
    make_demo_dataset(tmp_path / "b", train=10, test=2)
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    make_demo_dataset(tmp_path / "a", train=4, test=2)
    assert len(list((tmp_path / "a" / "train").iterdir())) == 4
    assert len(json.loads((tmp_path / "a" / "annotations" / "instances_train.json").read_text())["images"]) == 4


def test_drawing_tells_how_far_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_demo_dataset(tmp_path, train=2, test=1)
    told = capsys.readouterr().err
    assert f"drawing {tmp_path / 'train'}: 2 images in 0:0" in told
    assert f"drawing {tmp_path / 'test'}: 1 images in 0:0" in told
    make_demo_dataset(tmp_path, train=2, test=1)
    assert capsys.readouterr().err == ""


@given(rows=st.integers(1, 6), columns=st.integers(1, 6), bits=st.integers(0, 2**36 - 1))
def test_run_lengths_decode_to_the_mask(rows: int, columns: int, bits: int) -> None:
    mask = np.array([bits >> i & 1 for i in range(rows * columns)], dtype=bool).reshape(rows, columns)
    code = run_lengths(mask)
    assert np.array_equal(coco_mask.decode(coco_mask.frPyObjects(code, rows, columns)), mask)
