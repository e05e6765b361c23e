"""Looking at images: no file of the user's is changed, and whatever is found is written, however it ends."""

from __future__ import annotations

import json
import threading
import unicodedata
from pathlib import Path

import cv2
import numpy as np
import pytest

from backbones.common.errors import UserError
from backbones.common.files import CannotWrite
from detection import predict as module
from detection.data.augmentation import Augmentation
from detection.data.image_search import find_images
from detection.data.images import read_image
from detection.detector import Detector
from detection.experiment.model_files import Categories
from detection.networks.faster_rcnn import FasterRCNN
from detection.predict import predict
from detection.tiling import detect_in_tiles
from tests.detection.data.oriented_images import ORIENTED_KINDS, save_oriented, upright
from tests.detection.tiny_networks import tiny_fast_rcnn, tiny_rpn


@pytest.fixture(scope="module")
def detector() -> Detector:
    network = FasterRCNN(tiny_rpn(), tiny_fast_rcnn(), before_nms=200, proposals=30, min_side=8.0, min_score=0.1)
    return Detector(network, Categories((3, 7, 9), ("cat", "dog", "owl")), Augmentation((96,), 128))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for name in ("a.jpg", "b.png", "c.jpg"):
        cv2.imwrite(str(folder / name), generator.integers(0, 256, (50, 60, 3), dtype=np.uint8))
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("case", ["into the folder itself", "by a link", "a file named", "of another run's drawing"])
def test_no_image_that_is_looked_at_is_overwritten(case: str, detector: Detector, images: Path, tmp_path: Path) -> None:
    paths, output = [images], images
    if case == "by a link":
        output = tmp_path / "link"
        output.symlink_to(images)
    elif case == "a file named":
        paths = [images / "c.jpg"]
    elif case == "of another run's drawing":
        output = tmp_path / "drawn"
        predict(detector, [images], output)
        paths = [output]
    before = contents(tmp_path)
    with pytest.raises(UserError, match=r"[ac]\.jpg: is an input image, and would be overwritten"):
        predict(detector, paths, output)
    assert contents(tmp_path) == before


def test_no_other_image_is_overwritten(detector: Detector, images: Path, tmp_path: Path) -> None:
    output = tmp_path / "mine"
    output.mkdir()
    (output / "b.jpg").write_text("precious")
    before = contents(tmp_path)
    with pytest.raises(UserError, match=r"b\.jpg: exists already, and no detections\.json beside it"):
        predict(detector, [images], output)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("other", ["put there", "changed", "of an earlier version"])
