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
        ("import torch; torch.empty(2**50)", 1, "or the network (backbone, rpn.channels).\n"),
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


@pytest.mark.parametrize(
    ("work", "said"),
    [
        ("torch.empty(2**40)", "can't allocate memory: you tried to allocate 4398046511104 bytes"),
        ("torch.empty(2**62, 2**62)", "overflow"),
        ("torch.nn.Conv2d(65536, 65536, 3)", "can't allocate memory"),
        ("np.zeros(2**40)", "Unable to allocate 8.00 TiB"),
        ("b'x' * 2**40", "MemoryError"),
        ("cv2.resize(np.zeros((2, 2, 3), np.uint8), (32767, 32767))", "Insufficient memory"),
        ("torch.from_numpy(np.zeros((1, 32), np.uint8)).float().expand(2**31, 32) + 1", "can't allocate memory"),
    ],
)
def test_an_allocation_that_fails_is_told_whoever_asked_for_it(work: str, said: str) -> None:
    code = (
        "import resource, sys, cv2, numpy as np, torch\nfrom detection.command_line import run\n"
        "held = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (held + (1 << 29),) * 2)\n"
        f"sys.exit(run(lambda: {work}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: out of memory (")
    assert said in done.stderr
    assert "Lower what is held at once" in done.stderr
    assert done.stderr.count("\n") == 1
