"""YOLO data sets as they are found: where the files are, and what their lines mean."""

from __future__ import annotations

from pathlib import Path

import pytest

from backbones.common.errors import UserError
from detection.data.readers.yolo_lines import parse_lines
from tests.detection.data.readers.folders import draw, kinds_of, objects_of, opened, write

LINE = "1 0.5 0.5 0.5 0.25\n"
BOX = [15, 15, 45, 25]  # of LINE in an image of 60 × 40
FOREIGN = "C:\\Users\\me\\my set\\{}\\images"


def yolo_set(
    root: Path, place: str = "{split}/{kind}", train: str = "train", labels: str = LINE, ending: str = "jpg"
) -> None:
    """A set with an image and its label in train, and one image without in valid."""
    for split in (train, "valid"):
        draw(root / place.format(split=split, kind="images") / f"{split}1.{ending}")
    write(root / place.format(split=train, kind="labels") / f"{train}1.txt", labels)
    draw(root / place.format(split="valid", kind="images") / "valid2.jpg")
    write(root / place.format(split="valid", kind="labels") / "valid2.txt", LINE)


@pytest.mark.parametrize(
    ("yaml", "place", "found"),
    [
        ("train: ../train/images\nval: ../valid/images\nnc: 2\nnames: ['cat', 'dog']", "{split}/{kind}", 1),  # Roboflow
        ("train: train/images\nval: valid/images\nnames: [cat, dog]", "{split}/{kind}", 0),
        ("path: .\ntrain: images/train\nval: images/valid\nnames:\n  0: cat\n  1: dog", "{kind}/{split}", 0),
        ("path: ../sets/mine\ntrain: images/train\nval: images/valid\nnames: {0: cat, 1: dog}", "{kind}/{split}", 0),
        ("path: /content/mine\ntrain: images/train\nval: images/valid\nnames: {0: cat, 1: dog}", "{kind}/{split}", 0),
        (f"train: {FOREIGN.format('train')}\nval: {FOREIGN.format('valid')}\nnames: [cat, dog]", "{split}/{kind}", 1),
        ("train: /kaggle/input/x/train/images\nval: /kaggle/input/x/valid\nnames: ['cat', 'dog']", "{split}/{kind}", 1),
        ("train: [train/images]\nval: valid\nnames: ['cat', 'dog']", "{split}", 0),  # labels beside the images
        ("\ufefftrain: train/images\r\nval: valid/images\r\nnames: ['cat', 'dog']\r\n", "{split}/{kind}", 0),
        ("train: Train/Images\nval: valid/images\nnames: ['cat', 'dog']", "{split}/{kind}", 0),
    ],
)  # fmt: skip
def test_the_images_are_found_wherever_data_yaml_was_written(yaml: str, place: str, found: int, tmp_path: Path) -> None:
    yolo_set(tmp_path, place)
    if place == "{split}":
        yaml = yaml.replace("train/images", "train")
    write(tmp_path / "data.yaml", yaml)
    train, test = opened(tmp_path), opened(tmp_path, "test")
    assert [list(objects) for objects in (objects_of(train).values())] == [[("dog", BOX)]]
    assert train.category_names == test.category_names == ["cat", "dog"]
    assert train.category_ids.tolist() == [0, 1]
    assert sorted(len(own) for own in objects_of(test).values()) == [0, 1]  # an image without label file has no object
    assert kinds_of(test)["label_file_missing"] == 1
    assert kinds_of(train).get("folder_elsewhere", 0) == found


def test_a_folder_beside_the_set_is_not_taken_for_its_own(tmp_path: Path) -> None:
    """Roboflow's `../train/images` means the folder beside data.yaml, though there is one above it."""
    draw(tmp_path / "train" / "images" / "other.jpg")
    yolo_set(tmp_path / "set")
    write(tmp_path / "set" / "data.yaml", "train: ../train/images\nval: ../valid/images\nnames: [cat, dog]")
    index = opened(tmp_path / "set")
    assert list(objects_of(index)) == ["train/images/train1.jpg"]


