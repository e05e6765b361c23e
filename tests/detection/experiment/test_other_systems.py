"""The main path without what only Linux or POSIX systems have."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from detection.data.demo import make_demo_dataset
from tests.detection.pipeline import REPOSITORY, arguments_for, environment

# Runs in every process that Python starts, also in the workers: what Windows has not is taken away, and processes are
# started as there and on macOS. What Python and the libraries use themselves stays (SIGKILL, register_at_fork, uname).
SITE = """
import multiprocessing, os, pathlib, signal, sys

multiprocessing.set_start_method("spawn")
for name in ("fork", "forkpty", "memfd_create", "sched_getaffinity", "sysconf", "getuid", "geteuid",
             "nice", "statvfs", "mkfifo", "link", "symlink", "O_NOFOLLOW", "O_DIRECTORY", "getloadavg"):
    delattr(os, name)
for name in ("SIGUSR1", "SIGUSR2", "SIGHUP", "SIGALRM", "pthread_sigmask", "setitimer", "alarm"):
    delattr(signal, name)
for name in ("resource", "pwd", "grp", "termios", "tty", "pty", "readline"):
    sys.modules[name] = None
opened = pathlib.Path.read_text
def read_text(path, *arguments, **options):
    if str(path).startswith(("/proc", "/sys")):
        raise FileNotFoundError(path)
    return opened(path, *arguments, **options)
pathlib.Path.read_text = read_text
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    make_demo_dataset(tmp_path / "data", train=6, test=2)
    return tmp_path / "data"


@pytest.mark.slow
def test_training_evaluation_and_prediction(config: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(SITE)
    surroundings = {**environment(), "PYTHONPATH": str(tmp_path / "site")}

    def call(name: str, *arguments: object) -> str:
        command = [sys.executable, f"tools/{name}.py", *map(str, arguments)]
        done = subprocess.run(command, cwd=REPOSITORY, env=surroundings, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    changes = ["runtime.workers=1", "runtime.tensorboard=true"]
    assert "AP@0.5" in call("train", *arguments_for(config, data, tmp_path / "run", changes))
    call("predict", "--weights", tmp_path / "run" / "detector.pt", data / "test", "--output", tmp_path / "found")
    assert (tmp_path / "found" / "detections.json").is_file()
    call("check_dataset", "--data", data, "--output", tmp_path / "page")
