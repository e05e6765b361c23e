"""Images per second and core: our data pipeline beside torchvision's reference and one in detectron2's manner.

    python -m benchmarks.data_pipeline                              JPEGs of 640 × 480, drawn for it
    python -m benchmarks.data_pipeline --data COCO --split val2017  images in COCO's layout
    python -m benchmarks.data_pipeline --quick                      to see that it runs

One thread; the files are in the system's cache. The pipelines (`data_peers.py`) must give the same images and boxes;
that is checked first. Then they take turns, as wholes and step by step; so do decoders of JPEGs, with simplejpeg and
PyTurboJPEG where they are installed. Besides: how long worker processes take to
start, how many cores a GPU of a given speed would need (a calculation), and what decoding a JPEG at a half, a quarter
or an eighth of its size would gain where the network wants less than that.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from backbones.common.errors import UserError
from benchmarks import loader_runs
from benchmarks.common import (
    OURS,
    PEER,
    RESULTS,
    Timing,
    environment,
    interleaved,
    present,
    seconds,
    table,
)
from benchmarks.data_peers import IMAGENET, Detectron, Ours, Ready, Torchvision, Work
from benchmarks.jpeg_decoding import REDUCED_CASES, decoders_table, reduced_table
from benchmarks.photographs import photographs
from detection.command_line import run
from detection.data.coco.layout import resolve_split
from detection.data.index import load_index

MAPPER = "detectron2's manner"
STEPS = ("decode", "resize", "flip", "batch", "normalize")
# images/s. The first is published: R50-C4 by detectron2. The others are assumptions.
GPUS = (
    ("V100, training R50-C4", 3.6),
    ("H200, training, ten times as fast", 36),
    ("H200, inference", 100),
    ("H200, a far smaller network", 300),
)
COCO_IMAGES = 118_287
# The three resample with weights of 5 to 24 bits, two of them between bytes: a rounding at each of two passes.
_MOST_GREY_LEVELS, _MOST_MEAN_LEVELS, _MOST_PIXELS = 4.0, 0.6, 0.01


def main() -> int:
    options = _arguments().parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    repeats, count = (1, 4) if options.quick else (options.repeats, options.images)
    with tempfile.TemporaryDirectory() as folder:
        drawn = photographs(Path(folder), count)
        if options.data is None:
            index = drawn
        else:
            index = load_index(*resolve_split(options.data, options.split), name=options.split)
            index = index.subset(np.arange(min(count, len(index))))
        work = Work(index, options.shorter, options.longer)
        agreement = agreements(work)
        print("\n".join(f"{what}: {value:.3g}" for what, value in agreement.items()), flush=True)
        whole = interleaved(wholes(work, options.batch), repeats)
        steps = {name: interleaved(functions, repeats) for name, functions in parts(work, options.batch).items()}
        images = len(index)
        tables = [wholes_table(whole, images, _what(work, options.batch)), parts_table(steps, images)]
        tables.append(decoders_table([index.path(i) for i in range(len(index))], repeats))
        workers = worker_runs(Path(folder), repeats, options.quick)
        tables += [workers_table(workers), cores_table(1 / next(iter(workers.values()))[1].per_image)]
    tables.append(reduced_table(repeats, REDUCED_CASES[: 1 if options.quick else None]))
    output = options.output or (None if options.quick or options.data else RESULTS / "data_pipeline.json")
    about = environment("data_pipeline", packages=("opencv-python-headless", "pillow"))
    numbers = {name: timing.to_dict() for name, timing in whole.items()}
    present(output, "The data pipeline", about, tables, alike=agreement, images=images, seconds=numbers)
    return 0


def agreements(work: Work) -> dict[str, float]:
    """How far images and boxes of the peers differ from ours, in grey levels and pixels, flipped and not.

    Images are compared where they are enlarged (PIL makes smaller by averaging, the other two by skipping pixels),
    and to the same size by all three (torchvision rounds sides down, the others to the nearest pixel).

    Raises:
        UserError: they are not the same but for rounding, or there is none to compare.
    """
    grey = 255 * torch.tensor(IMAGENET.std)[None, :, None, None]
    most, mean, boxes, compared = 0.0, 0.0, 0.0, 0
    for flip in (0.0, 1.0):
        same = Work(work.index, work.shorter, work.longer, flip, divisor=1)
        pipelines = (Ours(same), Torchvision(same), Detectron(same))
        for i in range(len(work.index)):
            first, *others = [pipeline([i]) for pipeline in pipelines]
            enlarged = first.images.shape[-1] >= work.index.widths[i]
            if not enlarged or any(other.images.shape != first.images.shape for other in others):
                continue
            compared += 1
            for other in others:
                difference = (other.images - first.images).abs() * grey
                most = max(most, float((difference > _MOST_GREY_LEVELS).double().mean()))
                mean = max(mean, float(difference.mean()))
                boxes = max([boxes, *_box_differences(first, other)])
    if not compared:
        raise UserError("the pipelines enlarge none of these images to the same size, so nothing can be compared")
    if most > _MOST_PIXELS or mean > _MOST_MEAN_LEVELS or boxes > _MOST_PIXELS:
        raise UserError(
            f"the pipelines differ by {mean:.2f} grey levels on average, {most:.1%} of values by more than "
            f"{_MOST_GREY_LEVELS:.0f}, and boxes by {boxes:.2f} pixels; so their times mean nothing"
        )
    return {
        "images compared": compared,
        "mean difference in grey levels": mean,
        f"share of values that differ by more than {_MOST_GREY_LEVELS:.0f} levels": most,
        "largest difference of a box in pixels": boxes,
    }


def _box_differences(first: Ready, other: Ready) -> list[float]:
    return [float((own - theirs).abs().max()) for own, theirs in zip(first.boxes, other.boxes, strict=True) if len(own)]


def wholes(work: Work, batch: int) -> dict[str, Callable[[], object]]:
    """All images in batches, by each pipeline: to bytes where there is such a stage, and to the network's input."""
    groups = [range(start, min(start + batch, len(work.index))) for start in range(0, len(work.index), batch)]

    ours, torchvision, mapper = Ours(work), Torchvision(work), Detectron(work)
    return {
        _key(OURS, "bytes"): _over(groups, ours.to_bytes),
        _key(MAPPER, "bytes"): _over(groups, mapper.to_bytes),
        _key(OURS, "input"): _over(groups, ours),
        _key(PEER, "input"): _over(groups, torchvision),
        _key(MAPPER, "input"): _over(groups, mapper),
    }


