"""Every step of the benchmark on two million images, on a few."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import large_data


def test_every_step_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESNEXT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(large_data, "LOOKED_UP", 10)
    said = {name: step(40, tmp_path)() for name, step in large_data.STEPS.items()}
    assert said["index"].startswith("40 images, 600 boxes, ")
    assert said["outlines"].startswith("6 images, 90 boxes, ")
    assert said["start"].startswith("index 0.")
    assert said["store"] == "40 images × 100, 0.0 GB"
    assert said["random"].startswith("40 images × 1,000, 0 GB: opened in 0.")
    assert said["evaluation"].startswith("4 images, 400 detections, 365 classes: AP 0.")


def test_rows_of_other_steps_stay(tmp_path: Path) -> None:
    output = tmp_path / "results.json"
    for step in ("evaluation", "index"):
        large_data._measure(step, 40, tmp_path, output)
    content = json.loads(output.read_text())
    assert list(content["steps"]) == ["index", "evaluation"]  # in the order of the steps
    assert [row[0] for row in content["tables"][0]["rows"]] == ["index", "evaluation"]
    assert all(row["seconds"] > 0 for row in content["steps"].values())
