"""CSV files of boxes, with the headers that people use."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from backbones.common.errors import UserError
from detection import config as settings
from detection.data.findings import KINDS
from tests.detection.data.readers.folders import draw, kinds_of, objects_of, opened, write

BOX = [10, 5, 30, 25]


@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("filename,width,height,class,xmin,ymin,xmax,ymax", "a.jpg,60,40,cat,11,6,30,25"),  # TensorFlow's, Roboflow's
        ("image_id,xmin,ymin,xmax,ymax,label", "a,11,6,30,25,cat"),
        ("\ufefffile_name;Label;XMin;XMax;YMin;YMax", "a.jpg;cat;11;30;6;25"),
        ("image_path,x1,y1,x2,y2,class_name", "/home/me/set/a.jpg,10,5,30,25,cat"),
        ("image,x,y,w,h,class", "a.jpg,10,5,20,20,cat"),
        ("image_name,bbox_x,bbox_y,bbox_width,bbox_height,image_width,image_height,label_name",
         "a.jpg,10,5,20,20,60,40,cat"),  # a table of makesense.ai with a header
        ("image_id,width,height,bbox,source", 'a,60,40,"[10.0, 5, 20, 20]",cat'),  # Kaggle's wheat heads
        ("ImageID,LabelName,XMin,XMax,YMin,YMax", "a,cat,0.1666666667,0.5,0.125,0.625"),  # Open Images
        ("filename,class,x_center,y_center,width,height", "a.jpg,cat,0.3333333333,0.375,0.3333333333,0.5"),
        ("filename\tleft\ttop\tright\tbottom\tcategory", "a.jpg\t10\t5\t30\t25\tcat"),
        (None, "images/a.jpg,10,5,30,25,cat"),  # keras-retinanet
        (None, "cat,10,5,20,20,a.jpg,60,40"),  # makesense.ai
        ("Filename;Annotation tag;Upper left corner X;Upper left corner Y;Lower right corner X;Lower right corner Y",
         "images/a.jpg;cat;10;5;30;25"),  # LISA's traffic signs
    ],
)  # fmt: skip
def test_headers(header: str | None, row: str, tmp_path: Path) -> None:
    draw(tmp_path / "images" / "a.jpg")
    write(tmp_path / "labels.csv", "".join(f"{line}\r\n" for line in (header, row) if line is not None))
    index = opened(tmp_path)
    [[(name, box)]] = objects_of(index).values()
    assert name == ("object" if "source" in (header or "") else "cat")
    assert box == pytest.approx(BOX, abs=1e-4)


def test_splits_by_a_column(tmp_path: Path) -> None:
    rows = ["filename,split,class,xmin,ymin,xmax,ymax"]
    for name, split, own in (("a", "TRAIN", "cat"), ("b", "validation", "dog"), ("c", "test", "cat")):
        draw(tmp_path / f"{name}.jpg")
        rows.append(f"{name}.jpg,{split},{own},11,6,30,25")
    write(tmp_path / "all.csv", "\n".join(rows))
    train, test = opened(tmp_path), opened(tmp_path, "test")
    assert [list(objects_of(index)) for index in (train, test)] == [["a.jpg"], ["c.jpg"]]
    assert train.category_names == test.category_names == ["cat", "dog"]
    assert kinds_of(train) == {}


def test_rows_of_no_split_are_counted(tmp_path: Path) -> None:
    rows = ["filename,split,class,xmin,ymin,xmax,ymax"]
    for name, split, own in (("a", "train", "cat"), ("b", "test", "cat"), ("c", "holdout", "dog"), ("d", "", "cat")):
        draw(tmp_path / f"{name}.jpg")
        rows.append(f"{name}.jpg,{split},{own},11,6,30,25")
    write(tmp_path / "all.csv", "\n".join(rows))
    for which, image in (("train", "a.jpg"), ("test", "b.jpg")):
        index = opened(tmp_path, which)
        assert objects_of(index) == {image: [("cat", BOX)]}
        assert index.category_names == ["cat"]  # of the rows that are read
        assert kinds_of(index) == {"row_without_split": 2}
        assert re.search(r"all\.csv:4: 'holdout'; .*all\.csv:5: ''", index.findings.summary())


@pytest.mark.parametrize("named", [False, True])
def test_fractions_are_decided_once_for_all_splits_and_by_most_boxes(named: bool, tmp_path: Path) -> None:
    """One box of the training set reaches over the edge; the test set could be taken for a box of one pixel."""
    for name in ("a", "b", "c"):
        draw(tmp_path / f"{name}.jpg")
    head = "filename,class,x1,y1,x2,y2\n"
    write(tmp_path / "train.csv", f"{head}a.jpg,cat,0.5,0.25,1.01,0.75\nb.jpg,cat,0.5,0.25,0.75,0.75\n")
    write(tmp_path / "test.csv", f"{head}c.jpg,cat,0,0,1,1\n")
    files = {which: settings.Split(which, annotations=f"{which}.csv") for which in (("train", "test") if named else ())}
    train, test = opened(tmp_path, **files), opened(tmp_path, "test", **files)
    assert objects_of(train) == {"a.jpg": [("cat", [30, 10, 60, 30])], "b.jpg": [("cat", [30, 10, 45, 30])]}
    assert objects_of(test) == {"c.jpg": [("cat", [0, 0, 60, 40])]}
    assert (kinds_of(train)["box_overhanging"], kinds_of(test).get("boxes_as_fractions")) == (1, None)
    write(tmp_path / "train.csv", f"{head}a.jpg,cat,11,6,30,25\nb.jpg,cat,11,6,30,25\n")
    assert objects_of(opened(tmp_path, "test", **files)) == {"c.jpg": [("cat", [0, 0, 1, 1])]}


def test_a_row_in_pixels_among_fractions_is_refused_with_its_line(tmp_path: Path) -> None:
    draw(tmp_path / "a.jpg")
    row = "a.jpg,cat,0.5,0.25,0.75,0.75\n"
    write(tmp_path / "x.csv", f"filename,class,xmin,ymin,xmax,ymax\n{row}{row}a.jpg,cat,11,6,30,25\n")
    with pytest.raises(UserError) as caught:
        opened(tmp_path)
    assert f"1 {KINDS['row_in_pixels'].found}" in str(caught.value)
    assert "x.csv:4" in str(caught.value)


@pytest.mark.parametrize("images", [True, False])
def test_folders_above_the_set_say_nothing_of_its_splits(images: bool, tmp_path: Path) -> None:
    root = tmp_path / "test" / "set"
    draw(root / "train" / "a.jpg")
    file = write(root / "labels.csv", "filename,class,xmin,ymin,xmax,ymax\na.jpg,cat,11,6,30,25\n")
    train = settings.Split("train", annotations=str(file), images=str(root) if images else None)
    assert objects_of(opened(tmp_path, train=train)) == {"train/a.jpg": [("cat", BOX)]}


def test_splits_by_file(tmp_path: Path) -> None:
    """Roboflow's: a file in each folder, and the same names in several."""
    for split in ("train", "test"):
        draw(tmp_path / split / "1.jpg")
        write(
            tmp_path / split / "_annotations.csv",
            f"filename,width,height,class,xmin,ymin,xmax,ymax\n1.jpg,60,40,{split},11,6,30,25",
        )
    assert objects_of(opened(tmp_path)) == {"train/1.jpg": [("train", BOX)]}
    assert objects_of(opened(tmp_path, "test")) == {"test/1.jpg": [("test", BOX)]}


