"""A dry run: everything is built, a few steps are measured, nothing is written; what the real run will take is told."""

from __future__ import annotations

import dataclasses
import io
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from detection import config as settings
from detection.builders import build_fast_rcnn, build_rpn
from detection.data.dataset import DetectionDataset
from detection.data.index import DatasetIndex
from detection.data.proposal_store import ProposalStore
from detection.data.proposal_writer import ProposalWriter
from detection.inference import propose
from detection.model_files import load_trained
from detection.recipe import (
    accumulation_steps,
    autocast_dtype,
    batches_for,
    effective_learning_rate,
    optimizer_for,
    placed,
    schedule_for,
)
from detection.rpn import RPN
from detection.run_folder import RunFolder
from detection.splits import on_unreadable, open_split, training_augmentation, training_pictures
from detection.training.distributed import gather_objects, world_size
from detection.training.logging import TrainingLog, format_duration
from detection.training.loop import train
from detection.training.memory import memory_in_use
from detection.training.micro_batches import TrainingBatch

STEPS = 3  # measured, after one to warm up
_PROPOSAL_BYTES = 20  # four corners and a score, float32


def of_rpn(config: settings.Config, device: torch.device) -> str:
    """The plan of `stages.train_rpn`, as text."""
    folder = RunFolder.of(config)
    index = training_pictures(config.data, open_split(config.data, "train"))
    network = placed(build_rpn(config), config.runtime, device)
    dataset = DetectionDataset(
        _some(index, config.rpn.training),
        training_augmentation(config.data),
        seed=config.seed,
        unreadable=on_unreadable(config.data),
    )
    seconds = _seconds_per_step(network, config, config.rpn.training, dataset, device)
    written = [folder.config, folder.rpn, folder.rpn_training / "checkpoint_*.pt", folder.rpn_training / "log.jsonl"]
    return describe("rpn", network, config.rpn.training, len(index), seconds, device, written, folder.root)


def of_fast_rcnn(config: settings.Config, device: torch.device, *, rpn_file: Path | None = None) -> str:
    """The plan of `stages.train_fast_rcnn`, as text. Without a trained RPN an untrained one stands in: the time is the
    same."""
    folder = RunFolder.of(config)
    index = training_pictures(config.data, open_split(config.data, "train"))
    some = _some(index, config.fast_rcnn.training)
    rpn_file = rpn_file or folder.rpn
    trained = load_trained(rpn_file, "rpn", "detector").rpn if rpn_file.is_file() else None
    rpn = placed(trained or build_rpn(config), config.runtime, device)
    with tempfile.TemporaryDirectory() as temporary:
        began = time.monotonic()
        store = _proposals_of(config, rpn, some, device, Path(temporary) / "proposals.st")
        proposing = (time.monotonic() - began) / len(some) * len(index) / world_size()
        network = placed(build_fast_rcnn(config, len(index.category_ids)), config.runtime, device)
        dataset = DetectionDataset(
            some,
            training_augmentation(config.data),
            seed=config.seed,
            proposals=store,
            unreadable=on_unreadable(config.data),
        )
        seconds = _seconds_per_step(network, config, config.fast_rcnn.training, dataset, device)
    made = folder.proposals(config.data.train.name)
    written = [
        *([] if made.exists() else [made]),
        folder.config,
        folder.fast_rcnn,
        folder.detector,
        folder.fast_rcnn_training / "checkpoint_*.pt",
        folder.fast_rcnn_training / "log.jsonl",
    ]
    store_bytes = 0 if made.exists() else len(index) * config.rpn.training_proposals.after_nms * _PROPOSAL_BYTES
    text = describe(
        "Fast R-CNN", network, config.fast_rcnn.training, len(index), seconds, device, written, folder.root, store_bytes
    )
    if not made.exists():
        text += f"\nproposals first   {len(index)} pictures, about {format_duration(proposing)}"
    if trained is None:
        text += f"\nnote              {rpn_file} is not there yet: an untrained RPN proposed"
    return text


