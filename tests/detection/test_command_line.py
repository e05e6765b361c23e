"""How a tool ends."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from backbones.common.errors import UserError
from detection.command_line import parser, run

PROGRAM = """
import atexit, sys
from detection.command_line import run
from backbones.common.errors import UserError

def main():
    {}

atexit.register(print, "shut down", file=sys.stderr)
sys.exit(run(main))
"""


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize(
    ("work", "status", "said"),
    [
        ("return 0", 0, ""),
        ("raise UserError('no such file')", 1, "error: no such file\n"),
        ("raise KeyboardInterrupt", 130, "interrupted\n"),
        ("raise RuntimeError('a GPU was lost')", 1, "RuntimeError: a GPU was lost\n"),
    ],
)
def test_one_process_of_several_ends_without_the_interpreter_s_shutting_down(
    work: str, status: int, said: str, processes: int
) -> None:
    """Whatever ends it: PyTorch 2.10 may hang there. What it has to say comes first."""
    environment = {**os.environ, "WORLD_SIZE": str(processes)}
    command = [sys.executable, "-c", PROGRAM.format(work)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == status
    assert done.stderr.removesuffix("shut down\n").endswith(said)
    assert ("shut down" in done.stderr) == (processes == 1)


def test_control_characters_never_reach_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> int:
        logging.getLogger("detection").warning("%s is damaged\nand\x9b1m", "a\x1b[2J.png")
        raise UserError("b\x1b]0;t\x07.png: no such file\n  second line")

    before = logging.getLogger().handlers[:]
    try:
        assert run(main) == 1
    finally:
        logging.getLogger().handlers[:] = before
    said = capsys.readouterr().err
    assert said == ("a\\x1b[2J.png is damaged\nand\\x9b1m\nerror: b\\x1b]0;t\\x07.png: no such file\n  second line\n")


def test_paths_may_begin_with_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    arguments = parser("")
    arguments.add_argument("--output", type=Path)
    arguments.add_argument("paths", type=Path, nargs="*")
    options = arguments.parse_args(["--output=~/found", "~/a", "b~", "~nobody-of-this-name/c"])
    assert options.output == tmp_path / "found"
    assert options.paths == [tmp_path / "a", Path("b~"), Path("~nobody-of-this-name/c")]
