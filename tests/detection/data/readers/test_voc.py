"""Pascal VOC data sets as they are found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from backbones.common.errors import UserError
from detection import config as settings
from detection.data.findings import KINDS
from tests.detection.data.readers.folders import draw, kinds_of, objects_of, opened, voc, write

CAT = ("cat", 11, 6, 30, 25)
BOX = [10, 5, 30, 25]  # of CAT: VOC counts pixels from 1, and both corners lie in the box


def test_the_kit_s_own_layout(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        draw(tmp_path / "VOC2007" / "JPEGImages" / f"{name}.jpg")
        write(tmp_path / "VOC2007" / "Annotations" / f"{name}.xml", voc(f"{name}.jpg", CAT, ("dog", 1, 1, 60, 40)))
    lists = tmp_path / "VOC2007" / "ImageSets" / "Main"
    write(lists / "train.txt", "a\n")
    write(lists / "val.txt", "b\n")
    write(lists / "trainval.txt", "a\nb\n")
    write(lists / "cat_train.txt", "a 1\n")
    write(lists / "test.txt", "c\nmissing\n")
    train, test = opened(tmp_path), opened(tmp_path, "test")
    assert objects_of(train) == {"VOC2007/JPEGImages/a.jpg": [("cat", BOX), ("dog", [0, 0, 60, 40])]}
    assert list(objects_of(test)) == ["VOC2007/JPEGImages/c.jpg"]
    both = opened(tmp_path, train=settings.Split("trainval"))
    assert len(both) == 2
    assert kinds_of(train) == {}


def test_a_class_that_only_one_split_has_is_a_class_of_both(tmp_path: Path) -> None:
    for split, own in (("train", CAT), ("valid", ("dog", 1, 1, 9, 9))):
        draw(tmp_path / split / f"{split}.jpg")
        write(tmp_path / split / f"{split}.xml", voc(f"{split}.jpg", own))
    train, test = opened(tmp_path), opened(tmp_path, "test")
    assert train.category_names == test.category_names == ["cat", "dog"]
    assert [label.tolist() for label in (train.labels, test.labels)] == [[1], [2]]


@pytest.mark.parametrize(
    "difficult", ["<difficult>1</difficult>", "<Difficult>1</Difficult>", "<DIFFICULT> 1 </DIFFICULT>"]
)
def test_difficult_objects_are_ignored(difficult: str, tmp_path: Path) -> None:
    draw(tmp_path / "a.jpg")
    text = voc("a.jpg", CAT, CAT).replace("<difficult>0</difficult>", difficult, 1)
    write(tmp_path / "a.xml", text)
    index = opened(tmp_path)
    assert index.crowds.tolist() == [True, False]
    assert kinds_of(index) == {"difficult": 1}


def test_an_image_belongs_to_the_label_file_of_its_name(tmp_path: Path) -> None:
    for name in ("a.JPG", "b.png", "c.jpeg", "other.jpg"):
        draw(tmp_path / "images" / name)
    for name, stated in (("a", "a"), ("b", "b.jpg"), ("c", "IMG_0001.jpg"), ("d", "other.jpg")):
        write(tmp_path / "annotations" / f"{name}.xml", voc(stated, CAT))
    index = opened(tmp_path)
    assert list(objects_of(index)) == ["images/a.JPG", "images/b.png", "images/c.jpeg", "images/other.jpg"]
    assert kinds_of(index) == {"image_ending": 2, "image_of_label_file": 1}


def test_masks_of_the_images_names_are_not_taken_for_the_images(tmp_path: Path) -> None:
    draw(tmp_path / "images" / "a.jpg")
    draw(tmp_path / "annotations" / "trimaps" / "a.png")
    write(tmp_path / "annotations" / "xmls" / "a.xml", voc("a.jpg", CAT))
    index = opened(tmp_path)
    assert list(objects_of(index)) == ["images/a.jpg"]
    assert kinds_of(index) == {}


def test_label_files_without_an_ending(tmp_path: Path) -> None:
    draw(tmp_path / "Images" / "beagle" / "n1_1.jpg")
    write(tmp_path / "Annotation" / "beagle" / "n1_1", voc("%s", CAT))
    write(tmp_path / "LICENSE", "as is")
    assert list(objects_of(opened(tmp_path))) == ["Images/beagle/n1_1.jpg"]


def test_images_of_the_same_name_in_two_splits_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    for split in ("train", "test"):
        draw(tmp_path / "images" / split / "1.jpg")
        write(tmp_path / "annotations" / split / "1.xml", voc("1.jpg", CAT))
    assert [list(objects_of(opened(tmp_path, which))) for which in ("train", "test")] == [
        ["images/train/1.jpg"],
        ["images/test/1.jpg"],
    ]


@pytest.mark.parametrize(
    ("corners", "box", "kinds", "first_pixel"),
    [
        ((1, 1, 60, 40), [0, 0, 60, 40], {}, None),
        ((0, 0, 60, 40), [0, 0, 60, 40], {"corners_are_edges": 1}, None),
        ((10.5, 5.25, 30, 25), [10.5, 5.25, 30, 25], {"corners_are_edges": 1}, None),
        ((10, 5, 30, 25), [10, 5, 30, 25], {}, 0),
        ((0, 0, 60, 40), [0, 0, 60, 40], {"box_overhanging": 1}, 1),
        ((30, 25, 11, 6), BOX, {"box_corners_swapped": 1}, None),
    ],
)
def test_the_edges_of_boxes(
    corners: tuple[float, ...], box: list[float], kinds: dict[str, int], first_pixel: int | None, tmp_path: Path
) -> None:
    draw(tmp_path / "a.jpg")
    write(tmp_path / "a.xml", voc("a.jpg", ("cat", *corners)))
    index = opened(tmp_path, first_pixel=first_pixel)
    assert objects_of(index) == {"a.jpg": [("cat", box)]}
    assert kinds_of(index) == kinds


@pytest.mark.parametrize("named", [False, True])
def test_the_edges_of_boxes_are_decided_once_for_all_splits(named: bool, tmp_path: Path) -> None:
    for split, corner in (("train", 0), ("test", 11)):
        draw(tmp_path / split / f"{split}.jpg")
        write(tmp_path / split / f"{split}.xml", voc(f"{split}.jpg", ("cat", corner, 6, 30, 25)))
    splits = {which: settings.Split(which, which, which) for which in ("train", "test")} if named else {}
    train, test = (opened(tmp_path, which, **splits) for which in ("train", "test"))
    assert (train.boxes.tolist(), test.boxes.tolist()) == ([[0, 6, 30, 25]], [[11, 6, 30, 25]])
    assert kinds_of(train) == {"corners_are_edges": 1}
    assert kinds_of(test) == {"corners_are_edges_elsewhere": 1}
    assert opened(tmp_path, "test", first_pixel=1, **splits).boxes.tolist() == [BOX]


def test_polygons_and_rotated_boxes(tmp_path: Path) -> None:
    draw(tmp_path / "a.jpg")
    points = "<x1>3</x1><y1>4</y1><x2>9</x2><y2>2</y2><x3>5</x3><y3>8</y3>"
    polygon = f"<object><name>cat</name><polygon>{points}</polygon></object>"
    rotated = (
        "<object><name>cat</name><robndbox><cx>30</cx><cy>20</cy><w>20</w><h>10</h><angle>1.5707963267948966</angle>"
        "</robndbox></object>"
    )
    write(tmp_path / "a.xml", voc("a.jpg").replace("</annotation>", f"{polygon}{rotated}</annotation>"))
    index = opened(tmp_path, first_pixel=0)
    np.testing.assert_allclose(index.boxes, [[3, 2, 9, 8], [25, 10, 35, 30]], atol=1e-5)
    assert kinds_of(index) == {"box_from_polygon": 2}


@pytest.mark.parametrize(
    ("size", "kind"),
    [
        ("<width>60</width><height>40</height>", None),
        ("<width>0</width><height>0</height>", "size_missing"),
        ("", "size_missing"),
        ("<width>500</width><height>375</height>", "size_corrected"),
        ("<width>40</width><height>60</height>", "size_corrected"),
    ],
)
def test_sizes_are_checked_with_the_files(size: str, kind: str | None, tmp_path: Path) -> None:
    draw(tmp_path / "a.jpg")
    write(tmp_path / "a.xml", voc("a.jpg", CAT, size=size))
    index = opened(tmp_path)
    assert (index.heights[0], index.widths[0]) == (40, 60)
    assert kinds_of(index) == ({kind: 1} if kind else {})


@pytest.mark.parametrize(
    ("folders", "line"),
    [(("train", "test"), "1"), (("x", "y"), "{folder}/1.jpg"), (("x", "y"), "JPEGImages\\{folder}\\1.jpg")],
)
def test_label_files_of_one_name_in_two_folders_are_told_apart_in_lists(
    folders: tuple[str, str], line: str, tmp_path: Path
) -> None:
    for split, folder, name in (("train", folders[0], "cat"), ("test", folders[1], "dog")):
        draw(tmp_path / folder / "1.jpg")
        write(tmp_path / folder / "1.xml", voc("1.jpg", (name, *CAT[1:])))
        write(tmp_path / "ImageSets" / "Main" / f"{split}.txt", line.format(folder=folder) + "\n")
    assert objects_of(opened(tmp_path)) == {f"{folders[0]}/1.jpg": [("cat", BOX)]}
    assert objects_of(opened(tmp_path, "test")) == {f"{folders[1]}/1.jpg": [("dog", BOX)]}


def test_a_list_that_does_not_say_which_label_file_is_meant_is_asked_about(tmp_path: Path) -> None:
    draw(tmp_path / "JPEGImages" / "1.jpg")
    for folder in ("Annotations", "Annotations_old"):
        write(tmp_path / folder / "1.xml", voc("1.jpg", CAT))
    write(tmp_path / "ImageSets" / "Main" / "train.txt", "1\n")
    said = r"train\.txt: 1 may be Annotations/1\.xml or Annotations_old/1\.xml; .* data\.train\.annotations"
    with pytest.raises(UserError, match=said):
        opened(tmp_path)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("declared", ["", '<?xml version="1.0" encoding="UTF-16"?>\r\n', '<?xml version="1.0"?>'])
def test_files_with_a_byte_order_mark(encoding: str, declared: str, tmp_path: Path) -> None:
    draw(tmp_path / "a.jpg")
    write(tmp_path / "a.xml", (declared + voc("a.jpg", ("größe", *CAT[1:]))).encode(encoding))
    index = opened(tmp_path)
    assert objects_of(index) == {"a.jpg": [("größe", BOX)]}
    assert kinds_of(index) == {}


def test_a_size_that_the_boxes_contradict_stays_as_stated(tmp_path: Path) -> None:
    """Reading the image then refuses it with both sizes."""
    draw(tmp_path / "a.jpg")
    write(tmp_path / "a.xml", voc("a.jpg", ("cat", 100, 100, 300, 300), size="<width>500</width><height>375</height>"))
    index = opened(tmp_path)
    assert (index.heights[0], index.widths[0]) == (375, 500)


@pytest.mark.parametrize(
    ("text", "kind", "said"),
    [
        (voc("a.jpg", CAT)[:-20], "label_file_malformed", "a.xml: "),
        ("", "label_file_malformed", "a.xml: it is empty"),
        ("<root><annotation/></root>", "label_file_malformed", "its outermost element is <root>"),
        ("<!DOCTYPE a [<!ENTITY x 'y'>]><annotation>&x;</annotation>", "label_file_malformed", "declares entities"),
        ("<!DOCTYPE a [<!ENTITY x 'y'>]><annotation/>".encode("utf-16"), "label_file_malformed", "declares entities"),
        ("<!DOCTYPE a [<!ENTITY x 'y'>]><annotation/>".encode("utf-16-le"), "label_file_malformed", "declares entit"),
        ("<annotation>&</annotation>".encode("utf-16-le"), "label_file_malformed", "not well-formed"),
        (voc("a.jpg", ("", 1, 2, 3, 4)), "object_malformed", "a.xml: object 1 has no class name"),
        (voc("a.jpg", ("cat", 1, 2, 3, "x")), "object_malformed", "a.xml: object 1 (cat) has no box of four numbers"),
        (voc("a.jpg", ("cat", 1, 2, 3, "nan")), "object_malformed", "a.xml: object 1 (cat) has no box of four numbers"),
    ],
)
def test_what_is_not_plain_is_refused_with_the_file(text: str | bytes, kind: str, said: str, tmp_path: Path) -> None:
    for name in ("a", "b"):
        draw(tmp_path / f"{name}.jpg")
    write(tmp_path / "b.xml", voc("b.jpg", CAT))
    write(tmp_path / "a.xml", text)
    with pytest.raises(UserError) as caught:
        opened(tmp_path)
    assert KINDS[kind].found in str(caught.value)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("C:\\me", "C:\\me & you"),
        lambda text: text.replace("C:\\me", "C:\\größe").encode("latin-1"),
        lambda text: ("<?xml version='1.0' encoding='utf-8'?>" + text.replace("<folder>x", "<folder>ä")).encode(
            "latin-1"
        ),
    ],
)
def test_faults_outside_the_objects_are_repaired(change: object, tmp_path: Path) -> None:
    draw(tmp_path / "a.jpg")
    assert callable(change)
    write(tmp_path / "a.xml", change(voc("a.jpg", CAT)))
    index = opened(tmp_path)
    assert objects_of(index) == {"a.jpg": [("cat", BOX)]}
    assert kinds_of(index) == {"label_encoding": 1}


def test_images_without_a_label_file_and_label_files_without_an_image(tmp_path: Path) -> None:
    for name in ("a", "b"):
        draw(tmp_path / f"{name}.jpg")
    write(tmp_path / "a.xml", voc("a.jpg", CAT))
    write(tmp_path / "c.xml", voc("c.jpg", CAT))
    with pytest.raises(UserError, match=r"images without a file.*c\.jpg"):
        opened(tmp_path)
    index = opened(tmp_path, skip_missing=True)
    assert list(objects_of(index)) == ["a.jpg"]
    assert kinds_of(index) == {"image_unlabelled": 1, "image_left_out": 1}


def test_class_names_that_differ_in_capitals_are_told(tmp_path: Path) -> None:
    draw(tmp_path / "a.jpg")
    write(tmp_path / "a.xml", voc("a.jpg", CAT, ("Cat", 1, 1, 9, 9), (" cat ", 1, 1, 5, 5)))
    index = opened(tmp_path)
    assert index.category_names == ["Cat", "cat"]
    assert kinds_of(index) == {"class_names_alike": 1}


def test_two_kits_side_by_side_are_asked_about(tmp_path: Path) -> None:
    for year in ("VOC2007", "VOC2012"):
        draw(tmp_path / year / "JPEGImages" / "a.jpg")
        write(tmp_path / year / "Annotations" / "a.xml", voc("a.jpg", CAT))
        write(tmp_path / year / "ImageSets" / "Main" / "train.txt", "a")
    with pytest.raises(UserError, match=r"several Pascal VOC sets are there: VOC2007, VOC2012; name one as data\.root"):
        opened(tmp_path)


def test_xml_and_csv_of_the_same_boxes_give_the_same_index(shared_data: Path) -> None:
    indices = [opened(shared_data / "raccoon_voc", format=format) for format in ("voc", "csv")]
    assert [len(index) for index in indices] == [200, 200]
    assert [len(index.boxes) for index in indices] == [217, 217]
    assert indices[0].fingerprint == indices[1].fingerprint
    assert objects_of(indices[0])["images/raccoon-1.jpg"] == [("raccoon", [80, 87, 522, 408])]
    assert kinds_of(indices[0]) == {}
