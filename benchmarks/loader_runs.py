"""Worker processes of the loader, timed in a process that has done nothing else; prints JSON, for other benchmarks.

    python -m benchmarks.loader_runs FOLDER --workers 0 1 2 --method fork

For each number of workers: seconds until the first batch is there (which starts the workers), seconds an image from
then on, and the MB of memory that the workers hold for themselves alone.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import multiprocessing
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

BATCH = 4
_NOT_TAKEN = 3  # batches a worker: more than one makes before the first is taken, as it ends after its last one


class Run(NamedTuple):
    """One start of a loader."""

    first_batch: float
    per_image: float
    worker_mb: float


def measured(
    folder: Path,
    workers: Sequence[int],
    *,
    batches: int,
    repeats: int,
    images: int | None = None,
    method: str = "fork",
    side: int = 600,
) -> dict[int, Run]:
    """Medians for each number of workers, measured in turns in a process of its own.

    Args:
        folder: of `benchmarks.photographs`.
        batches: to be taken each time.
        images: make the index as long as this by repeating it.
        side: what the shorter side is scaled to.
    """
    command = [sys.executable, "-m", "benchmarks.loader_runs", str(folder), "--method", method, "--side", str(side)]
    command += ["--batches", str(batches), "--repeats", str(repeats), "--workers", *map(str, workers)]
    if images is not None:
        command += ["--images", str(images)]
    root = Path(__file__).resolve().parent.parent
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=root).stdout
    return {int(number): Run(*run) for number, run in json.loads(output.splitlines()[-1]).items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--workers", type=int, nargs="+", required=True)
    parser.add_argument("--method", choices=multiprocessing.get_all_start_methods(), default="fork")
    parser.add_argument("--batches", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--images", type=int, help="length of the index; as many as there are by default")
    parser.add_argument("--side", type=int, default=600)
    options = parser.parse_args()

    # Here and not above: a spawned worker imports this module, and is to import no more than the loader makes it.
    import cv2
    import numpy as np
    import torch

    from detection.data.augmentation import Augmentation
    from detection.data.batch_plan import BatchPlan
    from detection.data.dataset import DetectionDataset
    from detection.data.index import load_index
    from detection.data.loader import training_batches

    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    multiprocessing.set_start_method(options.method)
    index = load_index(options.folder / "annotations.json", options.folder, name="photographs")
    if options.images is not None:
        index = index.subset(np.resize(np.arange(len(index)), options.images))
    dataset = DetectionDataset(index, Augmentation((options.side,), 1000, horizontal_flip=0.5))
    plan = BatchPlan(index.aspect_ratios, BATCH, seed=0)
    runs: dict[int, list[Run]] = {number: [] for number in options.workers}
    for _ in range(options.repeats):
        for number, own in runs.items():
            last_step = options.batches + _NOT_TAKEN * number
            begin = time.perf_counter()
            with contextlib.closing(
                training_batches(dataset, plan, first_step=0, last_step=last_step, workers=number)
            ) as batches:
                next(batches)
                first = time.perf_counter()
                memory = sum(map(private_mb, (child.pid for child in multiprocessing.active_children())))
                resumed = time.perf_counter()
                taken = sum(len(batch) for batch in itertools.islice(batches, options.batches - 1))
                rest = time.perf_counter() - resumed
            own.append(Run(first - begin, rest / max(1, taken), memory))
    medians = {number: [statistics.median(run[i] for run in own) for i in range(3)] for number, own in runs.items()}
    print(json.dumps(medians))


def private_mb(process: int | None) -> float:
    """MB that a process shares with no other."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text(encoding="ascii").splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) * 1024 / 1e6


if __name__ == "__main__":
    main()
