"""The best thresholds: from the evaluation's folder to the detections that predict draws."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from backbones.common.errors import UserError
from detection.detector import ImageDetections
from detection.experiment.thresholds_file import read_thresholds, write_thresholds

NAMES = ("cat", "dog")


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    detector = tmp_path / "detector.pt"
    detector.write_bytes(b"weights")
    write_thresholds(tmp_path / "thresholds.json", detector, NAMES, [0.25, 0.75], 0.5, "test.json")
    return tmp_path / "thresholds.json", detector


def test_what_was_written_is_read(files: tuple[Path, Path]) -> None:
    file, detector = files
    assert read_thresholds(file, detector, NAMES) == [0.25, 0.75]
    assert json.loads(file.read_text())["overall"] == 0.5


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is no JSON"),
        ("[]", "is no file of thresholds"),
        ('{"detector_sha256": "0", "classes": []}', "chosen for another detector"),
        (None, "cannot be read"),
    ],
)
def test_another_file_is_refused_with_the_remedy(files: tuple[Path, Path], content: str | None, message: str) -> None:
    file, detector = files
    if content is None:
        file.unlink()
    else:
        file.write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        read_thresholds(file, detector, NAMES)
    assert f"tools/eval_coco.py --weights {detector}" in str(caught.value)


def test_other_classes_are_refused(files: tuple[Path, Path]) -> None:
    with pytest.raises(UserError, match="its classes are not those"):
        read_thresholds(*files, ("dog", "cat"))


def test_each_class_has_its_own_threshold() -> None:
    scores = np.array([0.9, 0.7, 0.6, 0.3], dtype=np.float32)
    labels = np.array([2, 2, 1, 1])
    found = ImageDetections(np.zeros((4, 4), np.float32), scores, labels, ["dog", "dog", "cat", "cat"], labels * 10)
    own = found.above([0.25, 0.75])
    assert (own.names, own.category_ids.tolist(), len(own)) == (["dog", "cat", "cat"], [20, 10, 10], 3)
    assert found.above(0.65).scores.tolist() == scores[:2].tolist()
    assert len(found.above(0.95)) == 0