def test_two_files_of_the_same_split_are_asked_about(tmp_path: Path) -> None:
    draw(tmp_path / "a.jpg")
    for name in ("one", "two"):
        write(tmp_path / f"{name}.csv", "filename,class,xmin,ymin,xmax,ymax\na.jpg,cat,11,6,30,25")
    with pytest.raises(
        UserError, match=r"one\.csv and two\.csv are both .* of the whole set; .* data\.train\.annotations"
    ):
        opened(tmp_path)


def test_rows_without_a_box_are_images_without_objects(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        draw(tmp_path / f"{name}.jpg")
    write(tmp_path / "x.csv", "filename,xmin,ymin,xmax,ymax,class\na.jpg,11,6,30,25,cat\nb.jpg,,,,,\n\n")
    index = opened(tmp_path)
    assert {name: len(own) for name, own in objects_of(index).items()} == {"a.jpg": 1, "b.jpg": 0}
    assert kinds_of(index) == {"image_unlabelled": 1}


@pytest.mark.parametrize(
    ("row", "kind"),
    [("a.jpg,cat,11,6,thirty,25", "row_malformed"), (",cat,11,6,30,25", "row_malformed"),
     ("a.jpg,cat,11,6", "row_malformed"), ("a.jpg,cat,nan,6,30,25", "box_not_finite")],
)  # fmt: skip
def test_rows_that_cannot_be_read_are_refused_with_their_line(row: str, kind: str, tmp_path: Path) -> None:
    draw(tmp_path / "a.jpg")
    write(tmp_path / "x.csv", f"filename,class,xmin,ymin,xmax,ymax\na.jpg,cat,11,6,30,25\n{row}\n")
    with pytest.raises(UserError) as caught:
        opened(tmp_path)
    assert KINDS[kind].found in str(caught.value)
    assert "x.csv:3" in str(caught.value)


def test_difficult_objects_and_wrong_sizes(tmp_path: Path) -> None:
    draw(tmp_path / "a.jpg")
    write(
        tmp_path / "x.csv", "filename,width,height,class,xmin,ymin,xmax,ymax,difficult\na.jpg,61,41,cat,11,6,30,25,1\n"
    )
    index = opened(tmp_path)
    assert index.crowds.tolist() == [True]
    assert kinds_of(index) == {"difficult": 1, "size_corrected": 1, "crowds_mostly": 1}


def test_other_encodings(tmp_path: Path) -> None:
    draw(tmp_path / "a.jpg")
    text = "filename,class,xmin,ymin,xmax,ymax\na.jpg,größe,11,6,30,25\n"
    write(tmp_path / "x.csv", text.encode("utf-16"))
    assert opened(tmp_path, format="csv", train=split("x.csv")).category_names == ["größe"]
    write(tmp_path / "x.csv", text.encode("latin-1"))
    with pytest.raises(UserError, match=r"x\.csv: is not UTF-8 text; save it as UTF-8"):
        opened(tmp_path)


def split(annotations: str) -> object:
    return settings.Split("train", annotations=annotations)


@pytest.mark.parametrize("form", ["two files", "a column", "named files"])
def test_the_edges_of_boxes_are_decided_once_for_all_splits(form: str, tmp_path: Path) -> None:
    for name in ("a", "b"):
        draw(tmp_path / f"{name}.jpg")
    head = "filename,class,xmin,ymin,xmax,ymax"
    rows = {"train": "a.jpg,cat,1,6,30,25.5", "test": "b.jpg,cat,11,6,30,25"}
    if form == "a column":
        text = f"{head},split\n" + "".join(f"{row},{split}\n" for split, row in rows.items())
        write(tmp_path / "labels.csv", text)
    else:
        for split, row in rows.items():
            write(tmp_path / f"{split}.csv", f"{head}\n{row}\n")
    splits = {split: settings.Split(split, f"{split}.csv", ".") for split in rows} if form == "named files" else {}
    train, test = (opened(tmp_path, which, **splits) for which in ("train", "test"))
    assert (train.boxes.tolist(), test.boxes.tolist()) == ([[1, 6, 30, 25.5]], [[11, 6, 30, 25]])
    assert kinds_of(test)["corners_are_edges_elsewhere"] == 1
