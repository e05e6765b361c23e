"""A dry run: everything is built, a few steps are measured, and what the real run will take is told.

Nothing is written into the run's folder. (What building needs is made as ever: the demo's images, fetched weights.)
"""

from __future__ import annotations

import dataclasses
import io
import logging
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from detection import config as settings
from detection.data.dataset import DetectionDataset
from detection.data.index import DatasetIndex
from detection.data.proposal_store import ProposalStore
from detection.data.proposal_writer import ProposalWriter
from detection.experiment.builders import build_fast_rcnn, build_rpn
from detection.experiment.datasets import on_unreadable, open_training_splits, training_augmentation
from detection.experiment.inference import propose
from detection.experiment.model_files import load_trained
from detection.experiment.placement import (
    accumulation_steps,
    autocast_dtype,
    batch_in_words,
    batches_for,
    effective_learning_rate,
    for_inference,
    optimizer_for,
    placed,
    schedule_for,
)
from detection.experiment.proposing import is_current
from detection.experiment.run_folder import RunFolder
from detection.networks.rpn import RPN
from detection.training.artifacts import sha256_of
from detection.training.distributed import gather_objects, on_main, world_size
from detection.training.logging import TrainingLog, format_duration
from detection.training.loop import train
from detection.training.memory import memory_in_use
from detection.training.micro_batches import TrainingBatch

logger = logging.getLogger(__name__)

STEPS = 3  # measured, after one to warm up
_PROPOSAL_BYTES = 20  # four corners and a score, float32


class Pace(NamedTuple):
    """Seconds: of a step, and from nothing to the end of the first one, workers' start and compilation included."""

    step: float
    start: float


def of_rpn(config: settings.Config, device: torch.device) -> str:
    """The plan of `stages.train_rpn`, as text."""
    folder = RunFolder.of(config)
    index, _ = open_training_splits(config.data, evaluate=config.rpn.training.evaluate_every is not None)
    network = placed(build_rpn(config), config.runtime, device)
    dataset = DetectionDataset(
        _some(index, config.rpn.training),
        training_augmentation(config.data),
        seed=config.seed,
        unreadable=on_unreadable(config.data),
    )
    pace = _pace(network, config, config.rpn.training, dataset, device)
    written = [folder.config, folder.rpn, *files_of_training(folder.rpn_training, config.runtime)]
    return describe("rpn", network, config.rpn.training, len(index), pace, device, written, folder.root)


def of_fast_rcnn(
    config: settings.Config,
    device: torch.device,
    *,
    rpn_file: Path | None = None,
    proposals_file: Path | None = None,
) -> str:
    """The plan of `stages.train_fast_rcnn`, as text. Without a trained RPN an untrained one stands in: the time is the
    same.

    Raises:
        UserError: what `stages.train_fast_rcnn` would raise, but for a missing RPN.
    """
    folder = RunFolder.of(config)
    index, _ = open_training_splits(config.data, evaluate=config.fast_rcnn.training.evaluate_every is not None)
    some = _some(index, config.fast_rcnn.training)
    rpn_file = rpn_file or folder.rpn
    trained = load_trained(rpn_file, "rpn", "detector").rpn if rpn_file.is_file() else None
    limits, own = config.rpn.training_proposals, folder.proposals(index.name)
    if proposals_file is None and trained is not None:
        proposals_file = own if on_main(lambda: is_current(own, config, rpn_file, index, limits)) else None
    proposing = 0.0
    with tempfile.TemporaryDirectory() as temporary:
        if proposals_file is not None:
            store = ProposalStore.open(proposals_file)
            store.check_against(index, sha256_of(rpn_file) if trained is not None else None)
        else:
            on_main(lambda: logger.info("measuring how long proposing takes …"))
            rpn = for_inference(trained or build_rpn(config), config.runtime, device)
            began = time.monotonic()
            store = _proposals_of(config, rpn, some, device, Path(temporary) / "proposals.st")
            # The processes shared these images, as they will share all.
            proposing = (time.monotonic() - began) / len(some) * len(index)
        network = placed(build_fast_rcnn(config, len(index.category_ids)), config.runtime, device)
        dataset = DetectionDataset(
            some,
            training_augmentation(config.data),
            seed=config.seed,
            proposals=store,
            proposal_limit=limits.after_nms,
            unreadable=on_unreadable(config.data),
        )
        pace = _pace(network, config, config.fast_rcnn.training, dataset, device)
    written = [
        folder.config,
        folder.fast_rcnn,
        folder.detector,
        *files_of_training(folder.fast_rcnn_training, config.runtime),
    ]
    store_bytes = 0
    if proposals_file is None:
        written = [own, own.with_name(f"{own.name}.lock"), *written]
        store_bytes = len(index) * limits.after_nms * _PROPOSAL_BYTES
    text = describe(
        "Fast R-CNN", network, config.fast_rcnn.training, len(index), pace, device, written, folder.root, store_bytes
    )
    if proposals_file is None:
        text += f"\nproposals first   {len(index)} images, about {format_duration(proposing)}"
    if trained is None:
        text += f"\nnote              {rpn_file} is not there yet" + (
            ": an untrained RPN proposed" if proposals_file is None else ""
        )
    return text