def test_the_images_of_a_list_are_found_by_the_end_of_their_paths(tmp_path: Path) -> None:
    yolo_set(tmp_path, "images/{split}", ending="JPG")
    write(tmp_path / "labels" / "train" / "train1.txt", LINE)
    write(
        tmp_path / "train.txt",
        "/home/x/set/images/train/train1.JPG\nD:\\x\\images\\valid\\valid1.JPG\r\n./images/valid/valid2.jpg\n",
    )
    write(tmp_path / "data.yaml", "train: train.txt\nval: images/valid\nnames: [cat, dog]")  # fmt: skip
    index = opened(tmp_path)
    assert list(objects_of(index)) == ["images/train/train1.JPG", "images/valid/valid1.JPG", "images/valid/valid2.jpg"]
    assert kinds_of(index)["image_elsewhere"] == 2


def link(path: Path, target: Path) -> None:
    """A symbolic link, where the system lets a user make one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.symlink_to(target, target_is_directory=target.is_dir())
    except OSError as error:  # Windows without developer mode
        pytest.skip(f"no links can be made here: {error}")


@pytest.mark.parametrize("listed", ["{root}/images/train/{name}.jpg", "images/train/{name}.jpg"])
def test_linked_images_have_the_labels_beside_the_links(listed: str, tmp_path: Path) -> None:
    """As Ultralytics, which finds the label by the image's path as written; two of three images are links."""
    root = tmp_path / "set"
    for name in ("a", "b"):
        draw(tmp_path / "raw" / f"{name}.jpg")
        link(root / "images" / "train" / f"{name}.jpg", tmp_path / "raw" / f"{name}.jpg")
    draw(root / "images" / "train" / "c.jpg")
    for name in ("a", "b", "c"):
        write(root / "labels" / "train" / f"{name}.txt", LINE)
    write(root / "train.txt", "\n".join(listed.format(root=root, name=name) for name in ("a", "b", "c")))
    write(root / "data.yaml", "train: train.txt\nnames: [cat, dog]")
    index = opened(root)
    assert objects_of(index) == {f"images/train/{name}.jpg": [("dog", BOX)] for name in ("a", "b", "c")}
    assert kinds_of(index) == {}


@pytest.mark.parametrize("entry", ["{root}/images/train", "images/train"])
@pytest.mark.parametrize("labels", ["set", "raw"])
def test_a_linked_folder_of_images_has_its_labels_on_either_side_of_the_link(
    entry: str, labels: str, tmp_path: Path
) -> None:
    root = tmp_path / "set"
    draw(tmp_path / "raw" / "images" / "train" / "a.jpg")
    link(root / "images", tmp_path / "raw" / "images")
    write(tmp_path / labels / "labels" / "train" / "a.txt", LINE)
    write(root / "data.yaml", f"train: {entry.format(root=root)}\nnames: [cat, dog]")
    assert objects_of(opened(root)) == {"images/train/a.jpg": [("dog", BOX)]}


@pytest.mark.parametrize("train", ["images/train", "train.txt", "absolute.txt", "raw", None])
def test_a_link_to_another_folder_of_the_set_is_named_or_not(train: str | None, tmp_path: Path) -> None:
    draw(tmp_path / "raw" / "a.jpg")
    link(tmp_path / "images" / "train", tmp_path / "raw")
    place = "raw" if train in ("raw", None) else "images/train"
    write(tmp_path / ("raw/a.txt" if place == "raw" else "labels/train/a.txt"), LINE)
    write(tmp_path / "train.txt", "images/train/a.jpg\n")
    write(tmp_path / "absolute.txt", f"{tmp_path}/images/train/a.jpg\n")
    if train is None:
        (tmp_path / "train.txt").unlink()
        write(tmp_path / "classes.txt", "cat\ndog")
    else:
        write(tmp_path / "data.yaml", f"train: {train}\nnames: [cat, dog]")
    index = opened(tmp_path)
    assert objects_of(index) == {f"{place}/a.jpg": [("dog", BOX)]}
    assert kinds_of(index) == {}


def test_a_list_that_names_the_set_by_a_link_to_it(tmp_path: Path) -> None:
    draw(tmp_path / "set" / "images" / "a.jpg")
    write(tmp_path / "set" / "labels" / "a.txt", LINE)
    link(tmp_path / "link", tmp_path / "set")
    write(tmp_path / "set" / "train.txt", f"{tmp_path}/link/images/a.jpg\n")
    write(tmp_path / "set" / "data.yaml", "train: train.txt\nnames: [cat, dog]")
    assert objects_of(opened(tmp_path / "set")) == {"images/a.jpg": [("dog", BOX)]}


