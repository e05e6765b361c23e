"""A whole experiment in miniature: a few drawn images, tiny networks, a handful of steps."""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from detection.command_line import run
from detection.config_file import load_config
from detection.data.demo_drawing import CLASSES
from detection.experiment.builders import build_fast_rcnn, build_rpn
from detection.experiment.model_files import Categories, Trained, TrainedDetector, save_detector, save_rpn
from detection.training.checkpoints import Checkpointer, TrainingState
from tests.detection.tiny_networks import spread
from tests.detection.training.toy_processes import fork_server, rank_environments

REPOSITORY = Path(__file__).resolve().parents[2]

MINIATURE = """
name: miniature
data:
  layout: files
  train: {name: train, annotations: annotations/instances_train.json, images: train}
  test: {name: test, annotations: annotations/instances_test.json, images: test}
  shorter_sides: [96]
  longer_side: 144
  test_shorter_side: 96
  test_longer_side: 144
  size_divisor: 160  # every batch is padded to the same size, so that only rounding depends on how it is split
backbone:
  name: resnext50_32x4d
  depths: [1, 1, 1, 1]
  cardinality: 2
  base_width: 16
  planes: 8
  stem_width: 8
  norm: group
  freeze: null
rpn:
  anchor_sizes: [24, 48]
  anchor_ratios: [1.0]
  channels: 16
  samples: 32
  training_proposals: {before_nms: 200, after_nms: 40, min_side: 0}
  test_proposals: {before_nms: 200, after_nms: 20, min_side: 0}
  training:
    global_batch: 4
    images_per_device: 4
    learning_rate: 0.01
    learning_rate_batch: 4
    steps: 6
    milestones: [4]
    log_every: 2
    checkpoint_every: 2
fast_rcnn:
  pooling: align
  pooled_size: 4
  samples: 16
  min_score: 0.01
  training:
    global_batch: 4
    images_per_device: 4
    learning_rate: 0.001  # at ten times this, rounding grows tenfold a step in so small a network
    learning_rate_batch: 4
    steps: 6
    milestones: [4]
    log_every: 2
    checkpoint_every: 2
runtime: {workers: 0, tensorboard: false, device: cpu}
"""

# What makes the configuration that is fitted to a folder of drawn images quick to train.
TINY = [
    *("data.shorter_sides=[96]", "data.longer_side=144", "data.test_shorter_side=96", "data.test_longer_side=144"),
    *("rpn.training.steps=3", "fast_rcnn.training.steps=3", "runtime.workers=0", "runtime.tensorboard=false"),
]


def tool(name: str, *arguments: object, processes: int = 1, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Runs a tool in this process, which saves the seconds of importing torch; in several `processes`, as the ranks of
    one run."""
    command = [str(argument) for argument in arguments]
    if processes == 1:
        output, errors = (io.TextIOWrapper(io.BytesIO(), "utf-8", newline="", write_through=True) for _ in range(2))
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
            status = _run(name, command)
        written = [stream.buffer.getvalue().decode() for stream in (output, errors)]  # type: ignore[attr-defined]
        result = subprocess.CompletedProcess([name, *command], status, *written)
    else:
        result = subprocess.CompletedProcess([name, *command], *_run_by_ranks(name, command, processes))
    if check:
        assert result.returncode == 0, result.stderr[-3000:]
    return result


def _run(name: str, command: list[str]) -> int:
    return run(functools.partial(importlib.import_module(f"tools.{name}").main, command))


def _run_by_ranks(name: str, command: list[str], world: int) -> tuple[int, str, str]:
    """The highest exit status of several ranks, and what they wrote to stdout and stderr."""
    with tempfile.TemporaryDirectory() as folder:
        processes = [
            fork_server().Process(target=_run_as_rank, args=(name, command, environment, folder))
            for environment in rank_environments(world)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join(300)
            process.kill()
        written = [Path(folder, stream).read_text() for stream in ("stdout", "stderr")]
    return max(abs(process.exitcode or 0) for process in processes), written[0], written[1]


def _run_as_rank(name: str, command: list[str], environment: dict[str, str], folder: str) -> None:
    os.environ.update(environment)
    for stream in ("stdout", "stderr"):
        setattr(sys, stream, open(f"{folder}/{stream}", "a"))  # noqa: SIM115
    _run(name, command)  # which ends a process of several


def torchrun(name: str, *arguments: object, processes: int) -> None:
    """Runs a tool in several processes by torchrun, as a user does."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, *launcher, f"tools/{name}.py", *map(str, arguments)]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]


def kill_before_second_checkpoint(name: str, *arguments: object) -> None:
    """Runs a training tool in a process that is killed -9 when it is about to write its second checkpoint."""
    process = fork_server().Process(target=_run_until_second_checkpoint, args=(name, [str(one) for one in arguments]))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL


def _run_until_second_checkpoint(name: str, command: list[str]) -> None:
    save, saved = Checkpointer.save, []

    def save_one(self: Checkpointer, state: TrainingState) -> Path:
        if saved:
            os.kill(os.getpid(), signal.SIGKILL)
        saved.append(save(self, state))
        return saved[0]

    Checkpointer.save = save_one  # type: ignore[method-assign]
    tool(name, *command)


def start(name: str, *arguments: object, **options: Any) -> subprocess.Popen[str]:
    """Starts a tool as a process of its own, from the repository's root, as a user does."""
    command = [sys.executable, f"tools/{name}.py", *map(str, arguments)]
    return subprocess.Popen(command, cwd=REPOSITORY, env=environment(), stderr=subprocess.PIPE, text=True, **options)


def environment() -> dict[str, str]:
    """Few threads, so that two tests' processes do not fight; and no network, by a proxy that nobody answers."""
    return {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "HTTPS_PROXY": "http://127.0.0.1:9",
        "HTTP_PROXY": "http://127.0.0.1:9",
    }


def arguments_for(config: Path, data: Path, output: Path, changes: Sequence[str] = ()) -> list[object]:
    """The arguments that the training tools share."""
    return ["--config", config, "--data", data, "--output", output, *changes]


def save_untrained_networks(folder: Path, data: Path) -> None:
    """Writes rpn.pt and detector.pt of networks that were never trained, but find a lot on the demo's images in `data`,
    and the miniature.yaml that they are of."""
    (folder / "miniature.yaml").write_text(MINIATURE)
    config = load_config(folder / "miniature.yaml", [f"data.root={data}", f"output={folder}"])
    torch.manual_seed(0)
    rpn, fast_rcnn = build_rpn(config), build_fast_rcnn(config, len(CLASSES))
    spread(rpn)
    spread(fast_rcnn)
    categories = Categories(tuple(range(1, len(CLASSES) + 1)), CLASSES)
    trained = TrainedDetector(Trained(rpn, config, categories), Trained(fast_rcnn, config, categories))
    save_rpn(folder / "rpn.pt", trained.rpn)
    save_detector(folder / "detector.pt", trained)


def stored_weights(path: Path) -> dict[str, torch.Tensor]:
    """A file of networks: each weight by its network and name."""
    networks = torch.load(path, weights_only=True)["networks"]
    return {f"{network}.{name}": value for network, weights in networks.items() for name, value in weights.items()}


def assert_same_weights(first: Path, second: Path, atol: float = 0, rtol: float = 0) -> None:
    one, other = stored_weights(first), stored_weights(second)
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], atol=atol, rtol=rtol, msg=lambda m, n=name: f"{n}: {m}")
