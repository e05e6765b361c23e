"""eval_coco.py: the published reference, and no figures of anything else than was asked for."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import detection.experiment.evaluate
from backbones.common.errors import UserError
from detection.data.proposal_writer import ProposalWriter
from detection.report.drawing_file import save_drawing
from tests.detection.pipeline import REPOSITORY, tool
from tests.tools.test_propose import with_config


@pytest.mark.parametrize("backend", [[], ["--backend", "arrays"], ["--backend", "pycocotools"]], ids=" ".join)
def test_it_prints_the_published_reference(shared_data: Path, backend: list[str]) -> None:
    folder = shared_data / "coco_eval_reference"
    results = folder / "instances_val2014_fakebbox100_results.json"
    said = tool(
        "eval_coco", "--results", results, "--annotations", folder / "instances_val2014_100.json", *backend
    ).stdout
    expected = (folder / "expected.txt").read_text().split("type=bbox")[1].split("type=keypoints")[0]
    lines = [line for line in expected.splitlines() if " Average " in line]
    assert len(lines) == 12
    assert said.splitlines()[:12] == lines


@pytest.mark.parametrize(
    ("command", "idle"),
    [
        ("--weights {networks}/detector.pt --annotations mine.json", "--annotations"),
        ("--weights {networks}/rpn.pt --annotations mine.json", "--annotations"),
        ("--proposals x.st --annotations mine.json", "--annotations"),
        ("--results r.json --annotations a.json --output there", "--output"),
        ("--weights {networks}/rpn.pt --max-detections 300", "--max-detections"),
        ("--results r.json --annotations a.json --data there", "--data"),
        ("--results r.json --annotations a.json --images 0", "--images"),
        ("--weights {networks}/rpn.pt --no-ground-truth-proposals", "--no-ground-truth-proposals"),
        ("--results r.json --annotations a.json data.test.limit=3", "data.test.limit=3"),
        ("--weights {networks}/rpn.pt --images 3 --backend arrays", "--images, --backend"),
        ("--weights {networks}/rpn.pt rpn.test_proposals.after_nms=9", "rpn.test_proposals.after_nms=9"),
    ],
)
def test_what_would_change_nothing_is_refused(networks: Path, command: str, idle: str) -> None:
    result = tool("eval_coco", *command.format(networks=networks).split(), check=False)
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr.startswith(f"error: {idle} would change nothing about ")


def test_a_number_of_images_below_none_is_refused(networks: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import tools.eval_coco

    with pytest.raises(SystemExit, match="2"):
        tools.eval_coco.main(["--weights", str(networks / "detector.pt"), "--images", "-1"])
    assert "--images: a number from 0 on, not '-1'" in capsys.readouterr().err


def test_a_results_file_with_more_objects_than_coco_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    boxes = [[10 * i, 0, 8, 8] for i in range(150)]
    common = {"image_id": 1, "category_id": 1}
    annotations = [{"id": i + 1, "bbox": box, "area": 64, "iscrowd": 0, **common} for i, box in enumerate(boxes)]
    content = {"images": [{"id": 1}], "categories": [{"id": 1, "name": "cell"}], "annotations": annotations}
    (tmp_path / "cells.json").write_text(json.dumps(content))
    (tmp_path / "results.json").write_text(json.dumps([{"bbox": box, "score": 0.5, **common} for box in boxes]))
    command = ("eval_coco", "--results", tmp_path / "results.json", "--annotations", tmp_path / "cells.json")
    said = tool(*command).stdout
    assert "maxDets=100 ] = 0.663" in said.splitlines()[0]
    assert "150 of category id 1), where the 100 best detections of a class are looked at" in said
    said = tool(*command, "--max-detections", 150).stdout
    assert "maxDets=150 ] = 1.000" in said.splitlines()[0]
    assert "note" not in said
    import tools.eval_coco

    with pytest.raises(SystemExit, match="2"):
        tools.eval_coco.main([str(part) for part in (*command[1:], "--max-detections", 10)])
    assert "--max-detections: a number from 11 to 1000000, not '10'" in capsys.readouterr().err


def test_of_a_folder_only_its_own_images_are_removed(networks: Path, tmp_path: Path) -> None:
    images = tmp_path / "mine" / "images"
    images.mkdir(parents=True)
    others = [images / name for name in ("holiday.txt", "000000000001.jpg", "evaluated_party.jpg")]
    for file in others:
        file.write_text("precious")
    save_drawing(images / "evaluated_000000000077.jpg", np.zeros((9, 9, 3), np.uint8))  # left by another evaluation
    tool("eval_coco", "--weights", networks / "detector.pt", "--output", tmp_path / "mine", "--images", 2)
    assert [file.read_text() for file in others] == ["precious"] * 3
    drawn = sorted(path.name for path in images.iterdir() if path not in others)
    assert drawn == ["evaluated_000000000001.jpg", "evaluated_000000000004.jpg"]
    report = (tmp_path / "mine" / "report.html").read_text()
    assert all(f"images/{name}" in report for name in drawn)
    assert report.count("<figure data-kinds=") == 2
    assert report.count("<img ") == report.count('<img src="data:image/jpeg;base64,')  # the page needs no file
    assert "href" not in report


@pytest.mark.parametrize(
    "name",
    ["results.json", "figures.json", "report.html", "dataset.json", "images/evaluated_000000000077.jpg", "a recall's"],
)
def test_no_file_is_overwritten_that_no_evaluation_wrote(name: str, networks: Path, tmp_path: Path) -> None:
    weights, recall = networks / "detector.pt", name == "a recall's"
    if recall:  # in a folder that an evaluation did write
        tool("eval_coco", "--weights", weights, "--output", tmp_path, "--images", 1)
        weights, name = networks / "rpn.pt", "proposals/report.html"
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text('{"precious": 1}')
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file() and path.suffix != ".lock"}
    refused = tool("eval_coco", "--weights", weights, "--output", tmp_path, check=False)
    assert refused.returncode == 1
    said = (
        "exists already, and has no mark"
        if name.endswith(".jpg")
        else "would be overwritten, and no record says that an evaluation wrote"
    )
    assert f"{tmp_path / name}: {said}" in refused.stderr
    assert "(--output)" in refused.stderr
    now = {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file() and path.suffix != ".lock"}
    assert now == before


def test_a_folder_that_an_earlier_version_evaluated_into_is_taken(networks: Path, tmp_path: Path) -> None:
    for earlier in (False, True):
        if earlier:
            content = json.loads((tmp_path / "dataset.json").read_text())
            assert "results.json" in content.pop("files")
            (tmp_path / "dataset.json").write_text(json.dumps(content))
        tool("eval_coco", "--weights", networks / "detector.pt", "--output", tmp_path, "--images", 1)


def test_a_store_is_measured_up_to_what_it_may_hold(networks: Path, tmp_path: Path) -> None:
    store = tmp_path / "test.st"
    for most, limits in ((20, [20]), (150, [100, 150])):
        tool(
            "propose", "--weights", networks / "rpn.pt", "--split", "test", "--store", store,
            f"rpn.test_proposals.after_nms={most}",
        )  # fmt: skip
        result = tool("eval_coco", "--proposals", store, "--output", tmp_path / "out")
        assert result.stdout.splitlines()[0].split() == ["proposals", "an", "image", "objects", *map(str, limits)]
        assert f"holds at most {most} proposals an image" in result.stderr
        figures = json.loads((tmp_path / "out" / "proposal_recall.json").read_text())["figures"]
        assert [name for name in figures if name.startswith("recall50")] == [f"recall50_{limit}" for limit in limits]
    result = tool("eval_coco", "--proposals", store, "rpn.test_proposals.after_nms=9", check=False)
    assert "rpn.test_proposals.after_nms=9 would change nothing about the recall of stored proposals" in result.stderr


def test_without_objects_it_says_what_the_detections_are_good_for(networks: Path, data: Path, tmp_path: Path) -> None:
    content = json.loads((data / "annotations" / "instances_test.json").read_text())
    content["annotations"] = []
    (tmp_path / "test.json").write_text(json.dumps(content))
    said = tool(
        "eval_coco", "--weights", networks / "detector.pt", "--output", tmp_path / "out",
        f"data.test.annotations={tmp_path}/test.json", f"data.test.images={data}/test",
    ).stdout  # fmt: skip
    assert "note: the annotations list no objects to measure by" in said
    assert "results.json holds the detections as COCO's evaluation server takes them" in said
    said = tool("eval_coco", "--weights", networks / "detector.pt", "--output", tmp_path / "two").stdout
    assert "no objects" not in said


def test_a_store_of_another_program_is_refused_in_a_line(tmp_path: Path) -> None:
    writer = ProposalWriter(tmp_path / "theirs.st", {"dataset_fingerprint": "f" * 64}, [1])
    writer.add(1, np.zeros((1, 4), np.float32), np.ones(1, np.float32))
    writer.finish()
    said = tool("eval_coco", "--proposals", tmp_path / "theirs.st", check=False).stderr
    assert said.startswith("error: ")
    assert "theirs.st: names no data set: tools/propose.py did not write it" in said
    assert said.count("\n") == 1


def test_a_second_data_set_does_not_take_the_first_one_s_place(networks: Path, data: Path, tmp_path: Path) -> None:
    detector = tmp_path / "detector.pt"
    detector.write_bytes((networks / "detector.pt").read_bytes())
    tool("eval_coco", "--weights", detector, "--images", 1)
    before = {path: path.read_bytes() for path in (tmp_path / "evaluation").rglob("*") if path.is_file()}
    other = (f"data.test.annotations={data}/annotations/instances_train.json", f"data.test.images={data}/train")
    refused = tool("eval_coco", "--weights", detector, *other, check=False)
    assert refused.returncode == 1
    assert "holds the evaluation of another data set" in refused.stderr
    assert "instances_test.json" in refused.stderr
    assert "--output" in refused.stderr
    assert {path: path.read_bytes() for path in (tmp_path / "evaluation").rglob("*") if path.is_file()} == before
    tool("eval_coco", "--weights", detector, *other, "--output", tmp_path / "train", "--images", 1)
    report = (tmp_path / "train/report.html").read_text()
    assert "miniature: instances_train" in report  # not "test", as the split is called whose files were replaced
    assert "miniature: instances_test" in (tmp_path / "evaluation/report.html").read_text()
    tool("eval_coco", "--weights", detector, "--images", 1)  # its own once more


def test_a_detector_trained_on_a_demo_asks_for_no_train_split(
    networks: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On other images, whose paths are relative to where the command is typed."""
    file = with_config(
        networks / "detector.pt",
        tmp_path / "detector.pt",
        lambda config: config["data"].update(layout="demo", root="nowhere"),
    )
    monkeypatch.chdir(data)
    common = ("eval_coco", "--weights", file, "--images", 0, "data.test.annotations=annotations/instances_test.json")
    by_demo = tool(*common, "data.test.images=test").stdout
    named = tool(*common, "data.test.images=test", "data.layout=files", "data.train={}").stdout
    assert by_demo == named
    assert "Average Precision" in by_demo
    missing = tool(*common, "data.test.images=null", "data.layout=files", check=False)
    assert "data.test.annotations without data.test.images" in missing.stderr