def test_listed_images_without_a_file_are_refused_or_left_out(tmp_path: Path) -> None:
    yolo_set(tmp_path)
    write(tmp_path / "train.txt", "train/images/train1.jpg\ntrain/images/gone.jpg\n")
    write(tmp_path / "data.yaml", "train: train.txt\nval: valid/images\nnames: [cat, dog]")
    with pytest.raises(UserError, match=r"images without a file.*gone\.jpg"):
        opened(tmp_path)
    index = opened(tmp_path, skip_missing=True)
    assert len(index) == 1
    assert kinds_of(index)["image_left_out"] == 1


def test_an_image_whose_size_nothing_states_is_refused_or_left_out(tmp_path: Path) -> None:
    yolo_set(tmp_path)
    write(tmp_path / "train" / "images" / "broken.jpg", b"not an image")
    write(tmp_path / "data.yaml", "train: train/images\nval: valid/images\nnames: [cat, dog]")
    with pytest.raises(UserError, match=r"images without size whose file cannot be read.*broken\.jpg"):
        opened(tmp_path)
    index = opened(tmp_path, skip_unreadable=True)
    assert len(index) == 1
    assert kinds_of(index)["image_unreadable_left_out"] == 1


@pytest.mark.parametrize(
    ("files", "classes"),
    [
        ({"classes.txt": "cat\r\ndog\r\n"}, ["cat", "dog"]),  # Label Studio, LabelImg
        ({"labels/classes.txt": "cat\ndog"}, ["cat", "dog"]),
        ({"_darknet.labels": "cat\ndog"}, ["cat", "dog"]),
        ({}, ["1"]),
    ],
)
def test_folders_without_data_yaml(files: dict[str, str], classes: list[str], tmp_path: Path) -> None:
    draw(tmp_path / "images" / "a.png")
    draw(tmp_path / "images" / "b.png")
    write(tmp_path / "labels" / "a.txt", LINE)
    write(tmp_path / "labels" / "b.txt", "")
    for name, text in files.items():
        write(tmp_path / name, text)
    index = opened(tmp_path)
    assert index.category_names == classes
    assert len(index) == 2
    assert kinds_of(index) == ({} if files else {"classes_unnamed": 1})
    named = opened(tmp_path, classes=("rat", "cow"))
    assert named.category_names == ["rat", "cow"]


def test_a_folder_of_labels_with_a_project_s_name(tmp_path: Path) -> None:
    draw(tmp_path / "images" / "a.png")
    write(tmp_path / "labels_my-project-name_2024-11-28" / "a.txt", LINE)
    assert len(opened(tmp_path).boxes) == 1


def test_classes_without_names_are_those_of_all_splits(tmp_path: Path) -> None:
    yolo_set(tmp_path)
    write(tmp_path / "valid" / "labels" / "valid2.txt", "7 0.5 0.5 0.1 0.1")
    train, test = opened(tmp_path), opened(tmp_path, "test")
    assert train.category_names == test.category_names == ["1", "7"]


def test_lists_of_images_without_a_file_that_names_them(tmp_path: Path) -> None:
    for name in ("a", "b"):
        draw(tmp_path / "obj" / f"{name}.jpg")
        write(tmp_path / "obj" / f"{name}.txt", LINE)
    write(tmp_path / "train.txt", "data/obj/a.jpg\n")
    write(tmp_path / "test.txt", "data/obj/b.jpg\n")
    assert [list(objects_of(opened(tmp_path, which))) for which in ("train", "test")] == [["obj/a.jpg"], ["obj/b.jpg"]]


def test_cvat_s_yolo_1_1(tmp_path: Path) -> None:
    draw(tmp_path / "obj_train_data" / "sub" / "a.jpg")
    write(tmp_path / "obj_train_data" / "sub" / "a.txt", LINE)
    write(tmp_path / "obj.data", "classes = 2\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n")
    write(tmp_path / "obj.names", "cat\ndog\n")
    write(tmp_path / "train.txt", "data/obj_train_data/sub/a.jpg\n")
    assert objects_of(opened(tmp_path)) == {"obj_train_data/sub/a.jpg": [("dog", BOX)]}


