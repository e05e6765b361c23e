"""Timing in turns, tables, result files, and the README that is made from them."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch

from benchmarks.common import (
    OURS,
    PEER,
    Timing,
    comparison_rows,
    environment,
    interleaved,
    markdown,
    matched_share,
    seconds,
    table,
    write_result,
)
from benchmarks.table import BEGIN, END, main, rendered


def test_functions_take_turns_in_alternating_order() -> None:
    calls: list[str] = []
    timings = interleaved({name: lambda name=name: calls.append(name) for name in "abc"}, 3)
    assert "".join(calls) == "abc" + "abc" + "cba" + "abc"
    assert {name: len(timing.rounds) for name, timing in timings.items()} == {"a": 3, "b": 3, "c": 3}


def test_timing_is_that_of_the_function() -> None:
    timings = interleaved({"short": lambda: time.sleep(0.002), "long": lambda: time.sleep(0.02)}, 3)
    assert 0.02 <= timings["long"].median < 0.2
    assert timings["short"].ratio_to(timings["long"]) < 0.8


def test_the_run_before_the_rounds_is_told_apart() -> None:
    """A function that is slow once, as one that compiles."""
    pauses = iter([0.05, 0.001, 0.001])
    timing = interleaved({"compiled": lambda: time.sleep(next(pauses))}, 2)["compiled"]
    assert timing.first is not None
    assert timing.first >= 0.05
    assert timing.to_dict()["first"] == timing.first
    assert timing.median < 0.05


def test_short_functions_get_more_rounds() -> None:
    assert len(interleaved({"one": lambda: time.sleep(0.001)}, 2, least_seconds=0.05)["one"].rounds) > 2


def test_ratio_is_the_median_of_the_rounds_own() -> None:
    """The second round was slow for both, which neither the ratio of means nor that of medians would survive."""
    first, second = Timing((1.0, 30.0, 3.0)), Timing((2.0, 60.0, 4.0))
    assert first.ratio_to(second) == 0.5
    assert first.median == 3.0


def test_matched_share_counts_what_either_side_lacks() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [5, 5, 20, 20]])
    labels = torch.tensor([1, 2])
    assert matched_share((boxes, labels), (boxes.flip(0) + 0.005, labels.flip(0)), (0.01, 0)) == 1
    assert matched_share((boxes, labels), (boxes, labels.flip(0)), (0.01, 0)) == 0
    assert matched_share((boxes, labels), (boxes[:1], labels[:1]), (0.01, 0)) == 0.5
    nothing = (boxes[:0], labels[:0])
    assert matched_share(nothing, nothing, (0.01, 0)) == 1
    assert matched_share((boxes, labels), nothing, (0.01, 0)) == 0


def test_environment_names_what_a_result_depends_on() -> None:
    about = environment("common")
    json.dumps(about)
    assert about["hardware"]["processor"]
    assert about["hardware"]["memory_gib"] > 0
    assert about["threads"] == torch.get_num_threads()
    assert about["versions"]["torch"] == torch.__version__.split("+")[0]
    assert about["command"].startswith("python -m benchmarks.common")


@pytest.mark.parametrize(
    ("value", "text"), [(1.234, "1.23 s"), (0.0456, "45.6 ms"), (0.9999, "1 s"), (0.9994, "999 ms"), (12.34, "12.3 s")]
)
def test_durations(value: float, text: str) -> None:
    assert seconds(value) == text


def test_results_become_the_readmes_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = {"step": {OURS: Timing((1.0,)), "one trunk": Timing((0.5,)), PEER: Timing((2.0,))}}
    rows = list(comparison_rows(measured))
    assert [(row[0], row[-1]) for row in rows] == [("step", "0.50"), ("step, one trunk", "0.25")]
    content = table("Speed", ["what", OURS, PEER, "ratio"], rows)
    about = environment("detector")
    write_result(tmp_path / "a.json", {"title": "Detector", "environment": about, "tables": [content]})
    other = {**table("Other", ["n"], [["1.5"]]), "plot": "other.svg"}
    write_result(tmp_path / "b.json", {"title": "Other", "environment": about, "tables": [other]})
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    monkeypatch.setattr("sys.argv", ["table", "--results", str(tmp_path), "--readme", str(readme)])
    main()
    main()  # once more changes nothing
    text = readme.read_text()
    assert text == f"before\n{BEGIN}\n\n{rendered([tmp_path / 'a.json', tmp_path / 'b.json'])}{END}\nafter\n"
    assert markdown(content) in text
    assert about["command"] in text
    assert "| 1.5 |" in text
    assert text.count("| 1.5 |\n\n![Other](plots/other.svg)\n") == 1
    assert text.count("Other\n") == 1, "a table's title that repeats the section's"
    assert "old" not in text
