"""A data set in one format is written in another, and is the same when it is read."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backbones.common.errors import UserError
from detection import config as settings
from detection.data.images import read_image
from detection.data.index import DatasetIndex
from detection.experiment.conversion import convert
from tests.detection.data.oriented_images import save_oriented
from tests.detection.data.readers.folders import draw, kinds_of, objects_of, opened, voc, write

TARGETS: list[Any] = ["coco", "yolo", "voc"]


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """VOC labels of two splits; the images have the same names in both, and a class is in one of them alone."""
    root = tmp_path / "set"
    for split, own in (("train", [("dog", 1, 1, 60, 40), ("cat", 11, 6, 30, 25)]), ("test", [("cat", 2, 3, 4, 5)])):
        for name in ("a.jpg", "b.jpg"):
            draw(root / split / name, seed=hash((split, name)) % 1000)
        write(root / split / "a.xml", voc("a.jpg", *own))
        write(root / split / "b.xml", voc("b.jpg"))
    return root


def files_in(root: Path) -> dict[str, str]:
    paths = [path for path in sorted(root.rglob("*")) if path.is_file()]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def plain(index: DatasetIndex) -> list[tuple[tuple[int, int], list[Any]]]:
    """What an index says, without names and ids of images."""
    found = []
    for i, own in enumerate(objects_of(index).values()):
        boxes = [(name, [round(number, 3) for number in box]) for name, box in own]
        found.append((index.size(i), sorted(boxes)))
    return sorted(found)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("link", [False, True])
def test_round_trips(target: Any, link: bool, whole: Path, tmp_path: Path) -> None:
    before = files_in(whole)
    said = convert(settings.Data(root=str(whole)), target, tmp_path / "new", link=link)
    assert said.splitlines()[1:3] == ["train: 2 images, 2 objects", "test: 2 images, 1 objects"]
    assert files_in(whole) == before
    again = tmp_path / "again"
    back = "voc" if target != "voc" else "yolo"
    convert(settings.Data(root=str(tmp_path / "new")), back, again)
    for root in (tmp_path / "new", again):
        for which in ("train", "test"):
            index, original = opened(root, which), opened(whole, which)
            assert index.category_names == original.category_names == ["cat", "dog"]
            assert plain(index) == plain(original)
            assert kinds_of(index) == {}
            assert index.path(0).is_symlink() == (link and root == tmp_path / "new")


@pytest.mark.parametrize("target", TARGETS)
def test_a_real_set_comes_back(target: Any, shared_data: Path, tmp_path: Path) -> None:
    """Boxes off whole pixels, crowds and many classes."""
    convert(settings.Data(root=str(shared_data / "coco_small")), target, tmp_path / "new", link=True)
    for which in ("train", "test"):
        original, index = opened(shared_data / "coco_small", which), opened(tmp_path / "new", which)
        kept = ~original.crowds if target == "yolo" else np.ones(len(original.boxes), dtype=bool)
        assert len(index.boxes) == kept.sum()
        assert len(index) == len(original)
        of = {name: row for row, name in enumerate(map(Path, map(index.file_name, range(len(index)))))}
        rows = {path.name: row for path, row in of.items()}
        for i in range(len(original)):
            row = rows[Path(original.file_name(i)).name]
            boxes, labels, crowds = original.objects(i)
            own = ~crowds if target == "yolo" else np.ones(len(boxes), dtype=bool)
            found, found_labels, found_crowds = index.objects(row)
            np.testing.assert_allclose(found, boxes[own], atol=2e-4)
            assert [index.category_names[label - 1] for label in found_labels] == [
                original.category_names[label - 1] for label in labels[own]
            ]
            if target != "yolo":
                assert found_crowds.tolist() == crowds.tolist()


def test_cleaned_is_what_a_training_gets(tmp_path: Path) -> None:
    draw(tmp_path / "set" / "a.jpg")
    write(tmp_path / "set" / "a.txt", "0 0.95 0.5 0.2 0.25\n0 0.5 0.5 0 0.25\n0 0.5 0.5 0.5 0.5\n")
    write(tmp_path / "set" / "data.yaml", "train: .\nnames: [cat, dog]")
    data = settings.Data(root=str(tmp_path / "set"))
    assert "train: 1 images, 3 objects" in convert(data, "coco", tmp_path / "stated")
    assert "train: 1 images, 2 objects" in convert(data, "coco", tmp_path / "cleaned", cleaned=True)
    stated, cleaned = opened(tmp_path / "stated"), opened(tmp_path / "cleaned")
    assert kinds_of(stated) == {"box_overhanging": 1, "box_zero_size": 1}
    assert kinds_of(cleaned) == {}
    np.testing.assert_array_equal(stated.boxes, cleaned.boxes)
    assert cleaned.category_names == ["cat", "dog"]


def test_a_set_in_one_piece_is_divided(tmp_path: Path) -> None:
    for i in range(10):
        draw(tmp_path / "set" / f"{i}.jpg", seed=i)
        write(tmp_path / "set" / f"{i}.xml", voc(f"{i}.jpg", ("cat", 1 + i, 1, 20, 20)))
    data = settings.Data(root=str(tmp_path / "set"), split=settings.Division(test=0.2))
    convert(data, "yolo", tmp_path / "new")
    assert (len(opened(tmp_path / "new")), len(opened(tmp_path / "new", "test"))) == (8, 2)


def test_names_that_differ_in_ending_or_folder_alone_get_labels_of_their_own(tmp_path: Path) -> None:
    for i, name in enumerate(("x/a.jpg", "y/a.jpg", "y/a.png")):
        draw(tmp_path / "set" / name, seed=i)
    rows = "".join(f"{name},cat,{1 + i},1,20,20\n" for i, name in enumerate(("x/a.jpg", "y/a.jpg", "y/a.png")))
    write(tmp_path / "set" / "x.csv", f"filename,class,xmin,ymin,xmax,ymax\n{rows}")
    convert(settings.Data(root=str(tmp_path / "set")), "yolo", tmp_path / "new")
    index = opened(tmp_path / "new")
    assert sorted(own[0][1][0] for own in objects_of(index).values()) == pytest.approx([0, 1, 2], abs=1e-4)


def test_nothing_is_overwritten_and_no_half_is_left(whole: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(UserError, match="there: is there already; name a new folder"):
        convert(settings.Data(root=str(whole)), "coco", tmp_path / "there")
    (whole / "train" / "a.jpg").unlink()
    with pytest.raises(UserError, match="images without a file"):
        convert(settings.Data(root=str(whole)), "coco", tmp_path / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set", "there"]
    convert(settings.Data(root=str(whole), skip_missing=True), "coco", tmp_path / "new")
    assert len(opened(tmp_path / "new")) == 1


def test_where_links_are_forbidden_images_are_copied(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: Any) -> None:
        raise OSError("[WinError 1314] A required privilege is not held by the client")

    monkeypatch.setattr(Path, "symlink_to", forbidden)
    convert(settings.Data(root=str(whole)), "coco", tmp_path / "new", link=True)
    images = [path for path in (tmp_path / "new").rglob("*.jpg")]
    assert len(images) == 4
    assert not any(path.is_symlink() for path in images)


def coco(root: Path, split: str, *images: tuple[str, tuple[int, int], list[list[float]]]) -> None:
    """COCO labels of one class; an image is (name, (height, width), boxes as x, y, width, height)."""
    boxes = [(number, box) for number, (_, _, own) in enumerate(images, start=1) for box in own]
    content = {
        "images": [
            {"id": number, "file_name": name, "height": size[0], "width": size[1]}
            for number, (name, size, _) in enumerate(images, start=1)
        ],
        "annotations": [
            {"id": row, "image_id": image, "category_id": 1, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            for row, (image, box) in enumerate(boxes, start=1)
        ],
        "categories": [{"id": 1, "name": "cat"}],
    }
    write(root / "annotations" / f"instances_{split}.json", json.dumps(content))


@pytest.mark.parametrize("target", TARGETS)
def test_boxes_made_on_images_as_stored_fit_what_exif_turns(target: Any, tmp_path: Path) -> None:
    folder = tmp_path / "set" / "images" / "train"
    folder.mkdir(parents=True)
    pixels = np.zeros((40, 80, 3), dtype=np.uint8)
    pixels[5:15, 10:30] = 255
    names = [save_oriented(folder / f"{number}.png", pixels, number).name for number in range(1, 9)]
    # From 5 on, the stated size is that of the stored pixels; up to 4, both are alike, and the image counts as turned.
    seen = {2: [50, 5, 20, 10], 3: [50, 25, 20, 10], 4: [10, 25, 20, 10]}
    images = [(name, (40, 80), [seen.get(number, [10, 5, 20, 10])]) for number, name in enumerate(names, start=1)]
    coco(tmp_path / "set", "train", *images)  # type: ignore[arg-type]
    convert(settings.Data(root=str(tmp_path / "set")), target, tmp_path / "new")
    index = opened(tmp_path / "new")
    assert len(index) == 8
    for i in range(8):
        image = read_image(index.path(i), index.size(i))
        [(x0, y0, x1, y1)] = np.rint(index.objects(i)[0]).astype(int).tolist()
        assert (x1 - x0) * (y1 - y0) == 200
        assert (image[y0:y1, x0:x1] == 255).all()


def test_fractions_of_another_size_than_the_image_s_are_not_written(tmp_path: Path) -> None:
    draw(tmp_path / "set" / "images" / "train" / "a.jpg")
    coco(tmp_path / "set", "train", ("a.jpg", (80, 120), [[10, 5, 20, 10]]))
    with pytest.raises(UserError, match=r"a\.jpg: the image is 60×40 pixels .* its labels say 120×80"):
        convert(settings.Data(root=str(tmp_path / "set")), "yolo", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def kit(root: Path, **splits: str) -> Path:
    """A VOC kit: split → the stems of its images."""
    for stem in sorted({stem for stems in splits.values() for stem in stems.split()}):
        draw(root / "JPEGImages" / f"{stem}.jpg", seed=ord(stem))
        write(root / "Annotations" / f"{stem}.xml", voc(f"{stem}.jpg", ("cat", ord(stem) - 90, 2, 30, 20)))
    for split, stems in splits.items():
        write(root / "ImageSets" / "Main" / f"{split}.txt", stems.replace(" ", "\n"))
    return root


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("splits", [{"trainval": "a b", "test": "c"}, {"train": "a", "val": "b", "trainval": "a b"}])
def test_trainval_comes_back(target: Any, splits: dict[str, str], tmp_path: Path) -> None:
    root = kit(tmp_path / "set", **splits)
    convert(settings.Data(root=str(root)), target, tmp_path / "new")
    for which in ("train", "test"):
        assert plain(opened(tmp_path / "new", which)) == plain(opened(root, which))


def test_corners_mean_the_same_in_all_splits_of_a_voc_set(tmp_path: Path) -> None:
    for split, x in (("train", 10.5), ("val", 10.0), ("test", 0.0)):
        draw(tmp_path / "set" / "images" / split / "a.jpg", seed=len(split))
        coco(tmp_path / "set", split, ("a.jpg", (40, 60), [[x, 5, 20, 10]]))
    convert(settings.Data(root=str(tmp_path / "set")), "voc", tmp_path / "new")
    found = [opened(tmp_path / "new", "test", test=settings.Split(split)) for split in ("train", "val", "test")]
    assert [index.objects(0)[0].tolist() for index in found] == [
        [[10.5, 5, 30.5, 15]],
        [[10, 5, 30, 15]],
        [[0, 5, 20, 15]],
    ]


@pytest.mark.parametrize("link", [False, True])
def test_an_image_of_several_splits_is_one_in_voc_s_folder(link: bool, tmp_path: Path) -> None:
    root = kit(tmp_path / "set", train="a", val="b", trainval="a b")
    before = files_in(root)
    convert(settings.Data(root=str(root)), "voc", tmp_path / "new", link=link)
    assert files_in(root) == before
    images = sorted((tmp_path / "new" / "JPEGImages").iterdir())
    assert [(path.name, path.is_symlink()) for path in images] == [("a.jpg", link), ("b.jpg", link)]
    assert len(list((tmp_path / "new" / "Annotations").iterdir())) == 2
    lists = {path.stem: path.read_text().split() for path in (tmp_path / "new" / "ImageSets" / "Main").iterdir()}
    assert lists == {"train": ["a"], "val": ["b"], "trainval": ["a", "b"]}


def test_an_image_with_other_labels_in_another_split_or_under_another_id_remains_another(tmp_path: Path) -> None:
    draw(tmp_path / "set" / "images" / "a.jpg")
    one = ("a.jpg", (40, 60), [[10.0, 5, 20, 10]])
    coco(tmp_path / "set", "train", one, one)
    coco(tmp_path / "set", "test", ("a.jpg", (40, 60), [[1, 2, 3, 4]]))
    convert(settings.Data(root=str(tmp_path / "set")), "voc", tmp_path / "new")
    train, test = opened(tmp_path / "new"), opened(tmp_path / "new", "test")
    assert [train.objects(i)[0].tolist() for i in range(len(train))] == [[[10, 5, 30, 15]]] * 2
    assert [test.objects(i)[0].tolist() for i in range(len(test))] == [[[1, 2, 4, 6]]]


@pytest.mark.skipif(sys.platform != "linux", reason="file names are text there")
def test_a_file_s_name_that_is_no_utf8_comes_back_or_is_refused_by_its_name(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.jpg")
    draw(tmp_path / "set" / "images" / name)
    write(tmp_path / "set" / "labels" / f"{name[:-4]}.txt", "0 0.5 0.5 0.5 0.5\n")
    write(tmp_path / "set" / "data.yaml", "train: images\nnames: [cat]")
    for target in TARGETS[:2]:
        convert(settings.Data(root=str(tmp_path / "set")), target, tmp_path / target)
        index = opened(tmp_path / target)
        assert Path(index.file_name(0)).name == name
        assert index.path(0).exists()
        assert index.objects(0)[0].tolist() == [[15, 10, 45, 30]]
    with pytest.raises(UserError, match=r"caf\\udce9\.jpg: the file's name is not UTF-8 .*; rename the file"):
        convert(settings.Data(root=str(tmp_path / "set")), "voc", tmp_path / "voc")
    assert not (tmp_path / "voc").exists()


def test_a_class_s_name_that_xml_cannot_hold_is_refused(tmp_path: Path) -> None:
    name = "a\x07b"
    draw(tmp_path / "set" / "images" / "train" / "a.jpg")
    coco(tmp_path / "set", "train", ("a.jpg", (40, 60), [[10, 5, 20, 10]]))
    labels = tmp_path / "set" / "annotations" / "instances_train.json"
    write(labels, labels.read_text().replace('"cat"', json.dumps(name)))
    for target in TARGETS[:2]:
        convert(settings.Data(root=str(tmp_path / "set")), target, tmp_path / target)
        assert opened(tmp_path / target).category_names == [name]
    with pytest.raises(UserError, match=r"the class 'a.*instances_train\.json.*; rename the class"):
        convert(settings.Data(root=str(tmp_path / "set")), "voc", tmp_path / "voc")
