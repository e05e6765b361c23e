"""The log: what lands in the file, what is shown, what a resumed run finds."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path

import pytest

from backbones.common.errors import UserError
from backbones.common.units import format_duration
from detection.training import logging as module
from detection.training.logging import Stopwatch, TrainingLog

FIGURES = {
    "loss": 1.5,
    "classification": 1.0,
    "regression": 0.5,
    "lr": 0.02,
    "gradient_norm": 3.0,
    "images_per_second": 12.5,
}
FIGURES |= {"data_wait": 0.25, "memory_mib": 512.0, "time_left": 4000.0, "elapsed": 10.0}


def entries(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_plain_lines_where_there_is_no_terminal(tmp_path: Path) -> None:
    stream = io.StringIO()
    log = TrainingLog(tmp_path, name="rpn", stream=stream, tensorboard=False)
    log.start(0, 0)
    log.train(20, 100, FIGURES)
    log.evaluation(20, {"AP": 0.125})
    log.close()
    assert stream.getvalue() == (
        "rpn 20/100  loss 1.5000  classification 1.0000  regression 0.5000  lr 0.02  12.5 images/s  "
        "waiting for data 25%  512 MiB  1:06:40 left\n"
        "rpn step 20: AP 0.1250\n"
    )
    assert entries(tmp_path) == [
        {"kind": "train", "step": 20, **FIGURES},
        {"kind": "evaluation", "step": 20, "AP": 0.125},
    ]


def test_a_terminal_has_one_line_that_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    stream = Terminal()
    log = TrainingLog(None, stream=stream)
    log.start(0, 0)
    for step in (20, 40):
        log.train(step, 100, FIGURES)
    log.message("a line that stays")
    log.close()
    lines = stream.getvalue().split("\n")
    assert [line.count("\r") for line in lines] == [2, 0, 0]
    assert lines[1] == "a line that stays"
    assert all(len(part) <= 60 + len("\x1b[K") for part in lines[0].split("\r"))


def test_a_resumed_run_removes_what_lies_beyond_its_checkpoint(tmp_path: Path) -> None:
    log = TrainingLog(tmp_path, stream=io.StringIO(), tensorboard=False)
    log.start(0, 0)
    for step in (10, 20, 30):
        log.train(step, 100, FIGURES)
        log.evaluation(step, {"AP": 0.1})
    log.close()
    with open(tmp_path / "log.jsonl", "a") as file:
        file.write('{"kind": "train", "step": 1')  # a process killed while it wrote
    log = TrainingLog(tmp_path, stream=io.StringIO(), tensorboard=False)
    log.start(20, 10)  # the checkpoint of step 20 was written before the evaluation of step 20
    log.evaluation(20, {"AP": 0.2})
    log.train(30, 100, FIGURES)
    log.close()
    found = [(entry["kind"], entry["step"]) for entry in entries(tmp_path)]
    assert found == [("train", 10), ("evaluation", 10), ("train", 20), ("evaluation", 20), ("train", 30)]


@pytest.mark.parametrize("content", ["precious\n", '{"event": "start"}\n{"step": 1}\n', "[" * 100_000 + "\n"])
def test_a_file_that_is_no_log_is_left_alone(content: str, tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text(content)
    with pytest.raises(UserError, match=r"log\.jsonl is no log of a training; name another output folder"):
        TrainingLog(tmp_path, stream=io.StringIO(), tensorboard=False).start(0, 0)
    assert (tmp_path / "log.jsonl").read_text() == content


@pytest.mark.parametrize("content", ["", '{"kind": "tr', '{"kind": "train", "step": 9}\n'])
def test_a_log_that_was_hardly_begun_is_taken(content: str, tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text(content)
    log = TrainingLog(tmp_path, stream=io.StringIO(), tensorboard=False)
    log.start(0, 0)
    log.close()
    assert (tmp_path / "log.jsonl").read_text() == ""


def test_a_remark_is_shown_and_stays_in_the_file(tmp_path: Path) -> None:
    for step in (0, 20, 10):  # the last session goes on from an earlier checkpoint than the one before
        stream = io.StringIO()
        log = TrainingLog(tmp_path, stream=stream, tensorboard=False)
        log.start(step, 0)
        log.remark(step, "the learning rate was scaled")
        log.close()
        assert stream.getvalue() == "the learning rate was scaled\n"
    assert entries(tmp_path) == [
        {"kind": "remark", "step": step, "text": "the learning rate was scaled"} for step in (0, 10)
    ]


def test_nan_is_null_in_the_file(tmp_path: Path) -> None:
    log = TrainingLog(tmp_path, stream=io.StringIO(), tensorboard=False)
    log.start(0, 0)
    log.evaluation(1, {"AP": float("nan")})
    log.close()
    assert entries(tmp_path) == [{"kind": "evaluation", "step": 1, "AP": None}]


def test_tensorboard_curves_are_written(tmp_path: Path) -> None:
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    log = TrainingLog(tmp_path, stream=io.StringIO())
    log.start(0, 0)
    log.train(20, 100, FIGURES)
    log.close()
    accumulator = event_accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    accumulator.Reload()
    assert [(event.step, event.value) for event in accumulator.Scalars("train/loss")] == [(20, 1.5)]


def test_without_tensorboard_a_message_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    stream = io.StringIO()
    log = TrainingLog(tmp_path, stream=stream)
    log.start(0, 0)
    log.train(20, 100, FIGURES)
    log.close()
    assert "TensorBoard is not installed" in stream.getvalue()
    assert len(entries(tmp_path)) == 1


def test_a_lost_terminal_does_not_end_the_run(tmp_path: Path) -> None:
    stream = io.StringIO()
    log = TrainingLog(tmp_path, stream=stream, tensorboard=False)
    log.start(0, 0)
    stream.close()
    log.train(20, 100, FIGURES)
    log.close()
    assert len(entries(tmp_path)) == 1


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    log = TrainingLog(tmp_path / "file" / "run", stream=io.StringIO(), tensorboard=False)
    with pytest.raises(UserError, match=r"log\.jsonl cannot be written"):
        log.start(0, 0)


def test_figures_of_an_interval_and_a_clock_that_jumps(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "time", lambda: -1e9)  # somebody sets the wall clock back
    stopwatch = Stopwatch()
    with stopwatch.waiting():
        now[0] += 2.0
    now[0] += 6.0
    figures = stopwatch.lap(4, 16, 30)
    assert figures == {"images_per_second": 4 * 16 / 8.0, "data_wait": 0.25, "time_left": 30 * 2.0}
    now[0] += 2.0
    with stopwatch.aside():  # an evaluation: it takes time, but the pace of training is what it is
        now[0] += 10.0
    figures = stopwatch.lap(4, 16, 26)
    assert figures == {"images_per_second": 32.0, "data_wait": 0.0, "time_left": 26 * 20.0 / 8}


def test_durations() -> None:
    assert [format_duration(s) for s in (0, 59.6, 75, 4000, 200_000)] == [
        "0:00",
        "1:00",
        "1:15",
        "1:06:40",
        "2d 7:33:20",
    ]