@pytest.mark.parametrize(
    ("lines", "boxes", "kinds"),
    [
        ("0 0.5 0.5 0.5 0.25\r\n\r\n", [[15, 15, 45, 25]], {}),
        ("0\t0.5  0.5 0.5 0.25", [[15, 15, 45, 25]], {}),
        ("\ufeff0 0.5 0.5 0.5 0.25", [[15, 15, 45, 25]], {"label_encoding": 1}),
        ("0.0 0.5 0.5 0.5 0.25", [[15, 15, 45, 25]], {}),
        ("0 0.5 0.5 0.5 0.25 0.93", [[15, 15, 45, 25]], {"label_with_score": 1}),
        ("cat 0.5 0.5 0.5 0.25", [[15, 15, 45, 25]], {"class_as_name": 1}),
        ("0 0.25 0.25 0.75 0.25 0.5 0.75\n0 0.5 0.5 0.5 0.25", [[15, 10, 45, 30], [15, 15, 45, 25]],
         {"box_from_polygon": 1}),
        ("0 0.25 0.25 0.75 0.25 0.75 0.75 0.25 0.75", [[15, 10, 45, 30]], {"box_from_polygon": 1}),  # rotated box
        ("0 0.95 0.5 0.2 0.25", [[51, 15, 60, 25]], {"box_overhanging": 1}),
        ("0 0.5 0.5 0 0.25\n0 0.5 0.5 0.5 0.25", [[15, 15, 45, 25]], {"box_zero_size": 1}),
    ],
)  # fmt: skip
def test_what_lines_mean(lines: str, boxes: list[list[float]], kinds: dict[str, int], tmp_path: Path) -> None:
    draw(tmp_path / "a.png")
    write(tmp_path / "a.txt", lines)
    write(tmp_path / "data.yaml", "train: .\nnames: [cat]")
    index = opened(tmp_path)
    assert [box for _, box in objects_of(index)["a.png"]] == [pytest.approx(box, abs=1e-4) for box in boxes]
    assert kinds_of(index) == kinds


@pytest.mark.parametrize(
    ("line", "kind", "said"),
    [
        ("0 0.5 0.5 0.5", "label_line_malformed", "a.txt:2: 0 0.5 0.5 0.5"),
        ("0 0,5 0,5 0,5 0,5", "label_line_malformed", "a.txt:2"),
        ("dog 0.5 0.5 0.5 0.5", "label_line_malformed", "a.txt:2"),
        ("-1 0.5 0.5 0.5 0.5", "label_line_malformed", "a.txt:2"),
        ("0 nan 0.5 0.5 0.5 0.5 0.5", "label_line_malformed", "a.txt:2"),
        ("0 0.1 0.1 0.2 0.2 0.3 0.3 0.4", "label_line_malformed", "a.txt:2"),
        ("99999999999999999999 0.5 0.5 0.5 0.5", "label_line_malformed", "a.txt:2: 99999999999999999999"),
        (f"{'9' * 5000} 0.5 0.5 0.5 0.5", "label_line_malformed", "a.txt:2: 999"),
        ("0 30 20 10 10", "label_in_pixels", "a.txt:2: 0 30 20 10 10"),
        ("3 0.5 0.5 0.5 0.5", "class_beyond_names", "a.txt:2: class 3 of 2 names"),
    ],
)
def test_what_is_not_plain_is_refused_with_file_and_line(line: str, kind: str, said: str, tmp_path: Path) -> None:
    from detection.data.findings import KINDS

    draw(tmp_path / "a.png")
    write(tmp_path / "a.txt", f"{LINE}{line}\n")
    write(tmp_path / "data.yaml", "train: .\nnc: 3\nnames: [cat, cow]")
    with pytest.raises(UserError) as caught:
        opened(tmp_path)
    message = str(caught.value)
    assert KINDS[kind].found in message
    assert KINDS[kind].then in message
    assert said in message
    assert KINDS["class_count"].found in message


