"""The demo as the README has it: three commands without arguments, in an empty folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.detection.pipeline import REPOSITORY, environment


@pytest.mark.slow
def test_the_three_commands_without_arguments_reach_what_the_demo_promises(tmp_path: Path) -> None:
    surroundings = {**environment(), "OMP_NUM_THREADS": str(os.cpu_count()), "PYTHONPATH": str(REPOSITORY)}
    for command in (["train_rpn"], ["train_fastrcnn"], ["eval_coco", "--weights", "runs/demo/detector.pt"]):
        name, *arguments = command
        tool = [sys.executable, str(REPOSITORY / f"tools/{name}.py"), *arguments]
        done = subprocess.run(tool, cwd=tmp_path, env=surroundings, capture_output=True, text=True, timeout=3600)
        assert done.returncode == 0, done.stderr[-3000:]
    figures = json.loads((tmp_path / "runs/demo/evaluation/figures.json").read_text())["figures"]
    assert figures["AP50"] > 0.8
    assert {path.name for path in tmp_path.iterdir()} == {"data", "runs"}
