"""The stages and tools, end to end, as a user runs them."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from backbones.common.errors import UserError
from detection import Detector
from detection.data.demo import make_demo_dataset
from detection.data.proposal_store import ProposalStore
from detection.evaluation.average_precision import average_precision
from detection.experiment.ground_truth_loading import load_ground_truth
from detection.experiment.model_files import load_detector
from detection.experiment.results_file import read_results
from detection.report.page import read_curves
from tests.detection.pipeline import (
    arguments_for,
    assert_same_weights,
    kill_before_second_checkpoint,
    start,
    tool,
    torchrun,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    make_demo_dataset(folder, train=12, test=6)
    return folder


def test_the_three_commands_leave_a_detector_and_its_figures(run: Path, data: Path) -> None:
    said = tool("eval_coco", "--weights", run / "detector.pt").stdout
    assert "Average Precision (AP) @[ IoU=0.50:0.95 | area=   all | maxDets=100 ]" in said
    results = run / "evaluation" / "results.json"
    again = tool("eval_coco", "--results", results, "--annotations", data / "annotations/instances_test.json").stdout
    assert said.startswith(again.rstrip().split("\nnote")[0])
    figures = json.loads((run / "evaluation" / "figures.json").read_text())["figures"]
    truth = load_ground_truth(data / "annotations/instances_test.json")
    assert figures == average_precision(truth, read_results(results)).figures
    report = (run / "evaluation" / "report.html").read_text()
    images = list((run / "evaluation" / "images").iterdir())
    assert len(images) == 6
    assert all(image.name in report for image in images)
    assert report.count("<figure data-kinds=") == 6
    assert report.count("<img ") == report.count('<img src="data:image/jpeg;base64,')


def test_the_run_s_folder_says_what_was_run_and_with_which_result(run: Path, data: Path) -> None:
    card = run / "README.md"
    tool("eval_coco", "--weights", run / "detector.pt", "--images", 0)
    text = card.read_text(encoding="utf-8")
    figures = json.loads((run / "evaluation" / "figures.json").read_text())["figures"]
    assert f"| {figures['AP']:.3f} | {figures['AP50']:.3f} |" in text
    assert "| training images | 12, instances_train.json | 12, instances_train.json |" in text
    assert "| steps | 6 | 6 |" in text
    assert "none: from scratch" in text
    assert "training images of the RPN: " in text
    assert "python tools/eval_coco.py --weights detector.pt" in text
    provenance = torch.load(run / "detector.pt", weights_only=True)["provenance"]
    for network in ("rpn", "fastrcnn"):
        assert provenance[network]["data"]["images"] == 12
        assert provenance[network]["data"]["annotations"] == "instances_train.json"
    card.write_text("my own notes")
    tool("eval_coco", "--weights", run / "detector.pt", "--images", 0)
    assert card.read_text() == "my own notes"


def test_a_detector_file_needs_nothing_else(run: Path, data: Path, tmp_path: Path) -> None:
    alone = tmp_path / "moved.pt"
    alone.write_bytes((run / "detector.pt").read_bytes())
    content = torch.load(alone, weights_only=True)
    assert content["kind"] == "detector"
    assert len(content["categories"]["names"]) == 6
    assert content["provenance"]["rpn"]["steps"] == content["provenance"]["fastrcnn"]["steps"] == 6
    image = next((data / "test").iterdir())
    found = Detector.load(alone, "cpu")(image)
    assert found.boxes.shape == (len(found), 4)
    assert (np.diff(found.scores) <= 0).all()
    assert all(name in content["categories"]["names"] for name in found.names)
    few = Detector.load(alone, "cpu", changes=["fast_rcnn.detections=2", "data.test_shorter_side=64"])
    assert len(few(image)) <= 2
    with pytest.raises(UserError, match="did you mean 'detections'"):
        Detector.load(alone, "cpu", changes=["fast_rcnn.detection=2"])


def test_a_path_an_array_a_batch_and_a_tensor_give_the_same(run: Path, data: Path) -> None:
    from detection.data.images import read_image

    detector = Detector.load(run / "detector.pt", "cpu")
    paths = sorted((data / "test").iterdir())[:3]
    arrays = [read_image(path) for path in paths]
    expected = [detector(path) for path in paths]
    for several in (paths, arrays):
        for batch_size in (1, 2, 3):
            for one, other in zip(detector(several, batch_size=batch_size), expected, strict=True):
                assert one.names == other.names
                np.testing.assert_allclose(one.boxes, other.boxes, atol=0.05)
                np.testing.assert_allclose(one.scores, other.scores, atol=1e-4)
    tensor = torch.from_numpy(arrays[0]).permute(2, 0, 1)
    np.testing.assert_array_equal(detector(tensor).boxes, expected[0].boxes)
    np.testing.assert_array_equal(detector(tensor[None])[0].boxes, expected[0].boxes)
    assert detector([]) == []
    with pytest.raises(UserError, match="uint8"):
        detector(arrays[0].astype(np.float32))


def test_proposal_recall_of_an_rpn_and_of_a_store(run: Path) -> None:
    by_network = tool("eval_coco", "--weights", run / "rpn.pt").stdout
    assert "AR @[ IoU=0.50:0.95 ] all" in by_network
    for limit in ("100", "300", "1000", "2000"):
        assert limit in by_network
    store = run / "test.st"
    tool("propose", "--weights", run / "rpn.pt", "--split", "test", "--store", store)
    assert "AR @[ IoU=0.50:0.95 ] small" in tool("eval_coco", "--proposals", store).stdout
    opened = ProposalStore(store)
    opened.verify()
    assert len(opened) == 6
    assert max(len(opened.boxes(int(i))) for i in opened.image_ids) <= 20


def test_predict_writes_images_and_json_and_names_what_it_cannot_read(run: Path, data: Path, tmp_path: Path) -> None:
    images = tmp_path / "images with spaces"
    (images / "sub").mkdir(parents=True)
    for number, path in enumerate(sorted((data / "test").iterdir())[:2]):
        (images / ("sub" if number else ".") / "same name.jpg").write_bytes(path.read_bytes())
    (images / "broken.jpg").write_text("<html>not an image</html>")
    result = tool(
        "predict",
        "--weights",
        run / "detector.pt",
        images,
        "--output",
        tmp_path / "out",
        "--min-score",
        0.2,
        check=False,
    )
    assert result.returncode == 1
    assert "broken.jpg" in result.stderr
    assert "Traceback" not in result.stderr
    entries = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert [("error" in entry) for entry in entries] == [True, False, False]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "detections.json",
        "same name.jpg",
        "same name_2.jpg",
    }


def test_names_that_are_no_utf8_are_read_and_written(run: Path, data: Path, tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    (folder / "a.jpg").write_bytes(next((data / "test").iterdir()).read_bytes())
    assert "written: " in tool("predict", "--weights", run / "detector.pt", folder, "--output", folder / "out").stdout
    [entry] = json.loads((folder / "out" / "detections.json").read_text(encoding="utf-8"))
    assert Path(entry["file"]) == folder / "a.jpg"
    refused = tool("train_rpn", "--data", folder, check=False)
    assert refused.returncode == 1
    assert "has bytes that are no UTF-8" in refused.stderr


def test_a_dry_run_tells_the_plan_and_writes_nothing(config: Path, data: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    plan = tool("train_rpn", *arguments_for(config, data, output), "--dry-run").stdout
    for word in ("batch", "learning rate", "steps", "epochs", "a step", "time", "peak memory", "disk", "written"):
        assert word in plan
    plan = tool(
        "train_fastrcnn", *arguments_for(config, data, output, ["fast_rcnn.training.images_per_device=1"]), "--dry-run"
    ).stdout
    assert "1 process(es) × 4 micro-batch(es) of up to 1" in plan
    assert "an untrained RPN proposed" in plan
    assert not output.exists()


def test_a_changed_batch_scales_the_learning_rate_and_says_so(config: Path, data: Path, tmp_path: Path) -> None:
    changes = ["rpn.training.global_batch=2", "rpn.training.steps=1", "rpn.training.milestones=[]"]
    said = tool("train_rpn", *arguments_for(config, data, tmp_path / "run", changes)).stderr
    scaled = "the learning rate 0.01 is stated for 4 images a step and was scaled to 2"
    assert scaled in said
    lines = [json.loads(line) for line in (tmp_path / "run/rpn/log.jsonl").read_text().splitlines()]
    assert [line["text"].split(";")[0] for line in lines if line["kind"] == "remark"][1:] == [scaled]
    assert [line["lr"] for line in lines if line["kind"] == "train"] == [pytest.approx(0.005)]


def test_two_processes_end_in_the_weights_of_one_with_accumulation(
    run: Path, config: Path, data: Path, tmp_path: Path
) -> None:
    """Both stages: 4 images a step as 1 × 4, as 1 × (2 + 2), and as 2 processes × 2, once by torchrun itself. Three
    steps: from then on rounding grows tenfold a step in so small a Fast R-CNN."""
    steps = [f"{network}.training.{key}" for network in ("rpn", "fast_rcnn") for key in ("steps=3", "milestones=[2]")]
    for name, images, processes, run_rpn in (
        ("whole", 4, 1, tool),
        ("accumulated", 2, 1, tool),
        ("parallel", 2, 2, torchrun),
    ):
        changes = [*steps, *(f"{network}.training.images_per_device={images}" for network in ("rpn", "fast_rcnn"))]
        arguments = arguments_for(config, data, tmp_path / name, changes)
        run_rpn("train_rpn", *arguments, processes=processes)
        tool("train_fastrcnn", *arguments, "--rpn", run / "rpn.pt", processes=processes)
        for file in ("rpn.pt", "fastrcnn.pt"):
            assert_same_weights(tmp_path / "whole" / file, tmp_path / name / file, atol=3e-6, rtol=1e-4)


def test_evaluation_over_two_processes_gives_the_same_figures(run: Path) -> None:
    one = tool("eval_coco", "--weights", run / "detector.pt", "--output", run / "one").stdout.split("\nwritten")[0]
    two = tool("eval_coco", "--weights", run / "detector.pt", "--output", run / "two", processes=2).stdout
    assert one in two
    assert (run / "one/results.json").read_bytes() == (run / "two/results.json").read_bytes()


@pytest.mark.parametrize("stage", ["train_rpn", "train_fastrcnn"])
def test_killed_and_resumed_ends_in_the_same_bits(
    stage: str, run: Path, config: Path, data: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    extra = ["--rpn", run / "rpn.pt"] if stage == "train_fastrcnn" else []
    network = "rpn" if stage == "train_rpn" else "fast_rcnn"
    arguments = [*arguments_for(config, data, output, [f"{network}.training.checkpoint_every=1"]), *extra]
    kill_before_second_checkpoint(stage, *arguments)
    tool(stage, *arguments, "--resume")
    name = "rpn.pt" if stage == "train_rpn" else "fastrcnn.pt"
    assert_same_weights(run / name, output / name)
    logs = [folder / stage.removeprefix("train_") / "log.jsonl" for folder in (run, output)]
    assert read_curves(logs[0]) == read_curves(logs[1])  # what the report draws; averages over two steps each


def test_resuming_a_finished_run_leaves_its_file_alone(run: Path, config: Path, data: Path) -> None:
    """Proposals and the other network's checkpoints refer to rpn.pt by its hash."""
    before = (run / "rpn.pt").read_bytes()
    tool("train_rpn", *arguments_for(config, data, run, ["runtime.test_batch=2"]), "--resume")
    assert (run / "rpn.pt").read_bytes() == before


