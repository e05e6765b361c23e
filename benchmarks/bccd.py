"""AP for the same wall-clock time: our two networks beside torchvision's joint Faster R-CNN, from scratch on BCCD.

    python -m benchmarks.bccd --data ../shared/data/bccd
    python -m benchmarks.bccd --data DIR --only peer --seeds 0 --budget 1200 --peer-learning-rate 0.01    (tuning)

For each seed in turn: ours, by `detection.experiment.stages` as the tools run it (train the RPN, propose, train the
Fast R-CNN), from reading the annotations to the finished detector.pt; then the peer, stopped by the clock after as many
seconds. The peer has the same backbone, images, augmentation, batch plan, optimizer, clipping and memory order, and a
cosine driven by the share of its time that has passed, so that it ends at zero whatever the machine does. Both are
evaluated on the test split by `detection.evaluation`.

Every run is added to the result file as it ends. A contest that was interrupted goes on with the runs that are missing;
runs of other settings or on another machine stay in the file and out of the table.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import itertools
import json
import math
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN as TorchvisionFasterRCNN

from backbones import create_c4
from backbones.common.errors import UserError
from benchmarks.common import OURS, PEER, RESULTS, ROOT, environment, markdown, mean_and_range, table, write_result
from benchmarks.torchvision_peer import PeerDetector, as_lists, build_peer, c4_box_head
from detection import config as settings
from detection.command_line import run
from detection.config_file import config_to_dict, load_config
from detection.data.batch_plan import BatchPlan
from detection.data.dataset import DetectionDataset
from detection.data.index import DatasetIndex
from detection.data.loader import training_batches
from detection.experiment.builders import pair
from detection.experiment.datasets import open_split, training_images
from detection.experiment.inference import Inference, average_precision_of
from detection.experiment.model_files import load_detector
from detection.experiment.proposing import propose
from detection.experiment.resizes import training_augmentation
from detection.experiment.run_folder import RunFolder
from detection.experiment.stages import train_fast_rcnn, train_rpn
from detection.networks.faster_rcnn import FasterRCNN
from detection.training.distributed import process_group
from detection.training.loop import Outcome
from detection.training.optimizer import set_learning_rate
from detection.training.placement import placed
from detection.training.recipe import effective_learning_rate, optimizer_for

_ENDLESS = sys.maxsize // 2**20  # more steps than any budget holds
_LOG_SECONDS = 10.0


def main() -> int:
    options = _arguments().parse_args()
    config = load_config(options.config, options.set)
    if options.data is not None:
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, root=options.data))
    peer_config = _peer_config(config, options.peer_learning_rate, options.peer_batch, options.peer_regions)
    with process_group(config.runtime.device) as device:
        about = environment("bccd", device)
        keys = {OURS: settings_key(config, about), PEER: settings_key(peer_config, about)}
        runs = json.loads(options.output.read_text(encoding="utf-8"))["runs"] if options.output.exists() else []

        def known(who: str, seed: int) -> dict[str, Any] | None:
            return next((one for one in runs if one["key"] == keys[who] and one["seed"] == seed), None)

        def add(one: dict[str, Any], who: str, seed: int) -> None:
            runs.append({"who": who, "seed": seed, "key": keys[who], "commit": about["commit"], **one})
            _write(options.output, about, runs, keys)
            print(f"{who}, seed {seed}: AP {one['AP']:.3f}, AP50 {one['AP50']:.3f}, {one['seconds']:.0f} s", flush=True)

        for seed in options.seeds:
            if options.only != "peer" and known(OURS, seed) is None:
                add(run_ours(dataclasses.replace(config, seed=seed), device), OURS, seed)
            if options.only == "ours" or known(PEER, seed) is not None:
                continue
            ours = known(OURS, seed)
            budget = options.budget or (ours and ours["seconds"])
            if not budget:
                raise UserError(f"how long may the peer train? Give --budget, or run ours first for seed {seed}")
            add(run_peer(dataclasses.replace(peer_config, seed=seed), budget, device), PEER, seed)
        print(markdown(_write(options.output, about, runs, keys)))
    print(f"\n{options.output}")
    return 0


def run_ours(config: settings.Config, device: torch.device) -> dict[str, Any]:
    """Trains both networks in a folder that goes afterwards, and evaluates the pair."""
    with tempfile.TemporaryDirectory() as temporary:
        config = dataclasses.replace(config, output=temporary)
        folder = RunFolder.of(config)
        clock = [time.perf_counter()]
        _finished(train_rpn(config, device))
        clock.append(time.perf_counter())
        propose(config, folder.rpn, "train", device)
        clock.append(time.perf_counter())
        _finished(train_fast_rcnn(config, device))
        clock.append(time.perf_counter())
        trained = load_detector(folder.detector)
    detector = placed(pair(config, trained.rpn.network, trained.fast_rcnn.network), config.runtime, device)
    test = open_split(config.data, "test")
    images = sum(part.steps * part.global_batch for part in (config.rpn.training, config.fast_rcnn.training))
    parts = [end - start for start, end in itertools.pairwise(clock)]
    return {
        **evaluated(Inference.configured(detector, config), test),
        "seconds": clock[-1] - clock[0],
        "images": images,
        "parts": dict(zip(("rpn", "proposals", "fast_rcnn"), parts, strict=True)),
        "steps": {"rpn": config.rpn.training.steps, "fast_rcnn": config.fast_rcnn.training.steps},
    }


def run_peer(config: settings.Config, budget: float, device: torch.device) -> dict[str, Any]:
    """Trains torchvision's detector for `budget` seconds, counted from before the annotations are read."""
    begin = time.perf_counter()
    index = training_images(config.data, open_split(config.data, "train"))
    torch.manual_seed(config.seed)
    peer = placed(peer_of(config, len(index.category_ids)), config.runtime, device)
    steps = train_peer(config, peer, index, begin + budget, budget, device)
    trained = time.perf_counter() - begin
    detector = cast(FasterRCNN, PeerDetector(peer))  # it is called, and no more is asked of it
    return {
        **evaluated(Inference.configured(detector, config), open_split(config.data, "test")),
        "seconds": trained,
        "budget": budget,
        "images": steps * config.fast_rcnn.training.global_batch,
        "steps": steps,
        "learning_rate": config.fast_rcnn.training.learning_rate,
    }