def parts(work: Work, batch: int) -> dict[str, dict[str, Callable[[], object]]]:
    """Each step on all images, by each pipeline: name of the step → who → function. Inputs are a pipeline's own."""
    images = range(len(work.index))
    found: dict[str, dict[str, Callable[[], object]]] = {step: {} for step in STEPS}

    def add(who: str, step: str, function: Callable[[Any], Any], inputs: Sequence[Any]) -> list[Any]:
        found[step][who] = _over(inputs, function)
        return [function(one) for one in inputs]

    def groups(items: Sequence[Any]) -> list[Any]:
        return [list(items[start : start + batch]) for start in range(0, len(items), batch)]

    ours, torchvision, mapper = Ours(work), Torchvision(work), Detectron(work)
    resized = add(OURS, "resize", ours.resize, add(OURS, "decode", ours.decode, images))
    add(OURS, "flip", ours.flip, resized)
    samples = [ours.dataset[0, i] for i in images]
    add(OURS, "normalize", ours.normalize, add(OURS, "batch", ours.batch, groups(samples)))

    decoded = add(PEER, "decode", torchvision.decode, images)
    add(PEER, "flip", torchvision.flip, decoded)
    normalized = add(PEER, "normalize", torchvision.normalize, decoded)
    add(PEER, "batch", torchvision.batch, groups(add(PEER, "resize", torchvision.resize, normalized)))

    turned = add(MAPPER, "resize", mapper.resize, add(MAPPER, "decode", mapper.decode, images))
    found["flip"][MAPPER] = _over(turned, lambda one: mapper.as_tensor(mapper.flip(one)))
    floating = add(MAPPER, "normalize", mapper.normalize, [mapper.as_tensor(one) for one in turned])
    add(MAPPER, "batch", mapper.batch, groups(floating))
    return found


def _over(inputs: Sequence[Any], function: Callable[[Any], object]) -> Callable[[], None]:
    """The function called on each of the inputs; nothing is kept."""

    def call() -> None:
        for one in inputs:
            function(one)

    return call


