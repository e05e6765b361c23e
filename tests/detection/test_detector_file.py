"""`tools/predict.py` with an exported file: the detections of the `detector.pt`, where PyTorch cannot be imported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

import detection
from backbones.common.errors import UserError
from detection.detector_file import load_detector_file, source_digest
from detection.experiment.thresholds_file import write_thresholds
from detection.predict import predict

pytest.importorskip("onnxruntime", reason="ONNXRUNTIME MISSING: exported files were not run")

EXPORTED = Path(__file__).parent / "export" / "files" / "detector.onnx"
WEIGHTS = Path(__file__).parent / "experiment" / "files_of_earlier_versions" / "detector.pt"
WITHOUT_PYTORCH = """
import runpy, sys
for name in ("torch", "torchvision", "pycocotools", "albumentations", "safetensors"):
    sys.modules[name] = None  # what Python takes for "not to be found"
runpy.run_path("tools/predict.py", run_name="__main__")
"""


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images") / "image.png"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (150, 220, 3), dtype=np.uint8))
    return path


@pytest.mark.parametrize("size", [(50, 60), (300, 100), (1, 700)])
def test_both_say_the_size_that_the_network_sees(size: tuple[int, int]) -> None:
    detectors = load_detector_file(EXPORTED), load_detector_file(WEIGHTS, "cpu")
    seen = {detector.input_size(*size) for detector in detectors}
    assert len(seen) == 1
    assert seen != {size}


@pytest.mark.parametrize("tile", [None, 110])
def test_predict_without_pytorch_finds_the_same(
    tile: int | None, image: Path, repository: Path, tmp_path: Path
) -> None:
    options = ["--weights", str(EXPORTED), str(image), "--output", str(tmp_path / "onnx"), "--min-score", "0.1"]
    options += [] if tile is None else ["--tile", str(tile)]
    command = [sys.executable, "-c", WITHOUT_PYTORCH, *options]
    outcome = subprocess.run(command, cwd=repository, capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stderr
    assert ("tiles of 110 pixels are resized to " in outcome.stderr) == (tile is not None)
    predict(detection.Detector.load(WEIGHTS, "cpu"), [image], tmp_path / "pt", min_score=0.1, tile=tile)
    (got,), (expected,) = (json.loads((tmp_path / kind / "detections.json").read_text()) for kind in ("onnx", "pt"))
    assert len(expected["detections"]) >= 5
    assert [one["category"] for one in got["detections"]] == [one["category"] for one in expected["detections"]]
    for key, tolerance in (("box", 0.05), ("score", 1e-4)):
        values = ([one[key] for one in found["detections"]] for found in (got, expected))
        np.testing.assert_allclose(*values, atol=tolerance)
    assert (tmp_path / "onnx" / "image.jpg").exists()


def test_the_precision_of_an_exported_file_is_fixed() -> None:
    with pytest.raises(UserError, match=r"detector\.onnx: the precision of an exported file is fixed"):
        load_detector_file(EXPORTED, precision="bf16")


def test_the_configuration_of_an_exported_file_is_fixed_and_that_of_a_detector_can_be_changed(image: Path) -> None:
    change = ["fast_rcnn.detections=3"]
    with pytest.raises(UserError, match=r"is fixed; export it again with fast_rcnn\.detections=3"):
        load_detector_file(EXPORTED, changes=change)
    assert len(load_detector_file(WEIGHTS, "cpu", changes=change)(image)) == 3


def test_thresholds_are_those_of_the_file_s_source(image: Path, repository: Path, tmp_path: Path) -> None:
    names = load_detector_file(EXPORTED).categories.names
    digest = source_digest(EXPORTED, load_detector_file(EXPORTED))
    assert digest is not None
    assert len(digest) == 64
    write_thresholds(tmp_path / "thresholds.json", WEIGHTS, names, [0.3] * len(names), 0.3, "test.json")
    content = json.loads((tmp_path / "thresholds.json").read_text())
    for own, status in ((digest, 0), ("0" * 64, 1)):
        (tmp_path / "thresholds.json").write_text(json.dumps({**content, "detector_sha256": own}))
        command = [sys.executable, "-c", WITHOUT_PYTORCH, "--weights", str(EXPORTED), str(image)]
        command += ["--thresholds", str(tmp_path / "thresholds.json"), "--output", str(tmp_path / "out")]
        outcome = subprocess.run(command, cwd=repository, capture_output=True, text=True)
        assert outcome.returncode == status, outcome.stderr
    assert "were chosen for another detector" in outcome.stderr