def peer_of(config: settings.Config, classes: int) -> TorchvisionFasterRCNN:
    """torchvision's detector on the configuration's backbone, from random weights."""
    backbone = config.backbone
    names = ("depths", "cardinality", "base_width", "planes", "stem_width")
    structure = {name: getattr(backbone, name) for name in names if getattr(backbone, name) is not None}
    trunk, conv5 = create_c4(backbone.name, norm=backbone.norm, freeze=backbone.freeze, **structure)
    widths = (trunk.channels["c4"], conv5.out_channels)
    return build_peer(
        config, trunk, c4_box_head(conv5), widths=widths, classes=classes, input_format=trunk.input_format
    )


def train_peer(
    config: settings.Config,
    peer: TorchvisionFasterRCNN,
    index: DatasetIndex,
    deadline: float,
    budget: float,
    device: torch.device,
) -> int:
    """Trains until the clock (`time.perf_counter`) passes `deadline`; returns the number of steps.

    The learning rate is `fast_rcnn.training`'s, warmed up over its steps, times a cosine over the share of `budget`
    that has passed.
    """
    training = config.fast_rcnn.training
    dataset = DetectionDataset(index, training_augmentation(config.data), seed=config.seed)
    optimizer = optimizer_for(peer, training)
    peer.train()
    logged = time.perf_counter()
    step = 0
    for batch in _batches(config, dataset):
        now = time.perf_counter()
        if now >= deadline:
            break
        passed = 1 - (deadline - now) / budget
        set_learning_rate(optimizer, training.learning_rate * _warm_up(training, step) * cosine(passed))
        images, targets = as_lists(batch.to(device))
        losses: dict[str, Tensor] = peer(images, targets)
        loss = torch.stack(list(losses.values())).sum()
        if not math.isfinite(loss.item()):
            raise UserError(f"step {step + 1} of torchvision's training: the loss is {loss.item()}; lower its rate")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if training.clip_norm is not None:
            nn.utils.clip_grad_norm_(peer.parameters(), training.clip_norm)
        optimizer.step()
        step += 1
        if now - logged >= _LOG_SECONDS:
            logged = now
            print(
                f"torchvision  step {step}  loss {loss.item():.3f}  left {deadline - now:.0f} s",
                file=sys.stderr,
                flush=True,
            )
    return step


def cosine(passed: float) -> float:
    """From 1 at the beginning (0) to 0 at the end (1)."""
    return 0.5 * (1 + math.cos(math.pi * min(max(passed, 0.0), 1.0)))


