"""A killed worker process ends the tool that it loads images for: soon, with the reason, its checkpoints whole."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import detection.classifier.image_input
import detection.data.dataset
from detection.classifier.classifier_file import TrainedClassifier, save_classifier
from detection.classifier.config import ClassifierConfig
from detection.classifier.network import build_classifier
from detection.config_file import load_config_of
from detection.training.artifacts import load_artifact
from tests.detection.classifier.test_classifier import MINIATURE as CLASSIFIER
from tests.detection.pipeline import tool

WORKERS = "runtime.workers=2"
LONG = "training.steps=300"
CLASSES = ("one", "two")


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images/, a miniature.yaml and a classifier.pt that was never trained."""
    folder = tmp_path_factory.mktemp("classifier")
    random = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in CLASSES:
            (folder / "images" / split / name).mkdir(parents=True)
            for i in range(8):
                image = random.integers(0, 255, (40, 40, 3), dtype=np.uint8)
                Image.fromarray(image).save(folder / "images" / split / name / f"{i}.png")
    (folder / "miniature.yaml").write_text(CLASSIFIER)
    config = load_config_of(ClassifierConfig, folder / "miniature.yaml", [f"data.root={folder / 'images'}"])
    torch.manual_seed(0)
    save_classifier(
        folder / "classifier.pt", TrainedClassifier(config, CLASSES, build_classifier(config.network, 2), {})
    )
    return folder


def arguments(name: str, networks: Path, data: Path, classifier: Path, output: Path) -> list[object]:
    """What each tool is called with."""
    run = ["--config", networks / "miniature.yaml", "--data", data, "--output", output]
    images = ["--data", classifier / "images", "--output", output]
    return {
        "train_rpn": [*run, f"rpn.{LONG}"],
        "train_fastrcnn": [*run, "--rpn", networks / "rpn.pt", f"fast_rcnn.{LONG}"],
        "propose": ["--weights", networks / "rpn.pt", "--store", output / "train.st"],
        "eval_coco": ["--weights", networks / "detector.pt", "--output", output],
        "train_classifier": ["--config", classifier / "miniature.yaml", *images, "training.epochs=200"],
        "eval_classifier": ["--weights", classifier / "classifier.pt", *images, "runtime.test_batch=2"],
    }[name]


def killing(read: Callable[..., np.ndarray], is_time: Callable[[], bool]) -> Callable[..., np.ndarray]:
    """`read`, by which a worker is killed once it `is_time`."""
    main = os.getpid()

    def read_or_die(*its: object, **options: object) -> np.ndarray:
        if os.getpid() != main and is_time():
            os.kill(os.getpid(), signal.SIGKILL)
        return read(*its, **options)

    return read_or_die


@pytest.mark.parametrize(
    "name", ["train_rpn", "train_fastrcnn", "propose", "eval_coco", "train_classifier", "eval_classifier"]
)
def test_a_killed_worker_ends_the_tool(
    name: str, networks: Path, data: Path, classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_training = name.startswith("train")
    output = tmp_path / "out"
    command = [*arguments(name, networks, data, classifier, output), WORKERS]
    with monkeypatch.context() as patch:
        for module in (detection.data.dataset, detection.classifier.image_input):
            is_time = (lambda: any(output.glob("*/checkpoint_*.pt"))) if is_training else (lambda: True)
            patch.setattr(module, "read_image", killing(module.read_image, is_time))
        begin = time.monotonic()
        done = tool(name, *command, check=False)
    assert time.monotonic() - begin < 30.0
    assert done.returncode == 1
    assert "one of 2 that load images, was killed (SIGKILL): usually by the system, when memory runs out" in done.stderr
    assert "Traceback" not in done.stderr
    assert multiprocessing.active_children() == []
    if is_training:
        [*_, newest] = sorted(output.glob("*/checkpoint_*.pt"))
        assert load_artifact(newest, "checkpoint")["step"] >= 2