def test_the_option_s_earlier_name_is_taken(networks: Path, tmp_path: Path) -> None:
    tool("eval_coco", "--weights", networks / "detector.pt", "--output", tmp_path, "--pictures", 1)
    assert len(list((tmp_path / "images").iterdir())) == 1
    assert (
        "--pictures"
        not in subprocess.run(
            [sys.executable, "tools/eval_coco.py", "--help"], cwd=REPOSITORY, capture_output=True, text=True, check=True
        ).stdout
    )


MEASURED = {"results.json", "ground_truth.json"}
ANALYSED = {*MEASURED, "figures.json", "analysis.json", "thresholds.json", "label_suggestions.json", "images"}


@pytest.mark.parametrize(
    ("step", "left", "said"),
    [
        ("write_ground_truth", {"results.json"}, "tools/eval_coco.py --results {out}/results.json --annotations"),
        ("average_precision", MEASURED, "tools/eval_coco.py --results {out}/results.json measures them"),
        ("analyse", {*MEASURED, "figures.json"}, "their figures are in {out}/figures.json"),
        ("write_report", ANALYSED, "their figures are in {out}/figures.json"),
    ],
)
def test_what_was_computed_is_written_before_anything_that_could_fail_looks_at_it(
    step: str, left: set[str], said: str, networks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise UserError("something is wrong")

    monkeypatch.setattr(detection.experiment.evaluate, step, fail)
    out = tmp_path / "out"
    result = tool("eval_coco", "--weights", networks / "detector.pt", "--output", out, check=False)
    assert result.returncode == 1
    assert f"the detections are written: {out}/results.json; {said.format(out=out)}" in result.stderr
    assert result.stderr.endswith("error: something is wrong\n")
    assert {path.name for path in out.iterdir() if not path.name.endswith(".lock")} == {*left, "dataset.json"}
    assert len(json.loads((out / "results.json").read_text())) > 0
    if "figures.json" in left:
        assert "AP" in json.loads((out / "figures.json").read_text())["figures"]


def test_results_are_measured_by_what_the_evaluation_measured(networks: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    common = ("eval_coco", "--weights", networks / "detector.pt", "--output", out, "--images", 0)
    expected = tool(*common, "data.test.limit=2").stdout
    content = json.loads((out / "ground_truth.json").read_text())
    assert len(content["images"]) == 2
    assert set(content["images"][0]) == {"id", "file_name", "height", "width"}
    found = tool("eval_coco", "--results", out / "results.json").stdout
    assert found.splitlines()[:12] == expected.splitlines()[:12]
    whole = ("--annotations", data / "annotations/instances_test.json")
    refused = tool("eval_coco", "--results", out / "results.json", *whole, check=False)
    assert "instances_test.json: lists other images than" in refused.stderr
    assert "leave --annotations out" in refused.stderr
    (tmp_path / "theirs.json").write_bytes((out / "results.json").read_bytes())
    assert tool("eval_coco", "--results", tmp_path / "theirs.json", *whole).stdout != found  # of all images, as COCO
    unnamed = tool("eval_coco", "--results", tmp_path / "theirs.json", check=False).stderr
    assert "no evaluation recorded its ground truth; name the annotation file (--annotations)" in unnamed
    refused = tool(*common, check=False)
    assert "holds the evaluation of other images of" in refused.stderr
    assert "(their number: 2, ids " in refused.stderr


def test_other_images_are_measured_after_a_training_on_a_folder_in_one_piece(
    networks: Path, data: Path, tmp_path: Path
) -> None:
    """As documented, by named files or another folder, in another format, whole."""
    for name in ("mine", "other"):
        shutil.copytree(data / "test", tmp_path / name)
        shutil.copy(data / "annotations/instances_test.json", tmp_path / name / "labels.json")
    tool("convert_dataset", "--data", data, "--to", "yolo", "--output", tmp_path / "yolo")
    one_piece = {"root": str(tmp_path / "mine"), "layout": "auto", "format": "coco", "split": {"test": 0.5}}
    file = with_config(
        networks / "detector.pt",
        tmp_path / "detector.pt",
        lambda config: config["data"].update(train={}, test={}, **one_piece),
    )

    def measured(name: str, *arguments: object) -> tuple[int, str]:
        tool("eval_coco", "--weights", file, "--output", tmp_path / name, "--images", 0, *arguments)
        figures = json.loads((tmp_path / name / "figures.json").read_text())
        return figures["images"], (tmp_path / name / "report.html").read_text()

    assert measured("own")[0] == 2
    named = [f"data.test.annotations={data}/annotations/instances_test.json", f"data.test.images={data}/test"]
    images, page = measured("named", *named)
    assert images == 4
    assert "2 (equal files)" in page  # those that were trained on, not also those that were set aside
    images, page = measured("whole", "--data", tmp_path / "other")
    assert images == 4
    assert "not compared: the training images are not at hand" in page
    assert measured("moved", "--data", tmp_path / "other", "data.split.test=0.5")[0] == 2
    assert measured("format", "--data", tmp_path / "yolo")[0] == 4
    assert detection.evaluate(file, tmp_path / "other", device="cpu").images == 4


def test_stored_proposals_of_a_folder_in_one_piece_are_measured_where_it_is_now(
    networks: Path, data: Path, tmp_path: Path
) -> None:
    shutil.copytree(data / "test", tmp_path / "mine")
    shutil.copy(data / "annotations/instances_test.json", tmp_path / "mine/labels.json")
    one_piece = {"root": str(tmp_path / "mine"), "layout": "auto", "split": {"test": 0.5}}
    file = with_config(
        networks / "rpn.pt", tmp_path / "rpn.pt", lambda config: config["data"].update(train={}, test={}, **one_piece)
    )
    tool("propose", "--weights", file, "--split", "test", "--store", tmp_path / "test.st")
    (tmp_path / "mine").rename(tmp_path / "moved")
    tool("eval_coco", "--proposals", tmp_path / "test.st", "--data", tmp_path / "moved")


def test_annotations_are_judged_before_anything_is_detected(
    networks: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = json.loads((data / "annotations" / "instances_test.json").read_text())
    content["annotations"][0]["iscrowd"] = "maybe"
    (tmp_path / "test.json").write_text(json.dumps(content))
    monkeypatch.setattr(detection.experiment.evaluate, "detect", lambda *_: pytest.fail("it began to detect"))
    result = tool(
        "eval_coco", "--weights", networks / "detector.pt", "--output", tmp_path / "out",
        f"data.test.annotations={tmp_path}/test.json", f"data.test.images={data}/test", check=False,
    )  # fmt: skip
    assert result.returncode == 1
    assert "annotations whose `iscrowd` is neither 0 nor 1" in result.stderr


def test_a_data_set_with_other_ids_or_another_order_gives_the_same_figures(
    networks: Path, data: Path, tmp_path: Path
) -> None:
    content = json.loads((data / "annotations" / "instances_test.json").read_text())
    for category in content["categories"]:
        category["id"] = 50 - category["id"]
    for annotation in content["annotations"]:
        annotation["category_id"] = 50 - annotation["category_id"]
    (tmp_path / "test.json").write_text(json.dumps(content))
    other = (f"data.test.annotations={tmp_path}/test.json", f"data.test.images={data}/test")
    expected = tool("eval_coco", "--weights", networks / "detector.pt", "--output", tmp_path / "one")
    result = tool("eval_coco", "--weights", networks / "detector.pt", "--output", tmp_path / "two", *other)
    assert "its classes are matched by name with those of the detector" in result.stderr
    assert "matched by name" not in expected.stderr
    assert result.stdout.splitlines()[:12] == expected.stdout.splitlines()[:12]
    figures = [json.loads((tmp_path / name / "figures.json").read_text()) for name in ("one", "two")]
    assert figures[0]["figures"]["AP50"] > 0
    by_name = [{row.pop("name"): {**row, "category_id": 0} for row in one["classes"]} for one in figures]
    assert by_name[0] == by_name[1]
    ids = [{row["category_id"] for row in json.loads((tmp_path / name / "results.json").read_text())}
           for name in ("one", "two")]  # fmt: skip
    assert ids[1] == {50 - number for number in ids[0]}
    content["categories"][0]["name"] = "something else"
    (tmp_path / "test.json").write_text(json.dumps(content))
    refused = tool("eval_coco", "--weights", networks / "detector.pt", "--output", tmp_path / "3", *other, check=False)
    assert refused.returncode == 1
    assert "its classes are not those of the detector: only the former lists 'something else'" in refused.stderr


def test_thousands_of_detections_are_counted_where_they_are_configured(networks: Path, tmp_path: Path) -> None:
    command = ("eval_coco", "--weights", networks / "detector.pt", "--output", tmp_path / "out", "--images", "0")
    changes = ("fast_rcnn.detections=1000", "fast_rcnn.min_score=0.0", "fast_rcnn.nms_iou=1.0")
    said = tool(*command, "--no-ground-truth-proposals", *changes).stdout
    assert "maxDets=1000 ]" in said.splitlines()[0]
    assert "up to 1000 detections of a class and image are counted, as fast_rcnn.detections" in said
    figures = json.loads((tmp_path / "out" / "figures.json").read_text())
    assert "AR_1000" in figures["figures"]
    assert figures["detections"] > 100 * figures["images"]
    said = tool(*command, "--no-ground-truth-proposals", "--max-detections", 100, *changes).stdout
    assert "maxDets=100 ]" in said.splitlines()[0]
