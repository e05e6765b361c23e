"""`train` and `evaluate` from Python."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

import detection
from backbones.common.errors import UserError
from backbones.common.progress import in_notebook
from detection.data.demo import make_demo_dataset
from detection.training.logging import TrainingLog
from tests.detection.pipeline import REPOSITORY, TINY


def test_train_and_evaluate(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = detection.train(shapes, device="cpu", changes=TINY)
    assert run.finished
    assert run.folder == tmp_path / "runs" / "shapes"
    assert run.figures is not None
    assert run.report.is_file()
    assert run.ap == run.figures.figures["AP"]
    assert len(run.detector(np.zeros((96, 96, 3), np.uint8))) >= 0
    assert detection.evaluate(run.weights, device="cpu").figures == run.figures.figures
    other = tmp_path / "other"
    make_demo_dataset(other, train=1, test=3)
    figures = detection.evaluate(run.weights, other, device="cpu")
    assert figures.images == 3
    assert (run.folder / "evaluation_other" / "report.html").is_file()


def test_train_by_a_configuration(config: Path, shapes: Path, tmp_path: Path) -> None:
    run = detection.train(shapes, config=config, output=tmp_path / "it's", device="cpu")
    assert (tmp_path / "it's" / "detector.pt").is_file()
    assert run.figures is not None
    with pytest.raises(UserError, match="minutes is for data without a config"):
        detection.train(shapes, config=config, minutes=3)
    with pytest.raises(UserError, match="the folder of the data"):
        detection.train()


def test_the_import_is_lazy() -> None:
    code = "import sys, detection; print('torch' in sys.modules, 'train' in dir(detection))"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False True"
    assert detection.train.__module__ == detection.evaluate.__module__ == "detection.api"


def test_a_notebook_shows_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not in_notebook()
    shell = type("ZMQInteractiveShell", (), {})()
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    assert in_notebook()
    monkeypatch.setenv("COLUMNS", "200")  # for the whole text
    monkeypatch.setenv("LINES", "24")
    shown = io.StringIO()
    shown.isatty = lambda: True  # type: ignore[method-assign]
    figures = {"loss": 1.5, "lr": 0.1, "images_per_second": 2.0, "data_wait": 0.0, "memory_mib": 1.0, "time_left": 60.0}
    with contextlib.redirect_stderr(shown):
        log = TrainingLog(name="rpn", seconds_after=60.0)
        log.train(1, 4, figures)
        log.train(3, 4, figures)
        log.close()
    assert "3/4" in shown.getvalue()
    assert "loss 1.5000" in shown.getvalue()
    assert "about 2:00 with all that follows" in shown.getvalue()