def _some(index: DatasetIndex, training: settings.Training) -> DatasetIndex:
    """As many pictures as the measured steps take, spread over the data set."""
    count = min(len(index), training.global_batch * (STEPS + 1))
    return index.subset(np.unique(np.linspace(0, len(index) - 1, count).astype(int)))


def _proposals_of(
    config: settings.Config, rpn: RPN, index: DatasetIndex, device: torch.device, path: Path
) -> ProposalStore:
    writer = ProposalWriter(path, {"dataset_fingerprint": index.fingerprint}, index.image_ids)
    one_process = dataclasses.replace(config, runtime=dataclasses.replace(config.runtime, workers=0))
    own = list(propose(one_process, rpn, index, device, config.rpn.training_proposals))
    for image_id, boxes, scores in (picture for share in gather_objects(own) for picture in share):
        writer.add(image_id, boxes, scores)
    writer.finish()
    return ProposalStore.open(path)


def _seconds_per_step(
    network: nn.Module,
    config: settings.Config,
    training: settings.Training,
    dataset: DetectionDataset,
    device: torch.device,
) -> float:
    return seconds_per_step(
        network, lambda short: batches_for(config, short, dataset, device), training, config.runtime, device
    )


def seconds_per_step(
    network: nn.Module,
    batches: Callable[[settings.Training], Callable[[int], Iterable[TrainingBatch]]],
    training: settings.Training,
    runtime: settings.Runtime,
    device: torch.device,
) -> float:
    """How long a step takes here, by a few of them. `batches`: what `train` takes, for a training of fewer steps."""

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
    return max((run(1 + STEPS) - min(warm_up, run(1))) / STEPS, 1e-6)


def _warm(schedule: Callable[[int], float]) -> Callable[[int], float]:
    """A rate so small that measuring cannot make an untrained network diverge."""
    return lambda step: schedule(step) * 1e-3


def describe(
    name: str,
    network: nn.Module,
    training: settings.Training,
    pictures: int,
    seconds: float,
    device: torch.device,
    written: Sequence[Path],
    folder: Path,
    store_bytes: int = 0,
) -> str:
    """The plan of a training as text. `folder`: where the run writes; `store_bytes`: what it stores besides weights."""
    parameters = sum(parameter.numel() for parameter in network.parameters())
    learning = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    weights = sum(value.numel() * value.element_size() for value in network.state_dict().values())
    checkpoint = weights + 4 * learning  # momentum
    disk = checkpoint * (training.keep_checkpoints + 1) + 3 * weights + store_bytes
    world = world_size()
    free = shutil.disk_usage(_existing(folder)).free
    rows = {
        "network": f"{name}: {parameters / 1e6:.1f} M parameters, {learning / 1e6:.1f} M of them learn",
        "device": f"{world} × {device}",
        "pictures": str(pictures),
        "batch": f"{training.global_batch} a step = {world} process(es) × {accumulation_steps(training, world)} "
        f"micro-batch(es) of up to {training.images_per_device}",
        "learning rate": f"{effective_learning_rate(training):g} (stated: {training.learning_rate:g} for "
        f"{training.learning_rate_batch or 'any number of'} pictures a step)",
        "steps": f"{training.steps}, {training.steps * training.global_batch / pictures:.2f} epochs",
        "a step": f"{seconds:.3f} s, measured over {STEPS}; {training.global_batch / seconds:.2f} pictures/s",
        "time": format_duration(seconds * training.steps),
        "peak memory": f"{memory_in_use(device):.0f} MiB",
        "disk": f"{disk / 2**30:.2f} GiB needed, {free / 2**30:.1f} GiB free",
        "written": "\n".join(f"{'':18}{path}" for path in written).lstrip(),
    }
    return "\n".join(f"{key:<18}{value}" for key, value in rows.items())


def _existing(folder: Path) -> Path:
    """The nearest folder above that exists."""
    folder = folder.resolve()
    while not folder.exists():
        folder = folder.parent
    return folder