def files_of_training(folder: Path, runtime: settings.Runtime) -> list[Path]:
    """What `training_run.run_training` writes into its folder."""
    names = ["checkpoint_*.pt", "log.jsonl", "run.lock", *(["tensorboard"] if runtime.tensorboard else [])]
    return [folder / name for name in names]


def _some(index: DatasetIndex, training: settings.Training) -> DatasetIndex:
    """As many images as the measured steps take, spread over the data set."""
    count = min(len(index), training.global_batch * (STEPS + 1))
    return index.subset(np.unique(np.linspace(0, len(index) - 1, count).astype(int)))


def _proposals_of(
    config: settings.Config, rpn: RPN, index: DatasetIndex, device: torch.device, path: Path
) -> ProposalStore:
    writer = ProposalWriter(path, {"dataset_fingerprint": index.fingerprint}, index.image_ids)
    one_process = dataclasses.replace(config, runtime=dataclasses.replace(config.runtime, workers=0))
    own = list(propose(one_process, rpn, index, device, config.rpn.training_proposals))
    for image_id, boxes, scores in (image for share in gather_objects(own) for image in share):
        writer.add(image_id, boxes, scores)
    writer.finish()
    return ProposalStore.open(path)


def _pace(
    network: nn.Module,
    config: settings.Config,
    training: settings.Training,
    dataset: DetectionDataset,
    device: torch.device,
) -> Pace:
    return measured_pace(
        network, lambda short: batches_for(config, short, dataset, device), training, config.runtime, device
    )


def measured_pace(
    network: nn.Module,
    batches: Callable[[settings.Training], Callable[[int], Iterable[TrainingBatch]]],
    training: settings.Training,
    runtime: settings.Runtime,
    device: torch.device,
) -> Pace:
    """How long a step takes here, by a few of them. `batches`: what `train` takes, for a training of fewer steps."""

    on_main(lambda: logger.info("measuring a few steps of %d images …", training.global_batch))

    def run(steps: int) -> float:
        short = dataclasses.replace(training, steps=steps)
        began = time.monotonic()
        train(
            network,
            batches(short),
            optimizer_for(network, training),
            steps=steps,
            schedule=_warm(schedule_for(training)),
            global_batch=training.global_batch,
            accumulation=accumulation_steps(training, world_size()),
            device=device,
            autocast=autocast_dtype(runtime, device),
            clip_norm=training.clip_norm,
            log=TrainingLog(stream=io.StringIO()),
        )
        return time.monotonic() - began

    warm_up = run(1)
    # What starting the workers and warming up cost is in both times, and drops out of the difference.
    return Pace(max((run(1 + STEPS) - min(warm_up, run(1))) / STEPS, 1e-6), warm_up)


def _warm(schedule: Callable[[int], float]) -> Callable[[int], float]:
    """A rate so small that measuring cannot make an untrained network diverge."""
    return lambda step: schedule(step) * 1e-3


def describe(
    name: str,
    network: nn.Module,
    training: settings.Training,
    images: int,
    pace: Pace,
    device: torch.device,
    written: Sequence[Path],
    folder: Path,
    store_bytes: int = 0,
) -> str:
    """The plan of a training as text. `folder`: where the run writes; `store_bytes`: size of the proposal store that it
    makes before."""
    parameters = sum(parameter.numel() for parameter in network.parameters())
    learning = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    weights = sum(value.numel() * value.element_size() for value in network.state_dict().values())
    checkpoint = weights + 4 * learning  # momentum
    # A checkpoint is deleted only when the next one stands. While the store is joined it needs its size once more.
    disk = store_bytes + max(checkpoint * (training.keep_checkpoints + 1) + 3 * weights, store_bytes)
    world = world_size()
    free = shutil.disk_usage(_existing(folder)).free
    rows = {
        "network": f"{name}: {parameters / 1e6:.1f} M parameters, {learning / 1e6:.1f} M of them learn",
        "device": f"{world} × {device}",
        "images": str(images),
        "batch": batch_in_words(training, world),
        "learning rate": f"{effective_learning_rate(training):g} (stated: {training.learning_rate:g} for "
        f"{training.learning_rate_batch or 'any number of'} images a step)",
        "steps": f"{training.steps}, {training.steps * training.global_batch / images:.2f} epochs",
        "a step": f"{pace.step:.3f} s, measured over {STEPS}; {training.global_batch / pace.step:.2f} images/s",
        "the first one": f"after {pace.start:.3f} s: workers are started, and kernels compiled where that is wanted",
        "time": format_duration(pace.step * training.steps),
        "peak memory": f"{_peak_memory(device):.0f} MiB",
        "disk": f"{_size(disk)} needed, {_size(free)} free" + (": TOO LITTLE" if disk > free else ""),
        "written": "\n".join(f"{'':18}{path}" for path in written).lstrip(),
    }
    return "\n".join(f"{key:<18}{value}" for key, value in rows.items())


def _peak_memory(device: torch.device) -> float:
    """Mebibytes: on a GPU the most that tensors have taken, on a CPU the most that this process has held."""
    try:
        peak = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    except OSError:
        peak = None
    return memory_in_use(device) if device.type == "cuda" or peak is None else int(peak[1]) / 1024


def _size(count: float) -> str:
    """3e6 bytes → "2.9 MiB"."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"


def _existing(folder: Path) -> Path:
    """The nearest folder above that exists."""
    folder = folder.resolve()
    while not folder.exists():
        folder = folder.parent
    return folder