def test_sigterm_leaves_a_checkpoint_and_a_clean_exit(run: Path, config: Path, data: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    arguments = arguments_for(config, data, output, ["rpn.training.checkpoint_every=1000"])
    process = start("train_rpn", *arguments)
    assert process.stderr is not None
    for line in process.stderr:
        if "2/6" in line:
            process.send_signal(signal.SIGTERM)
            break
    rest = process.stderr.read()
    status = process.wait()
    assert status in (0, 128 + signal.SIGTERM)
    assert ("written: " if status == 0 else f"--resume goes on from the checkpoint in {output / 'rpn'}") in rest
    assert "Traceback" not in rest
    assert list((output / "rpn").glob("checkpoint_*.pt"))
    tool("train_rpn", *arguments, "--resume")
    assert_same_weights(run / "rpn.pt", output / "rpn.pt")


def test_mistakes_are_one_message_without_traceback(run: Path, config: Path, data: Path, tmp_path: Path) -> None:
    cases = [
        (("train_rpn", "--config", config, "--data", tmp_path / "nowhere"), "nowhere"),
        (
            ("train_rpn", *arguments_for(config, data, tmp_path / "run", ["rpn.training.stpes=3"])),
            "did you mean 'steps'",
        ),
        (("train_fastrcnn", *arguments_for(config, data, tmp_path / "empty")), "no trained RPN"),
        (("train_rpn", *arguments_for(config, data, run)), "--resume"),
        (("train_rpn", *arguments_for(config, data, run, ["rpn.samples=8"]), "--resume"), "samples"),
        (("eval_coco", "--weights", tmp_path / "missing.pt"), "missing.pt"),
        (("eval_coco", "--weights", run / "fastrcnn.pt"), "Fast R-CNN"),
        (("eval_coco", "--results", run / "evaluation.json"), "--annotations"),
        (("predict", "--weights", run / "rpn.pt", data), "rpn.pt"),
        (("predict", "--weights", run / "detector.pt", tmp_path / "no.jpg"), "no such file"),
        (
            (
                "train_fastrcnn",
                *arguments_for(config, data, tmp_path / "run"),
                "--rpn",
                run / "rpn.pt",
                "--proposals",
                config,
            ),
            str(config),
        ),
    ]
    for command, part in cases:
        result = tool(*command, check=False)
        assert result.returncode == 1, (command, result.stderr)
        assert part in result.stderr, (command, result.stderr)
        assert "Traceback" not in result.stderr, command


def test_proposals_of_another_rpn_or_data_set_are_refused(run: Path, config: Path, data: Path, tmp_path: Path) -> None:
    store = run / "proposals" / "train.st"
    tool("train_rpn", *arguments_for(config, data, tmp_path / "other", ["seed=5"]))
    result = tool("train_fastrcnn", *arguments_for(config, data, tmp_path / "other"), "--proposals", store, check=False)
    assert "other RPN weights" in result.stderr
    make_demo_dataset(tmp_path / "data", train=12, test=6, seed=1)
    arguments = arguments_for(config, tmp_path / "data", tmp_path / "third")
    result = tool("train_fastrcnn", *arguments, "--rpn", run / "rpn.pt", "--proposals", store, check=False)
    assert "stale" in result.stderr


def test_a_detector_from_an_rpn_with_another_backbone_loads(
    run: Path, config: Path, data: Path, tmp_path: Path
) -> None:
    changes = ["backbone.planes=16", "fast_rcnn.training.steps=1", "fast_rcnn.training.milestones=[]"]
    tool("train_fastrcnn", *arguments_for(config, data, tmp_path / "mixed", changes), "--rpn", run / "rpn.pt")
    trained = load_detector(tmp_path / "mixed" / "detector.pt")
    assert (trained.rpn.config.backbone.planes, trained.config.backbone.planes) == (8, 16)
    tool("eval_coco", "--weights", tmp_path / "mixed" / "detector.pt", "--images", 0)


def test_periodic_evaluation_and_measured_box_statistics(run: Path, config: Path, data: Path, tmp_path: Path) -> None:
    changes = [
        "rpn.training.evaluate_every=3",
        "fast_rcnn.training.evaluate_every=3",
        "rpn.training.keep_best=null",
        "fast_rcnn.box_statistics=empirical",
    ]
    output = tmp_path / "run"
    tool("train_rpn", *arguments_for(config, data, output, changes))
    tool("train_fastrcnn", *arguments_for(config, data, output, changes))
    for stage, figure in (("rpn", "AR_100"), ("fastrcnn", "AP")):
        lines = [json.loads(line) for line in (output / stage / "log.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines if figure in line] == [3, 6]
    assert_same_weights(run / "rpn.pt", output / "rpn.pt")  # looking does not change the training
    measured = load_detector(output / "detector.pt").config.fast_rcnn
    assert measured.box_stds != (0.1, 0.1, 0.2, 0.2)
    assert all(0.01 < std < 0.5 for std in measured.box_stds)
    said = tool("train_fastrcnn", *arguments_for(config, data, output, changes), "--resume").stderr
    assert "all 6 steps were done before" in said
    assert load_detector(output / "detector.pt").config.fast_rcnn == measured


def test_augmentation_and_empty_images_by_the_configuration(config: Path, data: Path, tmp_path: Path) -> None:
    pipeline = "[{name: RandomBrightnessContrast, p: 1.0}, {name: RandomCrop, height: 100, width: 120, p: 0.5}]"
    changes = [
        f"data.albumentations={pipeline}",
        "data.vertical_flip=0.5",
        "data.shorter_sides=[80, 96]",
        "data.keep_empty=true",
        "data.group_by_aspect=false",
        "rpn.training.schedule=cosine",
        "rpn.training.milestones=[]",
        "rpn.training.warmup_steps=2",
        "runtime.workers=2",
        "runtime.channels_last=false",
        "runtime.deterministic=true",
    ]
    for output in ("first", "second"):
        tool("train_rpn", *arguments_for(config, data, tmp_path / output, changes))
    assert_same_weights(tmp_path / "first/rpn.pt", tmp_path / "second/rpn.pt")


@pytest.mark.slow
def test_compiled_networks_learn_the_same(run: Path, config: Path, data: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    arguments = arguments_for(config, data, output, ["runtime.compile=true"])
    tool("train_rpn", *arguments)
    tool("train_fastrcnn", *arguments)
    tool("eval_coco", "--weights", output / "detector.pt")
    assert_same_weights(run / "rpn.pt", output / "rpn.pt", atol=1e-4, rtol=1e-3)
