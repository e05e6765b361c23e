"""How a tool ends."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

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