def test_no_image_among_earlier_drawings_is_overwritten(
    other: str, detector: Detector, images: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    predict(detector, [images / "a.jpg", images / "b.png"], output)
    if other == "put there":
        (output / "c.jpg").write_bytes((images / "a.jpg").read_bytes())
    elif other == "changed":  # in an editor
        drawn = cv2.imread(str(output / "b.jpg"))
        assert drawn is not None
        cv2.imwrite(str(output / "b.jpg"), 255 - drawn)
    else:  # without a mark, and not named in its list
        (output / "b.jpg").write_bytes(without_comment((output / "b.jpg").read_bytes()))
        entries = json.loads((output / "detections.json").read_text())
        for entry in entries:
            del entry["drawing"]
        (output / "detections.json").write_text(json.dumps(entries))
    before = contents(tmp_path)
    with pytest.raises(UserError, match=r"[bc]\.jpg: exists already, and has no mark of this tool or was .*--output"):
        predict(detector, [images], output)
    assert contents(tmp_path) == before
    assert predict(detector, [images / "a.jpg"], output).images == 1


def without_comment(jpeg: bytes) -> bytes:
    start = jpeg.index(b"\xff\xfe")
    return jpeg[:start] + jpeg[start + 2 + int.from_bytes(jpeg[start + 2 : start + 4], "big") :]


@pytest.mark.parametrize("content", ['[{"image_id": 1, "category_id": 1}]', '{"images": []}', "precious", ""])
def test_no_other_list_is_overwritten(content: str, detector: Detector, images: Path, tmp_path: Path) -> None:
    output = tmp_path / "mine"
    output.mkdir()
    (output / "detections.json").write_text(content)
    with pytest.raises(UserError, match=r"detections\.json: exists already, and is not a list of this tool"):
        predict(detector, [images], output)
    assert [path.name for path in output.iterdir()] == ["detections.json"]
    assert (output / "detections.json").read_text() == content


def test_an_entry_names_its_drawing(detector: Detector, images: Path, tmp_path: Path) -> None:
    (images / "sub").mkdir()
    (images / "sub" / "a.jpg").write_bytes((images / "a.jpg").read_bytes())
    (images / "broken.jpg").write_text("no image")
    predict(detector, [images], tmp_path / "out")
    entries = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert [entry.get("drawing") for entry in entries] == ["a.jpg", "b.jpg", None, "c.jpg", "a_2.jpg"]


def test_a_call_after_one_that_was_killed_takes_the_folder(
    detector: Detector, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = module._write_listing

    def write_and_be_killed(path: Path, entries: list[dict[str, object]], rest: list[Path]) -> None:
        if entries:
            raise KeyboardInterrupt  # as SIGKILL: no list is written at the end
        write(path, entries, rest)

    monkeypatch.setattr(module, "_write_listing", write_and_be_killed)
    with pytest.raises(KeyboardInterrupt):
        predict(detector, [images], tmp_path / "out")
    assert len(list((tmp_path / "out").glob("*.jpg"))) == 3
    monkeypatch.undo()
    predict(detector, [images], tmp_path / "out")
    assert all("drawing" in entry for entry in json.loads((tmp_path / "out" / "detections.json").read_text()))


def test_a_link_that_leads_nowhere_counts_as_unreadable(detector: Detector, images: Path, tmp_path: Path) -> None:
    (images / "d.jpg").symlink_to(tmp_path / "absent")
    summary = predict(detector, [images], tmp_path / "out")
    assert (summary.images, summary.unreadable) == (4, 1)


def test_drawings_of_an_earlier_call_are_told_of(
    detector: Detector, images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    predict(detector, [images], tmp_path / "out")
    assert "images there" not in caplog.text
    predict(detector, [images / "a.jpg"], tmp_path / "out")
    assert "2 images there are not of this call, and not in detections.json" in caplog.text


def test_once_more_is_the_same_and_looks_at_no_drawings(detector: Detector, images: Path, tmp_path: Path) -> None:
    output = tmp_path / "predictions"
    for paths, count in (([tmp_path], 3), ([tmp_path], 3), ([images / "a.jpg"], 1), ([tmp_path], 3)):
        assert predict(detector, paths, output).images == count
    assert {path.name for path in output.iterdir()} == {"a.jpg", "b.jpg", "c.jpg", "detections.json"}
    assert len(find_images([output], leave_out=output)) == 3  # asked for by name


@pytest.mark.parametrize("end", [KeyboardInterrupt, CannotWrite])
def test_what_was_found_is_written_however_it_ends(
    end: type[BaseException],
    detector: Detector,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    predict(detector, [images], tmp_path / "whole")
    whole = json.loads((tmp_path / "whole" / "detections.json").read_text())
    assert sum(len(entry["detections"]) for entry in whole) > 0
    save = module.save_drawing

    def save_and_end(path: Path, image: np.ndarray) -> None:
        if path.name == "b.jpg":
            raise end("the disk is full")
        save(path, image)

    monkeypatch.setattr(module, "save_drawing", save_and_end)
    output = tmp_path / "out"
    with pytest.raises(end):
        predict(detector, [images], output)
    assert "detections.json has the results of 2 images; 1 were not processed" in caplog.text
    entries = json.loads((output / "detections.json").read_text())
    not_processed = {"file": str(images / "c.jpg"), "error": "not processed: the tool was stopped before"}
    assert [whole[number].pop("drawing") for number in (1, 2)] == ["b.jpg", "c.jpg"]
    assert entries == [*whole[:2], not_processed]
    # and the next run takes the folder for its own
    monkeypatch.undo()
    predict(detector, [images], output)
    assert contents(output) == contents(tmp_path / "whole")


def test_stopped_before_the_first_image_an_earlier_listing_stays(
    detector: Detector, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict(detector, [images], tmp_path / "out")
    before = contents(tmp_path)

    def stop(path: Path) -> np.ndarray:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "read_image", stop)
    with pytest.raises(KeyboardInterrupt):
        predict(detector, [images], tmp_path / "out")
    assert contents(tmp_path) == before


@pytest.mark.parametrize("kind", ORIENTED_KINDS)
def test_boxes_are_those_of_the_upright_image(kind: str, detector: Detector, tmp_path: Path) -> None:
    stored = cv2.resize(np.random.default_rng(3).integers(0, 256, (6, 9, 3), dtype=np.uint8), (90, 60))
    folder = tmp_path / "images"
    folder.mkdir()
    for orientation in range(1, 9):
        save_oriented(folder / f"{orientation}.{kind}", stored, orientation)
    predict(detector, [folder], tmp_path / "out")
    entries = json.loads((tmp_path / "out" / "detections.json").read_text())
    plain = read_image(folder / f"1.{kind}")
    for orientation, entry in enumerate(entries, start=1):
        seen = upright(plain, orientation)
        assert (entry["height"], entry["width"]) == seen.shape[:2]
        expected = detector(np.ascontiguousarray(seen))
        assert len(expected) > 0
        np.testing.assert_allclose([one["box"] for one in entry["detections"]], expected.boxes, atol=0.01)
        np.testing.assert_allclose([one["score"] for one in entry["detections"]], expected.scores, atol=1e-5)
        drawn = read_image(tmp_path / "out" / f"{orientation}.jpg")
        assert drawn.shape[0] * seen.shape[1] == drawn.shape[1] * seen.shape[0]


def test_of_two_into_one_folder_the_second_is_refused(detector: Detector, images: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    inside, go_on = threading.Event(), threading.Event()
    real = module.read_image

    def wait_and_read(path: Path) -> np.ndarray:
        inside.set()
        assert go_on.wait(60)
        return real(path)

    module.read_image = wait_and_read  # type: ignore[attr-defined]
    try:
        first = threading.Thread(target=predict, args=(detector, [images], output))
        first.start()
        assert inside.wait(60)
        before = contents(tmp_path)
        with pytest.raises(UserError, match=r"out: another process is writing its detections there; wait for it"):
            predict(detector, [images / "a.jpg"], output)
        assert contents(tmp_path) == before
    finally:
        go_on.set()
        first.join()
        module.read_image = real  # type: ignore[attr-defined]
    assert len(json.loads((output / "detections.json").read_text())) == 3
    assert predict(detector, [images / "a.jpg"], output).images == 1  # and now it is free
    assert not [path for path in output.iterdir() if path.name.startswith(".")]


def test_a_lock_that_a_killed_one_left_does_not_matter(detector: Detector, images: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".predict.lock").write_text("")
    assert predict(detector, [images], tmp_path / "out").images == 3
    assert not (tmp_path / "out" / ".predict.lock").exists()


def test_names_with_control_characters_are_escaped(
    detector: Detector, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    name = "a\x1b[2J\x9b\u202eb\n.png"
    (folder / name).write_bytes(b"nothing")
    summary = predict(detector, [folder], tmp_path / "out")
    assert summary.unreadable == 1
    assert r"a\x1b[2J\x9b\u202eb\n.png: is no image" in caplog.text
    text = (tmp_path / "out" / "detections.json").read_text(encoding="utf-8")
    assert text.replace("\n", "").isprintable()
    assert json.loads(text)[0]["file"] == str(folder / name)


def test_names_that_some_disks_take_for_one_are_kept_apart(detector: Detector, images: Path, tmp_path: Path) -> None:
    pixels = (images / "a.jpg").read_bytes()
    names = ["é.jpg", unicodedata.normalize("NFD", "é.jpg"), "É.jpg", "STRASSE.jpg", "straße.jpg"]
    for number, name in enumerate(names):
        (tmp_path / f"{number}").mkdir()
        (tmp_path / f"{number}" / name).write_bytes(pixels)
    predict(detector, [tmp_path / f"{number}" / name for number, name in enumerate(names)], tmp_path / "out")
    written = [path.name for path in (tmp_path / "out").glob("*.jpg")]
    assert len({unicodedata.normalize("NFC", name).casefold() for name in written}) == len(written) == 5


@pytest.mark.parametrize("score", [5, -0.1, float("nan")])
def test_a_least_score_that_none_can_have_is_refused(
    score: float, detector: Detector, images: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"the least score to be drawn is .*; scores lie in 0–1"):
        predict(detector, [images], tmp_path / "out", min_score=score)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_is_named(detector: Detector, images: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CannotWrite, match=r"file/out cannot be written: Not a directory"):
        predict(detector, [images], tmp_path / "file" / "out")


def test_tiles_find_what_the_detector_finds_in_each(detector: Detector, images: Path, tmp_path: Path) -> None:
    predict(detector, [images], tmp_path / "found", tile=40, overlap=0.25)
    entries = json.loads((tmp_path / "found" / "detections.json").read_text(encoding="utf-8"))
    for entry in entries:
        expected = detect_in_tiles(detector, read_image(Path(entry["file"])), 40, 0.25)
        assert [one["score"] for one in entry["detections"]] == [round(float(score), 6) for score in expected.scores]
    assert sum(len(entry["detections"]) for entry in entries)


def test_tiles_that_cannot_be_made_leave_no_folder(detector: Detector, images: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a tile of 4 pixels"):
        predict(detector, [images], tmp_path / "found", tile=4)
    assert not (tmp_path / "found").exists()
