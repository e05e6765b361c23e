"""A training in odd surroundings ends in the same bits as in ordinary ones, and never reaches for the network."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from detection.data.demo import make_demo_dataset
from tests.detection.pipeline import REPOSITORY, arguments_for, environment, tool

# Runs a tool as `tools/NAME.py ARGUMENTS` would; whoever asks for a name or an address of the network ends the process.
PROGRAM = """
import functools, importlib, locale, multiprocessing, os, sys

def watch(event, arguments):
    if event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.connect", "socket.sendto"):
        if not isinstance(arguments[-1], (str, bytes)) or event == "socket.gethostbyname":  # a path: within the machine
            os.write(2, f"NETWORK: {event} {arguments}".encode())
            os._exit(99)

if __name__ == "__main__":
    sys.addaudithook(watch)
    if "LOCPATH" in os.environ:
        locale.setlocale(locale.LC_ALL, "")
        assert locale.localeconv()["decimal_point"] == ","
        assert locale.format_string("%.1f", 0.5) == "0,5"
    if "START_METHOD" in os.environ:
        multiprocessing.set_start_method(os.environ["START_METHOD"])
    from detection.command_line import run
    main = importlib.import_module("tools." + sys.argv[1]).main
    status = run(functools.partial(main, sys.argv[2:]))
    assert multiprocessing.get_start_method() == os.environ.get("START_METHOD", multiprocessing.get_start_method())
    sys.exit(status)
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    make_demo_dataset(folder, train=6, test=2)
    return folder


@pytest.fixture(scope="module")
def expected(config: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """The weights of a run in ordinary surroundings."""
    output = tmp_path_factory.mktemp("ordinary") / "run"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the processes below: sums over other numbers of threads round otherwise
    try:
        tool("train_rpn", *arguments_for(config, data, output))
    finally:
        torch.set_num_threads(threads)
    return weights(output)


def weights(output: Path) -> dict[str, torch.Tensor]:
    return torch.load(output / "rpn.pt", weights_only=True)["networks"]["rpn"]  # type: ignore[no-any-return]


def german(folder: Path) -> dict[str, str]:
    """An environment that writes one half as 0,5, made here, as test machines rarely have one; empty if that failed."""
    made = shutil.which("localedef") and subprocess.run(
        ["localedef", "-i", "de_DE", "-f", "UTF-8", str(folder / "de_DE.UTF-8")], capture_output=True
    )
    if not made or not (folder / "de_DE.UTF-8").exists():
        return {}
    return {"LOCPATH": str(folder), "LC_ALL": "de_DE.UTF-8"}


def without_network() -> list[str]:
    """What a command is run by to have no network at all, not even an address of its own; nothing where that is
    forbidden."""
    command = ["unshare", "--net"]
    try:
        return command if subprocess.run([*command, "true"], capture_output=True).returncode == 0 else []
    except FileNotFoundError:
        return []


def test_a_training_ends_in_the_same_bits(
    expected: dict[str, torch.Tensor], config: Path, data: Path, tmp_path: Path
) -> None:
    """Without a home folder or network, with another hash seed, decimal commas and a worker that is spawned."""
    locale = german(tmp_path)
    odd = {name: "/proc/nothing" for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME")}
    odd |= {"PYTHONHASHSEED": "4321", "START_METHOD": "spawn", **locale}
    changes = ["runtime.tensorboard=true", "runtime.workers=1"]
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [*without_network(), sys.executable, str(tmp_path / "program.py"), "train_rpn"]
    done = subprocess.run(
        [*command, *map(str, arguments_for(config, data, tmp_path / "run", changes))],
        cwd=REPOSITORY,
        env={**environment(), "PYTHONPATH": str(REPOSITORY), **odd},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = weights(tmp_path / "run")
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert os.listdir(tmp_path / "run" / "rpn")
    if not locale:
        pytest.skip("NO LOCALE: localedef could not make one with decimal commas, so all else was tried without it")


def test_the_watch_on_the_network_would_notice(tmp_path: Path) -> None:
    begin = PROGRAM.split("if __name__")[0]
    for asks in ("socket.getaddrinfo('localhost', 80)", "socket.create_connection(('127.0.0.1', 9))"):
        done = subprocess.run(
            [sys.executable, "-c", f"{begin}\nsys.addaudithook(watch)\nimport socket\n{asks}"], capture_output=True
        )
        assert done.returncode == 99
        assert b"NETWORK" in done.stderr
