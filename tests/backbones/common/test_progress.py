"""Progress: one line on a terminal, two in a log, nothing from other ranks; what is done does not depend on it."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from backbones.common.progress import ByteProgress, is_first_rank, with_progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Called by a test, not by its fixtures: pytest captures stderr anew after these."""
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    return stream


def test_a_log_gets_a_line_at_the_beginning_and_one_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    done = []
    for batch in with_progress([[1, 2], [3, 4], [5]], 5, "detecting on val", size=len):
        done.append(batch)
        assert capsys.readouterr().err == ("detecting on val: 5 images\n" if len(done) == 1 else "")
    assert done == [[1, 2], [3, 4], [5]]
    assert capsys.readouterr().err == "detecting on val: 5 images in 0:00\n"


def test_a_number_that_is_not_known_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(with_progress(iter("abc"), None, "detecting on camera 0", unit="frames")) == ["a", "b", "c"]
    assert capsys.readouterr().err == "detecting on camera 0\ndetecting on camera 0: 3 frames in 0:00\n"


def test_a_log_does_not_call_done_what_was_broken_off(capsys: pytest.CaptureFixture[str]) -> None:
    for _ in with_progress(range(5), 5, "drawing", unit="pages"):
        break
    assert capsys.readouterr().err == "drawing: 5 pages\n"


def test_a_terminal_gets_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_a_terminal(monkeypatch)
    assert list(with_progress(range(500), 500, "detecting on val")) == list(range(500))
    text = terminal.getvalue()
    assert text.count("\n") == 1
    assert text.endswith("\n")
    last = text.rstrip("\n").split("\r")[-1]
    assert re.match(r"detecting on val: 100%\|.*\| 500/500 \[.* images/s\]", last)


@pytest.mark.parametrize(
    ("environment", "speaks"),
    [
        ({}, True),
        ({"RANK": "0", "WORLD_SIZE": "2"}, True),
        ({"RANK": "1", "WORLD_SIZE": "2"}, False),
        ({"RANK": "1"}, True),  # of something else than torchrun
        ({"RANK": "", "WORLD_SIZE": ""}, True),
    ],
)
def test_only_the_first_rank_speaks(
    environment: dict[str, str],
    speaks: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert is_first_rank() == speaks
    assert list(with_progress(range(3), 3, "x")) == [0, 1, 2]
    assert bool(capsys.readouterr().err) == speaks


def test_bytes_of_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_a_terminal(monkeypatch)
    report = ByteProgress("weights.pth")
    report.say("fetching 3.0 MB")
    report.begin(1_000_000, 3_000_000)
    report.advance_to(2_000_000)
    report.begin(500_000, 3_000_000)  # another connection, which sends from an earlier byte on
    report.advance_to(3_000_000)
    report.say("3.0 MB fetched")
    first, *others, last = terminal.getvalue().splitlines()
    assert (first, last) == ("weights.pth: fetching 3.0 MB", "weights.pth: 3.0 MB fetched")
    assert "3.00M/3.00M" in others[-1].split("\r")[-1]


def test_bytes_of_a_file_in_a_log(capsys: pytest.CaptureFixture[str]) -> None:
    for enabled in (True, False):
        report = ByteProgress("weights.pth", enabled=enabled)
        report.begin(0, None)
        report.advance_to(2_000_000)
        report.end()
        report.say("2.0 MB fetched")
        assert capsys.readouterr().err == ("weights.pth: 2.0 MB fetched\n" if enabled else "")


def test_a_terminal_without_columns_gets_its_line(repository: Path) -> None:
    """As `docker exec -t` may give one; a new pseudo-terminal has none either."""
    program = "from backbones.common.progress import with_progress\nfor _ in with_progress(range(3), 3, 'x'): pass"
    reader, writer = pty.openpty()
    subprocess.run([sys.executable, "-c", program], cwd=repository, stderr=writer, check=True)
    text = os.read(reader, 10_000).decode()
    os.close(reader)
    os.close(writer)
    assert "3/3 [" in text.rstrip().split("\r")[-1]
