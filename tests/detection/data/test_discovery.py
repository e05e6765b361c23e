"""What a folder holds: the layouts of exporters, and what is ambiguous."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from backbones.common.errors import UserError
from detection import config as settings
from tests.detection.data.readers.folders import draw, kinds_of, objects_of, opened, voc, write

CAT = ("cat", 11, 6, 30, 25)
BOX = [10, 5, 30, 25]
YOLO = "0 0.33333333 0.375 0.33333333 0.5\n"  # the same box


def coco(*names: str, categories: list[dict[str, Any]] | None = None, **image: Any) -> str:
    """A COCO file with a cat on each image."""
    categories = categories or [{"id": 1, "name": "cat", "supercategory": "animal"}]
    return json.dumps(
        {
            "info": {},
            "images": [
                {"id": i, "file_name": name, "height": 40, "width": 60} | image for i, name in enumerate(names, start=1)
            ],
            "categories": categories,
            "annotations": [
                {"id": i, "image_id": i, "category_id": categories[-1]["id"], "bbox": [10, 5, 20, 20], "area": 400,
                 "iscrowd": 0}
                for i in range(1, 1 + len(names))
            ],
        }
    )  # fmt: skip


EXPORTS: dict[str, dict[str, tuple[str, str]]] = {  # annotation file → (its text, its image)
    "COCO": {
        "annotations/instances_train2017.json": (coco("1.jpg"), "train2017/1.jpg"),
        "annotations/instances_val2017.json": (coco("1.jpg"), "val2017/1.jpg"),
    },
    "Roboflow": {
        "train/_annotations.coco.json": (
            coco("1.jpg", categories=[{"id": 0, "name": "pets", "supercategory": "none"},
                                      {"id": 1, "name": "cat", "supercategory": "pets"}]), "train/1.jpg"),
        "valid/_annotations.coco.json": (
            coco("1.jpg", categories=[{"id": 0, "name": "pets", "supercategory": "none"},
                                      {"id": 1, "name": "cat", "supercategory": "pets"}]), "valid/1.jpg"),
    },
    "CVAT": {"annotations/instances_default.json": (coco("1.jpg"), "images/1.jpg")},
    "CVAT, with subset": {"annotations/instances_default.json": (coco("sub/1.jpg"), "images/default/sub/1.jpg")},
    "Label Studio": {"result.json": (coco("images\\/7b-1.jpg".replace("\\/", "/")), "images/7b-1.jpg")},
    "Label Studio, of its own server": {
        "result.json": (coco("../../label-studio/data/media/upload/1/7b-1.jpg"), "images/7b-1.jpg")},
    "FiftyOne": {"labels.json": (coco("1.jpg"), "data/1.jpg")},
    "Datumaro": {
        "annotations/instances_train.json": (coco("a/1.jpg"), "images/train/a/1.jpg"),
        "annotations/instances_test.json": (coco("a/1.jpg"), "images/test/a/1.jpg"),
    },
    "LVIS": {
        "lvis_v1_train.json": (
            coco("?", file_name=None, coco_url="http://cocodataset.org/train2017/0001.jpg"), "train2017/0001.jpg"),
        "lvis_v1_val.json": (
            coco("?", file_name=None, coco_url="http://cocodataset.org/train2017/0002.jpg"), "train2017/0002.jpg"),
    },
    "another disk's": {"export.json": (coco("C:\\Users\\me\\pets\\1.JPG"), "pictures/1.JPG")},
}  # fmt: skip


@pytest.mark.parametrize("export", EXPORTS)
def test_coco_exports(export: str, tmp_path: Path) -> None:
    for file, (text, image) in EXPORTS[export].items():
        write(tmp_path / file, text)
        draw(tmp_path / image)
    for which, (_, image) in zip(("train", "test"), EXPORTS[export].values(), strict=False):
        index = opened(tmp_path, which)
        assert [index.path(0).resolve()] == [(tmp_path / image).resolve()]
        assert [own for own in objects_of(index).values()] == [[("cat", BOX)]]
        assert index.category_names == ["cat"]
        assert kinds_of(index).get("category_placeholder", 0) == (export == "Roboflow")
        assert kinds_of(index).get("image_name_from_url", 0) == (export == "LVIS")


def test_other_files_beside_those_of_the_boxes(tmp_path: Path) -> None:
    write(tmp_path / "annotations" / "instances_train2017.json", coco("1.jpg"))
    write(tmp_path / "annotations" / "captions_train2017.json", coco("1.jpg"))
    write(tmp_path / "annotations" / "person_keypoints_train2017.json", coco("1.jpg"))
    write(tmp_path / "package.json", "{}")
    draw(tmp_path / "train2017" / "1.jpg")
    assert opened(tmp_path).annotation_file.name == "instances_train2017.json"


def test_a_used_category_0_stays(tmp_path: Path) -> None:
    draw(tmp_path / "1.jpg")
    write(tmp_path / "a.json", coco("1.jpg", categories=[{"id": 3, "name": "x"}, {"id": 0, "name": "background"}]))
    assert opened(tmp_path).category_names == ["background", "x"]


def test_what_was_found_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for split in ("train", "valid"):
        draw(tmp_path / split / "images" / "1.png")
        write(tmp_path / split / "labels" / "1.txt", YOLO)
    write(tmp_path / "data.yaml", "train: train/images\nval: valid/images\ntest: test/images\nnames: [cat]")
    opened(tmp_path)
    assert caplog.messages == [
        f"data.train: YOLO (data.yaml) in {tmp_path}, split train (there are also val); "
        "its `test` (test/images) is not there",
        "data.train: 1 images, 1 objects, 1 classes (cat)",
    ]


def test_the_test_split_is_preferred_to_val_and_either_can_be_named(tmp_path: Path) -> None:
    for split in ("train", "valid", "test"):
        draw(tmp_path / split / f"{split}.jpg")
        write(tmp_path / split / f"{split}.xml", voc(f"{split}.jpg", CAT))
    assert list(objects_of(opened(tmp_path, "test"))) == ["test/test.jpg"]
    for name in ("val", "valid"):
        assert list(objects_of(opened(tmp_path, "test", test=settings.Split(name)))) == ["valid/valid.jpg"]


def test_a_set_in_one_piece_asks_for_the_key_that_divides_it(tmp_path: Path) -> None:
    draw(tmp_path / "a.jpg")
    write(tmp_path / "a.xml", voc("a.jpg", CAT))
    with pytest.raises(UserError, match=r"has no splits; data\.split\.test=0\.2 divides it, data\.test\.name=all"):
        opened(tmp_path, "test")
    assert len(opened(tmp_path, "test", test=settings.Split("all"))) == 1


def test_two_formats_of_the_same_set(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    draw(tmp_path / "images" / "a.jpg")
    write(tmp_path / "xml" / "a.xml", voc("a.jpg", CAT))
    write(tmp_path / "labels.csv", "filename,class,xmin,ymin,xmax,ymax\na.jpg,cat,11,6,30,25\n")
    index = opened(tmp_path)
    assert "CSV (labels.csv) is there, too: data.format=csv reads it" in caplog.messages[0]
    assert objects_of(index) == objects_of(opened(tmp_path, format="csv"))


def test_one_format_that_cannot_be_used_does_not_hide_another(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    draw(tmp_path / "a.jpg")
    write(tmp_path / "a.xml", voc("a.jpg", CAT))
    write(tmp_path / "data.yaml", "train: /gone/images\nnames: [cat]")
    assert len(opened(tmp_path)) == 1
    assert "data.yaml: its `train`, '/gone/images', is not there" in caplog.messages[0]
    with pytest.raises(UserError, match="is not there"):
        opened(tmp_path, format="yolo")


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (("one.json", "two.json"), r"of the whole set: one\.json, two\.json; name .*data\.train\.annotations"),
        (("train.json", "x/train.json"), r"several COCO files are of train: train\.json, x/train\.json"),
    ],
)  # fmt: skip
def test_several_files_of_a_split_are_asked_about(files: tuple[str, ...], said: str, tmp_path: Path) -> None:
    draw(tmp_path / "1.jpg")
    for file in files:
        write(tmp_path / file, coco("1.jpg"))
    with pytest.raises(UserError, match=said):
        opened(tmp_path)


def test_several_data_sets_are_asked_about(tmp_path: Path) -> None:
    for name in ("pets", "cars"):
        draw(tmp_path / name / "train" / "images" / "1.png")
        write(tmp_path / name / "train" / "labels" / "1.txt", YOLO)
        write(tmp_path / name / "data.yaml", "train: train/images\nnames: [cat]")
    with pytest.raises(UserError, match=r"several data sets are there: cars/data\.yaml; pets/data\.yaml; name the"):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "is empty; name the folder of the data set with --data"),
        ({"a.zip": "PK"}, r"a\.zip is an archive: unpack it"),
        ({"a.json": '{"version": "5", "shapes": [], "imagePath": "a.jpg"}'}, r"a\.json is a LabelMe file of one image"),
        ({"annotations.xml": "<?xml?><annotations><meta></meta></annotations>"}, r"is a CVAT file of all images"),
        ({"a.txt": "684,8,273,116,0,0,0,0\n406,119,265,70,1,4,0,1"}, "a.txt is a VisDrone file"),
        ({"gt.txt": "1,1,912,484,97,109,0,7,1"}, "gt.txt is a MOT file of a video"),
        ({"det.txt": "1,-1,1359.1,413.27,120.26,362.77,2.3092,-1,-1,-1"}, "det.txt is a MOT file of a video"),
        ({"a.txt": "Human hand 1.0 2.5 30 40.25"}, r"a\.txt is a text of a class and a box in each line"),
        ({"a.txt": "0--Parade/0_1.jpg\n1\n449 330 122 149 0 0 0 0 0 0 \n"}, r"a\.txt is a WIDER FACE list"),
        ({"a.csv": "photo,class,somewhere\na.jpg,cat,here"}, r"a\.csv is a CSV table, whose header names no image"),
        ({"gt.txt": "00000.ppm;774;411;815;446;11"}, "gt.txt is a table of boxes; end its name in .csv"),
        (
            {"metadata.jsonl": '{"file_name": "a.png", "objects": {"bbox": [[1, 2, 3, 4]]}}'},
            "a metadata.jsonl of Hugging",
        ),
        ({"a.txt": "Car 0.00 0 -1.57 614.24 181.78 727.31 284.77 1.57 1.73 4.15 1.00 1.75 13.22 1.62"}, "a KITTI file"),
        ({"a.txt": "10 10 20 10 20 20 10 20 plane 0"}, "a DOTA file"),
        ({"a.md": "hello"}, r"no labels that are read \(COCO, YOLO, Pascal VOC, CSV\) were found there; name them as"),
    ],
)
def test_what_is_there_instead_of_labels_is_said(files: dict[str, str], said: str, tmp_path: Path) -> None:
    for name, text in files.items():
        write(tmp_path / name, text)
    with pytest.raises(UserError, match=said):
        opened(tmp_path)


def test_images_alone(tmp_path: Path) -> None:
    draw(tmp_path / "a.jpg")
    draw(tmp_path / "b" / "c.png", 30, 20)
    with pytest.raises(UserError, match=r"only 2 images: tools/predict\.py detects objects in them; to train, add"):
        opened(tmp_path)
    index = opened(tmp_path, "test", format="images", classes=("cat",))
    assert [(index.file_name(i), index.heights[i], index.widths[i]) for i in range(2)] == [
        ("a.jpg", 40, 60),
        ("b/c.png", 30, 20),
    ]
    assert len(index.boxes) == 0
    assert opened(tmp_path, "test", format="images").category_names == []
    with pytest.raises(UserError, match="there is nothing to train on"):
        opened(tmp_path, format="images")


def test_a_file_in_place_of_the_folder(tmp_path: Path) -> None:
    file = write(tmp_path / "data.yaml", "train: x\nnames: [cat]")
    with pytest.raises(UserError, match=r"data\.yaml: is the data\.yaml of a YOLO data set; give its folder, .*"):
        opened(file)
    with pytest.raises(UserError, match="no such folder; name it with --data"):
        opened(tmp_path / "gone")


@pytest.mark.parametrize(
    ("labels", "images", "text"),
    [
        ("ann", "pics", {"ann/a.xml": voc("a.jpg", CAT)}),
        ("ann", "pics", {"ann/a.txt": YOLO, "classes.txt": "cat"}),
        ("ann", "pics", {"ann/a.txt": YOLO, "data.yaml": "train: /gone\nnames: [cat]"}),
        ("x.csv", "pics", {"x.csv": "filename,class,xmin,ymin,xmax,ymax\na.jpg,cat,11,6,30,25\n"}),
        ("x.csv", None, {"x.csv": "filename,class,xmin,ymin,xmax,ymax\na.jpg,cat,11,6,30,25\n"}),
        ("x.json", "pics", {"x.json": coco("a.jpg")}),
        ("x.json", None, {"x.json": coco("a.jpg")}),
        ("data.yaml", None, {"data.yaml": "train: pics\nnames: [cat]", "pics/a.txt": YOLO}),
    ],
)
def test_labels_of_every_format_may_be_named(
    labels: str, images: str | None, text: dict[str, str], tmp_path: Path
) -> None:
    draw(tmp_path / "pics" / "a.jpg")
    for name, content in text.items():
        write(tmp_path / name, content)
    index = opened(tmp_path, train=settings.Split("train", labels, images))
    [[(name, box)]] = objects_of(index).values()
    assert (name, [round(number, 3) for number in box]) == ("cat", BOX)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.xml", voc("a.jpg", CAT), r"a\.xml: is a Pascal VOC file of one image; give the folder of such files"),
        ("a.txt", YOLO, r"a\.txt: is a YOLO file of one image; give the folder of such files as data\."),
        ("a.json", '[{"image_id": 1, "score": 0.5}]', "no COCO annotation file, but a file of detections"),
        ("a.csv", "one,two\n1,2\n", "its header names no image, or no box; the usual names are filename"),
    ],
)  # fmt: skip
def test_a_file_under_the_wrong_key_is_named_for_what_it_is(name: str, text: str, said: str, tmp_path: Path) -> None:
    draw(tmp_path / "a.jpg")
    write(tmp_path / name, text)
    with pytest.raises(UserError, match=said):
        opened(tmp_path, train=settings.Split("train", name, "."))


def test_labels_as_a_configuration_are_named(tmp_path: Path) -> None:
    from detection.config_file import load_config

    for name, text, said in (
        ("data.yaml", "names:\n  0: cat\ntrain: x\n", "is no configuration, but the data.yaml of a YOLO data set"),
        ("a.json", coco("a.jpg"), "is no configuration, but a COCO file"),
        ("a.xml", voc("a.jpg"), "is no configuration, but a Pascal VOC file"),
    ):
        with pytest.raises(UserError, match=said):
            load_config(write(tmp_path / name, text))


def test_a_set_that_has_splits_is_not_divided(tmp_path: Path) -> None:
    for split in ("train", "test"):
        draw(tmp_path / split / "a.jpg")
        write(tmp_path / split / "a.xml", voc("a.jpg", CAT))
    with pytest.raises(UserError, match=r"has splits of its own \(test, train\), and data\.split would"):
        opened(tmp_path, split=settings.Division(0.2))
