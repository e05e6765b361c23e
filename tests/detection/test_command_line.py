"""How a tool ends."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from backbones.common.errors import UserError
from detection.command_line import REPOSITORY, parser, run
from detection.training.distributed import process_group

PROGRAM = """
import atexit, sys
from detection.command_line import run
from backbones.common.errors import UserError

def main():
    {}

atexit.register(print, "shut down", file=sys.stderr)
sys.exit(run(main))
"""


@pytest.mark.parametrize(
    ("work", "status", "said", "processes"),
    [
        ("return 0", 0, "", 1),
        ("return 0", 0, "", 2),
        ("raise UserError('no such file')", 1, "error: no such file\n", 1),
        ("raise UserError('no such file')", 1, "error: no such file\n", 2),
        ("raise KeyboardInterrupt", 130, "interrupted\n", 1),
        ("raise KeyboardInterrupt", 130, "interrupted\n", 2),
        ("raise RuntimeError('a GPU was lost')", 1, "RuntimeError: a GPU was lost\n", 2),
        ("import torch; torch.empty(2**50)", 1, "or the network (backbone, rpn.channels).\n", 2),
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


def test_what_is_a_bug_is_raised_by_a_single_process() -> None:
    def main() -> int:
        raise RuntimeError("a GPU was lost")

    with pytest.raises(RuntimeError, match="a GPU was lost"):
        run(main)


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


@pytest.mark.parametrize("value", ["", "two", "-1", "1.5"])
def test_a_number_of_processes_that_is_none_is_told(
    value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def main() -> int:
        with process_group("cpu"):
            return 0

    monkeypatch.setenv("WORLD_SIZE", value)
    assert run(main) == 1
    told = f"error: the environment variable WORLD_SIZE is {value!r} and should be a whole number: unset it to run one"
    assert capsys.readouterr().err.startswith(told)


TOOLS = sorted(path.stem for path in (REPOSITORY / "tools").glob("*.py"))


@pytest.mark.skipif(os.name != "posix", reason="pipes of a POSIX shell")
@pytest.mark.parametrize("tool", TOOLS)
def test_a_reader_that_has_seen_enough_of_a_tool_s_help(tool: str) -> None:
    status, said = with_reader_gone([sys.executable, str(REPOSITORY / "tools" / f"{tool}.py"), "--help"])
    assert (status, said) == (0, "")


@pytest.mark.skipif(os.name != "posix", reason="pipes of a POSIX shell")
@pytest.mark.parametrize(
    ("work", "status", "left"),
    [
        ("print('x' * 100000, flush=True); open({!r}, 'w').write('done'); return 0", 0, "done"),
        ("print('table'); open({!r}, 'w').write('done'); return 3", 3, "done"),
        ("print('x' * 100000); open({!r}, 'w').write('done'); raise UserError('no such file')", 1, "done"),
        ("print('help'); open({!r}, 'w').write('done'); sys.exit(2)", 2, "done"),
    ],
)
@pytest.mark.parametrize("errors_too", [False, True], ids=["| head", "2>&1 | head"])
def test_a_reader_that_has_seen_enough_changes_nothing_else(
    work: str, status: int, left: str, errors_too: bool, tmp_path: Path
) -> None:
    """The work is done to its end, and the status is its own."""
    program = PROGRAM.format(work.format(str(tmp_path / "file")))
    found, said = with_reader_gone([sys.executable, "-c", program], errors_too)
    assert found == status
    assert (tmp_path / "file").read_text() == left
    assert said.removesuffix("shut down\n") == ("error: no such file\n" if status == 1 and not errors_too else "")


def with_reader_gone(command: list[str], errors_too: bool = False) -> tuple[int, str]:
    """Exit status and stderr of a command whose output goes into a pipe that nobody reads any more."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            command, cwd=REPOSITORY, stdout=writer, stderr=writer if errors_too else subprocess.PIPE, timeout=60
        )
    finally:
        os.close(writer)
    return done.returncode, "" if errors_too else done.stderr.decode()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_output_that_cannot_be_written_is_told() -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-c", PROGRAM.format("print('table'); return 0")]
        done = subprocess.run(command, cwd=REPOSITORY, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith("error: [Errno 28] No space left on device")
    assert "Traceback" not in done.stderr


ALLOCATIONS = {
    "torch.empty(2**40)": "can't allocate memory: you tried to allocate 4398046511104 bytes",
    "torch.empty(2**62, 2**62)": "overflow",
    "torch.nn.Conv2d(65536, 65536, 3)": "can't allocate memory",
    "np.zeros(2**40)": "Unable to allocate 8.00 TiB",
    "b'x' * 2**40": "MemoryError",
    "cv2.resize(np.zeros((2, 2, 3), np.uint8), (32767, 32767))": "Insufficient memory",
    "torch.from_numpy(np.zeros((1, 32), np.uint8)).float().expand(2**31, 32) + 1": "can't allocate memory",
}
ALLOCATE = """
import contextlib, io, json, resource, sys, cv2, numpy as np, torch
from detection.command_line import run
held = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (held + (1 << 29),) * 2)
ends = {}
for work in sys.argv[1:]:
    with contextlib.redirect_stderr(io.StringIO()) as errors:
        status = run(lambda: eval(work))
    ends[work] = status, errors.getvalue()
print(json.dumps(ends))
"""


@pytest.fixture(scope="module")
def ends() -> dict[str, tuple[int, str]]:
    """The exit status and the errors of each allocation, in one process that may have half a gibibyte more."""
    command = [sys.executable, "-c", ALLOCATE, *ALLOCATIONS]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=True)
    found: dict[str, tuple[int, str]] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("work", ALLOCATIONS)
def test_an_allocation_that_fails_is_told_whoever_asked_for_it(work: str, ends: dict[str, tuple[int, str]]) -> None:
    status, said = ends[work]
    assert status == 1
    assert said.startswith("error: out of memory (")
    assert ALLOCATIONS[work] in said
    assert "Lower what is held at once" in said
    assert said.count("\n") == 1