def _warm_up(training: settings.Training, step: int) -> float:
    if step >= training.warmup_steps:
        return 1.0
    return training.warmup_factor + (1 - training.warmup_factor) * step / training.warmup_steps


def _batches(config: settings.Config, dataset: DetectionDataset) -> Iterator[Any]:
    plan = BatchPlan(
        dataset.index.aspect_ratios,
        config.fast_rcnn.training.global_batch,
        dataset.seed,
        config.data.group_by_aspect,
    )
    return training_batches(
        dataset,
        plan,
        first_step=0,
        last_step=_ENDLESS,
        workers=config.runtime.workers,
        size_divisor=config.data.size_divisor,
    )


def _peer_config(config: settings.Config, rate: float | None, batch: int, regions: int) -> settings.Config:
    """The configuration with the peer's batch, its rate for that batch, and its regions an image."""
    training = dataclasses.replace(config.fast_rcnn.training, global_batch=batch, images_per_device=batch)
    rate = effective_learning_rate(training) if rate is None else rate
    training = dataclasses.replace(training, learning_rate=rate, learning_rate_batch=None)
    fast_rcnn = dataclasses.replace(config.fast_rcnn, samples=regions, training=training)
    return dataclasses.replace(config, fast_rcnn=fast_rcnn)


def evaluated(inference: Inference[FasterRCNN], index: DatasetIndex) -> dict[str, Any]:
    """The figures of a detector on the images of an index, and its speed."""
    begin = time.perf_counter()
    figures, _ = average_precision_of(inference, index)
    taken = time.perf_counter() - begin
    rounded = {name: None if value is None else round(value, 5) for name, value in figures.figures.items()}
    return {
        "AP": rounded["AP"],
        "AP50": rounded["AP50"],
        "figures": rounded,
        "test_images_per_second": len(index) / taken,
    }


def _finished(outcome: Outcome) -> None:
    if not outcome.finished:
        raise SystemExit(outcome.exit_status)


def settings_key(config: settings.Config, about: dict[str, Any]) -> str:
    """What a run must share with another to stand in one table with it; not the seed, nor where the data lie."""
    values = config_to_dict(config)
    del values["seed"], values["output"], values["data"]["root"]
    text = json.dumps([values, about["hardware"], about["threads"]], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _write(path: Path, about: dict[str, Any], runs: Sequence[dict[str, Any]], keys: dict[str, str]) -> dict[str, Any]:
    """Writes all runs, and the table of those that belong together; returns the table."""
    columns = ["", "seeds", "AP", "AP@0.5", "training, s", "images/s in training", "images/s in test"]
    rows = []
    for who, key in keys.items():
        own = [one for one in runs if one["key"] == key and one["who"] == who]
        if not own:
            continue
        rates = [one["images"] / one["seconds"] for one in own]
        rows.append(
            [
                who,
                ", ".join(str(one["seed"]) for one in own),
                mean_and_range([one["AP"] for one in own], ".3f"),
                mean_and_range([one["AP50"] for one in own], ".3f"),
                mean_and_range([one["seconds"] for one in own], ".0f"),
                mean_and_range(rates, ".1f"),
                mean_and_range([one["test_images_per_second"] for one in own], ".1f"),
            ]
        )
    comparison = table("BCCD from scratch for the same time; mean (lowest – highest) over the seeds", columns, rows)
    result = {"title": "Blood cells: AP for the same wall-clock time", "environment": about, "tables": [comparison]}
    write_result(path, {**result, "keys": keys, "runs": list(runs)})
    return comparison


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", metavar="DIR", help="root of the data set; the configuration's by default")
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "bccd.yaml")
    parser.add_argument("--set", nargs="+", default=[], metavar="key.sub=value", help="changes to the configuration")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", choices=["ours", "peer"])
    parser.add_argument("--budget", type=float, metavar="SECONDS", help="the peer's time; ours of that seed by default")
    parser.add_argument(
        "--peer-learning-rate", type=float, help="for its batch; by default fast_rcnn.training's, in proportion"
    )
    parser.add_argument("--peer-batch", type=int, default=4, help="images a step (default: 4)")
    parser.add_argument("--peer-regions", type=int, default=64, help="regions an image (default: 64)")
    parser.add_argument("--output", type=Path, default=RESULTS / "bccd.json")
    return parser


if __name__ == "__main__":
    sys.exit(run(main))