def worker_runs(folder: Path, repeats: int, quick: bool) -> dict[str, dict[int, loader_runs.Run]]:
    """One and two workers, forked and spawned: method → workers → what was measured. The index is as long as COCO's."""
    methods = [name for name in ("fork", "spawn") if name in multiprocessing.get_all_start_methods()]
    return {
        method: loader_runs.measured(
            folder,
            (1, 2),
            batches=4 if quick else 50,
            repeats=repeats,
            method=method,
            images=100 if quick else COCO_IMAGES,
        )
        for method in methods
    }


def wholes_table(timings: Mapping[str, Timing], images: int, what: str) -> dict[str, Any]:
    """Images per second by pipeline, and ours by theirs."""
    rows = []
    for who in (OURS, PEER, MAPPER):
        cells = [who]
        for stage in ("bytes", "input"):
            timing = timings.get(_key(who, stage))
            rate = "" if timing is None else f"{images / timing.median:.0f}"
            ratio = "" if timing is None or who == OURS else f"{timings[_key(OURS, stage)].ratio_to(timing):.2f}"
            cells += [rate, ratio]
        rows.append(cells)
    columns = [
        "images/s, one thread",
        "batch of bytes",
        "our time by theirs",
        "normalised input",
        "our time by theirs",
    ]
    return table(what, columns, rows)


def parts_table(steps: Mapping[str, Mapping[str, Timing]], images: int) -> dict[str, Any]:
    """Milliseconds an image of each step by pipeline."""
    rows = [[who, *(seconds(own[who].median / images) for own in steps.values())] for who in (OURS, PEER, MAPPER)]
    return table("Each step, an image", ["", *steps], rows)


def workers_table(runs: Mapping[str, Mapping[int, loader_runs.Run]]) -> dict[str, Any]:
    """How long workers take to start, how fast they then are, and what memory they add."""
    rows = [
        [method, str(number), seconds(one.first_batch), f"{1 / one.per_image:.0f}", f"{one.worker_mb:.0f} MB"]
        for method, own in runs.items()
        for number, one in own.items()
    ]
    title = f"Worker processes of the loader, batches of {loader_runs.BATCH}, an index of COCO's length"
    columns = ["started by", "workers", "until the first batch", "images/s from then on", "memory of their own"]
    return table(title, columns, rows)


def cores_table(rate: float) -> dict[str, Any]:
    """Calculated, not measured: how many cores it takes to feed a GPU."""
    rows = [[what, f"{speed:g}", f"{speed / rate:.2f}"] for what, speed in GPUS]
    title = f"Cores that keep a GPU fed: a calculation from {rate:.0f} images/s a worker; the GPU normalises"
    return table(title, ["a GPU of", "images/s", "cores"], rows)


def _key(who: str, stage: str) -> str:
    return f"{who}, to {stage}"


def _what(work: Work, batch: int) -> str:
    index = work.index
    sizes = {(int(width), int(height)) for width, height in zip(index.widths, index.heights, strict=True)}
    files = " × ".join(map(str, next(iter(sizes)))) if len(sizes) == 1 else f"{len(sizes)} sizes"
    return (
        f"{len(index)} JPEGs of {files} → shorter side {work.shorter}, longer at most {work.longer}, flipped with "
        f"probability {work.flip:g}, batches of {batch}"
    )


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="root of a data set in COCO's layout; drawn images by default")
    parser.add_argument("--split", default="val2017", help="of --data (default: val2017)")
    parser.add_argument("--images", type=int, default=32, help="how many, at most (default: 32)")
    parser.add_argument("--batch", type=int, default=8, help="images a batch (default: 8)")
    parser.add_argument("--shorter", type=int, default=600, help="what the shorter side is scaled to (default: 600)")
    parser.add_argument(
        "--longer", type=int, default=1000, help="what the longer side is not to exceed (default: 1000)"
    )
    parser.add_argument("--repeats", type=int, default=5, help="rounds (default: 5)")
    parser.add_argument("--quick", action="store_true", help="four images, one round; no file")
    parser.add_argument(
        "--output", type=Path, help="benchmarks/results/data_pipeline.json by default; none with --data"
    )
    return parser


if __name__ == "__main__":
    sys.exit(run(main))