def test_keypoints_follow_the_box() -> None:
    line = b"0 0.5 0.5 0.5 0.25 " + b"0.1 0.2 2 " * 3
    assert parse_lines(line, {}, 9).boxes == [0.5, 0.5, 0.5, 0.25]
    assert [kind for kind, _, _ in parse_lines(line, {}).found] == ["label_line_malformed"]


def test_text_in_utf_16_is_read() -> None:
    assert parse_lines(LINE.encode("utf-16"), {}).boxes == [0.5, 0.5, 0.5, 0.25]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be"])
@pytest.mark.parametrize("with_yaml", [True, False])
def test_every_file_of_a_set_may_have_a_byte_order_mark(encoding: str, with_yaml: bool, tmp_path: Path) -> None:
    """Windows' editors write marks, PowerShell's `>` writes UTF-16."""

    def encoded(text: str) -> bytes:
        return (f"\ufeff{text}" if encoding == "utf-16-be" else text).encode(encoding)

    draw(tmp_path / "images" / "a.png")
    write(tmp_path / "labels" / "a.txt", encoded(LINE))
    write(tmp_path / "train.txt", encoded("images/a.png\r\n"))
    if with_yaml:
        write(tmp_path / "data.yaml", encoded("names: [größe, 猫]\r\ntrain: train.txt\r\n"))
    else:
        write(tmp_path / "classes.txt", encoded("größe\r\n猫\r\n"))
    index = opened(tmp_path)
    assert index.category_names == ["größe", "猫"]
    assert objects_of(index) == {"images/a.png": [("猫", BOX)]}
    assert kinds_of(index) == {"label_encoding": 1}


def test_labels_without_an_image_are_counted(tmp_path: Path) -> None:
    yolo_set(tmp_path)
    write(tmp_path / "train" / "labels" / "gone.txt", LINE)
    write(tmp_path / "train" / "labels" / "classes.txt", "cat\ndog")
    write(tmp_path / "data.yaml", "train: train/images\nval: valid/images\nnames: [cat, dog]")
    assert kinds_of(opened(tmp_path)) == {"label_file_without_image": 1}


def test_a_data_yaml_without_its_training_images_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "data.yaml", "train: ../train/images\nval: ../valid/images\nnames: [cat]")
    with pytest.raises(
        UserError, match=r"data\.yaml: its `train`, '\.\./train/images', is not there.*data\.train\.ann"
    ):
        opened(tmp_path)


def test_images_without_any_label_are_refused(tmp_path: Path) -> None:
    draw(tmp_path / "train" / "images" / "a.jpg")
    write(tmp_path / "data.yaml", "train: train/images\nnames: [cat]")
    with pytest.raises(UserError, match=r"none of the 1 images has a label file; looked for a\.txt beside the image"):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("yaml", "said"),
    [
        ("train: x\nnames: [a, b", "not readable as YAML"),
        ("train: x\nnames:\n  cat: 0\n", "the keys of `names` must be the classes' numbers"),
        ("train: x\nnames: {99999999999999999999: cat}\n", "`names` must be a list of texts, or a mapping of numbers"),
        ("train: x\nnames:\n  - {a: b}\n", "`names` must be a list of texts"),
    ],
)
def test_a_data_yaml_that_cannot_be_read_is_refused(yaml: str, said: str, tmp_path: Path) -> None:
    write(tmp_path / "data.yaml", yaml)
    with pytest.raises(UserError, match=said):
        opened(tmp_path)


def test_class_names_are_texts_whatever_yaml_makes_of_them(tmp_path: Path) -> None:
    draw(tmp_path / "a.png")
    write(tmp_path / "a.txt", LINE)
    write(tmp_path / "data.yaml", "train: .\nnames: [no, 1e3, '']")
    assert opened(tmp_path).category_names == ["no", "1e3", "2"]


def test_a_real_export(shared_data: Path) -> None:
    """The figures were counted with wc and by hand."""
    train, test = opened(shared_data / "cells_yolo"), opened(shared_data / "cells_yolo", "test")
    assert (len(train), len(test)) == (32, 3)
    lines = sum(len(path.read_text().split("\n")) for path in (shared_data / "cells_yolo/train/labels").glob("*.txt"))
    assert len(train.boxes) == lines
    assert set(kinds_of(train)) == {"folder_elsewhere"}
