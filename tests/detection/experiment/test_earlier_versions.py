"""Files that an earlier version wrote: they load, find what they found, and their trainings go on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from detection import Detector
from detection.classifier.classifier_file import load_classifier
from detection.data.demo import make_demo_dataset
from detection.experiment.agreement import is_rpn_of_run
from detection.experiment.earlier_versions import rename_weights, upgrade_identity
from detection.experiment.model_files import load_detector, load_fast_rcnn, load_rpn
from tests.detection.pipeline import arguments_for, tool

FILES = Path(__file__).parent / "files_of_earlier_versions"


def draw_classes(folder: Path) -> None:
    """What the classifier learnt from: three images of each of three classes, and two to test by."""
    for split, count in (("train", 3), ("test", 2)):
        for label, name in enumerate("abc"):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                image = (np.arange(40 * 48 * 3).reshape(40, 48, 3) * (label + 2) * (i + 1) % 251).astype(np.uint8)
                Image.fromarray(image).save(folder / split / name / f"{i}.png")


def drawn_image() -> np.ndarray:
    """What the detections were found in."""
    rows, columns, channels = np.ogrid[:96, :128, :3]
    values = rows // 24 * 60 + columns // 32 * 50 + channels * 40 + rows * columns % 7
    return np.asarray(values % 256).astype(np.uint8)


def stored_weights(path: Path) -> dict[str, Any]:
    content = torch.load(path, weights_only=True)
    return {"classifier": content["network"]} if content["kind"] == "classifier" else content["networks"]


def assert_same_weights(first: Path, second: Path) -> None:
    """By value and order: names may have changed since. Equal to the bit where the files were made; another processor
    rounds otherwise."""
    one, other = stored_weights(first), stored_weights(second)
    assert one.keys() == other.keys()
    for network, weights in one.items():
        for value, name in zip(weights.values(), other[network], strict=True):
            torch.testing.assert_close(
                value, other[network][name], atol=1e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
            )


def test_every_kind_of_file_loads() -> None:
    rpn, fast_rcnn, detector = (
        load_rpn(FILES / "rpn.pt"),
        load_fast_rcnn(FILES / "fastrcnn.pt"),
        load_detector(FILES / "detector.pt"),
    )
    classifier = load_classifier(FILES / "classifier.pt")
    for network, name in ((rpn.network, "rpn"), (fast_rcnn.network, "fastrcnn"), (classifier.network, "classifier")):
        stored = stored_weights(FILES / f"{name}.pt")[name]
        assert all(
            torch.equal(mine, theirs)
            for mine, theirs in zip(network.state_dict().values(), stored.values(), strict=True)
        )
    for own, whole in ((rpn, detector.rpn), (fast_rcnn, detector.fast_rcnn)):
        assert all(
            torch.equal(value, whole.network.state_dict()[name]) for name, value in own.network.state_dict().items()
        )
    assert detector.categories.names == ("disc", "square", "triangle", "star", "ring", "cross")
    assert (rpn.provenance["steps"], fast_rcnn.provenance["stage"], classifier.classes) == (
        6,
        "fastrcnn",
        ("a", "b", "c"),
    )


def test_a_detector_finds_what_it_found_then() -> None:
    """To rounding: Winograd's convolution, which computed the RPN's head on a CPU then, is gone."""
    expected = json.loads((FILES / "detections.json").read_text())
    found = Detector.load(FILES / "detector.pt", "cpu")(drawn_image())
    assert len(found) == 5
    np.testing.assert_allclose(found.boxes, expected["boxes"], atol=5e-3)
    np.testing.assert_allclose(found.scores, expected["scores"], atol=1e-5)
    assert (found.labels.tolist(), found.names) == (expected["labels"], expected["names"])


@pytest.mark.parametrize("stage", ["rpn", "fastrcnn", "classifier"])
def test_a_training_goes_on_from_its_checkpoint(stage: str, tmp_path: Path) -> None:
    """Two steps of six, or one of three, are left; the proposals of then are taken as they are."""
    data, run = tmp_path / "data", tmp_path / "run"
    config = FILES / ("classifier.yaml" if stage == "classifier" else "detector.yaml")
    [checkpoint] = FILES.glob(f"{stage}_checkpoint_*.pt")
    (run / stage).mkdir(parents=True)
    shutil.copy(checkpoint, run / stage / checkpoint.name.removeprefix(f"{stage}_"))
    if stage == "classifier":
        draw_classes(data)
    else:
        make_demo_dataset(data, train=12, test=6)
    if stage == "fastrcnn":
        (run / "proposals").mkdir()
        shutil.copy(FILES / "rpn.pt", run)
        shutil.copy(FILES / "train.st", run / "proposals")
    said = tool(f"train_{stage}", *arguments_for(config, data, run), "--resume").stderr
    assert f"continuing after step {2 if stage == 'classifier' else 4}" in said
    assert_same_weights(FILES / f"{stage}.pt", run / f"{stage}.pt")
    if stage == "fastrcnn":
        assert (run / "proposals/train.st").read_bytes() == (FILES / "train.st").read_bytes()
        assert_same_weights(FILES / "detector.pt", run / "detector.pt")


def test_an_rpn_of_then_is_known_for_that_of_its_run() -> None:
    """A finished run is resumed without its file being written anew: proposals refer to it by its hash."""
    rpn = load_rpn(FILES / "rpn.pt")
    del rpn.provenance["versions"]
    assert is_rpn_of_run(FILES / "rpn.pt", rpn)
    rpn.provenance["steps"] += 1
    assert not is_rpn_of_run(FILES / "rpn.pt", rpn)


def test_weights_are_renamed_only_for_a_network_that_has_the_new_names() -> None:
    state = {"conv5.0.conv1.weight": 1, "class_logits.bias": 2}
    assert rename_weights(state, ["conv5.0.conv1.weight", "class_logits.bias"]) == state
    today = {"box_head.conv5.0.conv1.weight": 1, "class_logits.bias": 2}
    assert rename_weights(state, today) == today
    assert rename_weights(today, today) == today
    assert rename_weights(state, ["other"]) == state  # which the loader refuses by these names


def test_what_a_checkpoint_says_of_its_run_is_said_as_today() -> None:
    theirs = {"pictures": "12, ids a…", "rpn_sha256": "f", "config": {"seed": 3, "rpn": {"samples": 8}}}
    ours = {
        "images": "12, ids a…",
        "rpn_sha256": "f",
        "rpn": {"steps": 6},
        "config": {"seed": 3, "rpn": {"samples": 8, "channels": 5}},
    }
    today = upgrade_identity(theirs, ours)
    assert today["images"] == "12, ids a…"
    assert "pictures" not in today
    assert today["rpn"] == {"steps": 6}
    assert today["config"] == {"seed": 3, "rpn": {"samples": 8, "channels": 512}}  # the default, whatever ours is
    assert "rpn" not in upgrade_identity({**theirs, "rpn_sha256": "other"}, ours)
    # What is said of the RPN has a configuration of its own.
    theirs["rpn"] = {"steps": 6, "config": {"rpn": {"samples": 8}}}
    ours["rpn"] = {"steps": 6, "config": {"rpn": {"samples": 8, "channels": 5}}}
    assert upgrade_identity(theirs, ours)["rpn"] == {"steps": 6, "config": {"rpn": {"samples": 8, "channels": 512}}}
