"""The classification benchmark: what it trains, and what it makes of a log."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backbones.common.errors import UserError
from backbones.variants import find_variant
from benchmarks import classification


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two colours, a folder each, of training and test images."""
    root = tmp_path_factory.mktemp("colours")
    random = np.random.default_rng(0)
    for split, count in (("train", 16), ("test", 4)):
        for name, channel in (("red", 0), ("blue", 2)):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                image = random.integers(0, 100, (32, 32, 3), dtype=np.uint8)
                image[..., channel] += 100
                Image.fromarray(image).save(folder / f"{number}.png")
    return root


def run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, data: Path, *more: str, evaluate_every: str = "1"
) -> dict[str, object]:
    output = tmp_path / "result.json"
    changes = ["training.global_batch=8", "training.epochs=2", "runtime.workers=0", "runtime.device=cpu"]
    arguments = ["--data", str(data), "--runs", str(tmp_path / "runs"), "--plots", str(tmp_path / "plots")]
    arguments += [
        "--output",
        str(output),
        *more,
        "--set",
        *changes,
        "runtime.tensorboard=false",
        f"training.evaluate_every={evaluate_every}",
    ]
    monkeypatch.setattr("sys.argv", ["classification", *arguments])
    assert classification.main() == 0
    result: dict[str, object] = json.loads(output.read_text())
    return result


def steps(log: Path) -> list[int]:
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    return [entry["step"] for entry in entries if entry["kind"] == "train"]


def test_one_network_over_time(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = run(monkeypatch, tmp_path, data)
    (own,) = result["points"].values()  # type: ignore[attr-defined]
    assert [point["step"] for point in own] == [4, 8]
    assert 0 < own[0]["seconds"] < own[1]["seconds"]
    assert (tmp_path / "plots" / "result.svg").is_file()


def test_cardinalities_are_trained_apart_and_once(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = run(monkeypatch, tmp_path, data, "--cardinality", "1", "8")
    assert len(result["tables"][0]["rows"]) == 2  # type: ignore[index]
    logs = sorted((tmp_path / "runs").glob("*/classifier/log.jsonl"))
    assert len(logs) == 2
    before = [steps(log) for log in logs]
    again = run(monkeypatch, tmp_path, data, "--cardinality", "1", "8")
    assert [steps(log) for log in logs] == before
    assert again["points"] == result["points"]


@pytest.mark.parametrize("name", ["resnext29_8x64d", "resnext50_32x4d"])
def test_the_weights_of_a_block_are_kept(name: str) -> None:
    variant = find_variant(name, {})
    own = variant.cardinality * variant.base_width
    for cardinality in (1, 2, 4, 16):
        width = classification.equal_width(variant, cardinality)
        whole = cardinality * (2 * 256 * width + 9 * width * width)
        expected = 2 * 256 * own + 9 * own * variant.base_width
        assert abs(whole / expected - 1) < 0.07, (cardinality, width)


def test_a_log_without_measurements_is_refused(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="evaluate_every"):
        run(monkeypatch, tmp_path, data, evaluate_every="null")
