"""The contest runs on a few drawn images, goes on where it stopped, and gives the peer the time it promises."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks import bccd
from benchmarks.bccd import cosine


def contest(data: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> dict[str, Any]:
    output = data.parent / "results" / "bccd.json"
    words = ["--config", str(data.parent / "tiny.yaml"), "--data", str(data), "--output", str(output)]
    monkeypatch.setattr("sys.argv", ["bccd", *words, "--peer-batch", "2", "--peer-regions", "8", *arguments])
    assert bccd.main() == 0
    result: dict[str, Any] = json.loads(output.read_text())
    return result


def test_a_contest_takes_turns_and_goes_on_where_it_stopped(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = contest(data, monkeypatch, "--seeds", "0", "--only", "ours")
    assert [(one["who"], one["seed"]) for one in first["runs"]] == [("ours", 0)]
    whole = contest(data, monkeypatch, "--seeds", "0", "1")
    assert [(one["who"], one["seed"]) for one in whole["runs"]] == [
        ("ours", 0),
        ("torchvision", 0),
        ("ours", 1),
        ("torchvision", 1),
    ]
    assert whole["runs"][0] == first["runs"][0]
    again = contest(data, monkeypatch, "--seeds", "0", "1")
    assert again["runs"] == whole["runs"]
    for ours, theirs in zip(whole["runs"][::2], whole["runs"][1::2], strict=True):
        assert theirs["budget"] == ours["seconds"]
        assert theirs["steps"] > 0
        assert sum(ours["parts"].values()) == pytest.approx(ours["seconds"])
    assert [row[:2] for row in again["tables"][0]["rows"]] == [["ours", "0, 1"], ["torchvision", "0, 1"]]


def test_other_settings_are_another_contest(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contest(data, monkeypatch, "--seeds", "0", "--only", "peer", "--budget", "0.3")
    result = contest(
        data, monkeypatch, "--seeds", "0", "--only", "peer", "--budget", "0.3", "--peer-learning-rate", "0.002"
    )
    assert [one["learning_rate"] for one in result["runs"]] == [0.01, 0.002]
    assert [row[1] for row in result["tables"][0]["rows"]] == ["0"], "one run stands in the table"


def test_the_peer_learns_until_its_time_is_over(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    begin = time.perf_counter()

    def noted(optimizer: Any, rate: float) -> None:
        rates.append(rate)

    monkeypatch.setattr(bccd, "set_learning_rate", noted)
    result = contest(data, monkeypatch, "--seeds", "0", "--only", "peer", "--budget", "1.5")
    (run,) = result["runs"]
    assert 1.5 <= run["seconds"] < 1.5 + (time.perf_counter() - begin) / 2
    assert len(rates) == run["steps"]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 0.2 * rates[0]


def test_a_peer_alone_must_be_told_its_time(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(bccd.UserError, match="--budget"):
        contest(data, monkeypatch, "--seeds", "0", "--only", "peer")


def test_the_cosine_goes_from_one_to_zero() -> None:
    assert [round(cosine(passed), 3) for passed in (-0.1, 0, 0.25, 0.5, 1, 1.1)] == [1, 1, 0.854, 0.5, 0, 0]
