"""A data set of Objects365's and Open Images' size: two million images, thirty million boxes, 365 classes.

    python -m benchmarks.large_data                         all steps, about fifteen minutes and 15 GB of disk
    python -m benchmarks.large_data --steps index start     some of them
    python -m benchmarks.large_data --images 20000          a hundredth of it, to see that it runs

Each step runs in a process of its own, whose peak memory is its own: what the step adds to what the process held
before. Its row is written to benchmarks/results/large_data.json as soon as it ends, beside the rows of other steps that
are there already. The steps:

    index       the labels, without outlines, read for the first time, and the index kept
    start       a second start: the kept index, its images with objects, the first batch of the plan
    outlines    as `index`, with an outline of 4 to 39 points an object, for a sixth of the images
    store       the proposals of all images, 100 each, written
    random      the proposals of 10,000 images of a store of 1,000 an image, read at random. The file is sparse: no
                block of its boxes was written, and it takes no room
    evaluation  the figures of 100 detections in each of a tenth of the images
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.annotation_files import write_annotations
from benchmarks.index_loading import peak_memory

CLASSES, OBJECTS = 365, 15  # classes; objects an image
STORED, IN_RANDOM_STORE, LOOKED_UP = 100, 1000, 10_000
OUTLINED = 6  # the part of the images that has outlines: they make a file seven times as large
_FACTS = {"large data": 1}


def index(images: int, folder: Path) -> Callable[[], str]:
    """The labels read for the first time, and the index kept."""
    return _read(images, folder / "annotations.json", "none")


def outlines(images: int, folder: Path) -> Callable[[], str]:
    """The same with outlines."""
    return _read(images // OUTLINED, folder / "outlines.json", "long")


def _read(images: int, path: Path, kind: Any) -> Callable[[], str]:
    from detection.data.index import load_index
    from detection.data.index_cache import keep

    if not path.exists():
        write_annotations(path, images, OBJECTS * images, CLASSES, outlines=kind)

    def work() -> str:
        read = load_index(path, path.parent, name="large")
        if kind == "none":
            later = time.time() + 60  # the file has just been written
            keep(_FACTS, read, roots=[path], labels=path, images=False, since=later, least=0)
        size = sum(array.nbytes for array in vars(read).values() if isinstance(array, np.ndarray))
        return (
            f"{len(read):,} images, {len(read.boxes):,} boxes, {path.stat().st_size / 1e9:.1f} GB of JSON → "
            f"{size / 1e9:.2f} GB"
        )

    return work


def start(images: int, folder: Path) -> Callable[[], str]:
    """A second start."""
    from detection.data.batch_plan import BatchPlan
    from detection.data.index_cache import open_kept

    def work() -> str:
        begin = time.perf_counter()
        kept = open_kept(_FACTS)
        assert kept is not None, "no index is kept: run the step index in the same --folder first"
        opened = time.perf_counter()
        trained = kept.index.non_empty()
        chosen = time.perf_counter()
        plan = BatchPlan(trained.aspect_ratios, 16, seed=0)
        _ = plan[0]
        planned = time.perf_counter()
        return (
            f"index {opened - begin:.2f} s, images with objects {chosen - opened:.2f} s, plan {planned - chosen:.2f} s"
        )

    return work


def store(images: int, folder: Path) -> Callable[[], str]:
    """A proposal store written."""
    from benchmarks.growth_data import random_boxes
    from detection.data.proposal_writer import ProposalWriter

    boxes, scores = random_boxes(np.random.default_rng(0), STORED), np.linspace(1, 0, STORED, dtype=np.float32)
    path = folder / "proposals.safetensors"

    def work() -> str:
        writer = ProposalWriter(path, {"dataset_fingerprint": "none"}, np.arange(1, images + 1))
        for image_id in range(1, images + 1):
            writer.add(image_id, boxes, scores)
        writer.finish()
        size = path.stat().st_size
        path.unlink()
        return f"{images:,} images × {STORED}, {size / 1e9:.1f} GB"

    return work


def random(images: int, folder: Path) -> Callable[[], str]:
    """A store opened and read at random."""
    from detection.data.proposal_store import KIND, ProposalStore
    from detection.data.tensor_file import make_header

    path, total = folder / "sparse.safetensors", images * IN_RANDOM_STORE
    arrays = {
        "image_ids": (np.int64, (images,)),
        "offsets": (np.int64, (images + 1,)),
        "boxes": (np.float32, (total, 4)),
        "scores": (np.float32, (total,)),
    }
    header, places = make_header(arrays, {"kind": KIND})
    with path.open("wb") as file:
        header = header.replace(b"__has_sums__", b"__no_sums___").replace(b"__sums__", b"__none__")
        file.write(header)
        file.write(np.arange(1, images + 1).tobytes())
        file.write((np.arange(images + 1) * IN_RANDOM_STORE).tobytes())
        file.truncate(places["scores"].start + places["scores"].size)
    wanted = np.random.default_rng(0).integers(1, images + 1, LOOKED_UP).tolist()

    def work() -> str:
        begin = time.perf_counter()
        opened = ProposalStore(path)
        seconds = time.perf_counter() - begin
        for image_id in wanted:
            assert opened.boxes(image_id).shape == (IN_RANDOM_STORE, 4)
        rest = time.perf_counter() - begin - seconds
        text = (
            f"{images:,} images × {IN_RANDOM_STORE:,}, {path.stat().st_size / 1e9:.0f} GB: opened in {seconds:.2f} s, "
        )
        path.unlink()
        return text + f"an image in {1e6 * rest / LOOKED_UP:.0f} µs"

    return work


def evaluation(images: int, folder: Path) -> Callable[[], str]:
    """The figures of an evaluation."""
    from benchmarks.growth_data import evaluated
    from detection.evaluation.average_precision import average_precision

    truth, rows = evaluated(images // 10)

    def work() -> str:
        figures = average_precision(truth, rows).figures
        return f"{images // 10:,} images, {len(rows):,} detections, {CLASSES} classes: AP {figures['AP']:.4f}"

    return work


STEPS = {one.__name__: one for one in (index, start, outlines, store, random, evaluation)}


def run_step(name: str, images: int, folder: Path) -> None:
    """Prints, as JSON, what a step took in this process."""
    os.environ["RESNEXT_CACHE"] = str(folder / "cache")
    work = STEPS[name](images, folder)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew with what is held now
    before, begin = peak_memory(), time.perf_counter()
    text = work()
    seconds = time.perf_counter() - begin
    print(json.dumps({"step": name, "what": text, "seconds": seconds, "megabytes": max(0.0, peak_memory() - before)}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2_000_000, help="of the data set (default: two million)")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=list(STEPS), metavar="STEP", help="default: all")
    parser.add_argument("--folder", type=Path, help="for the files; they stay there (default: a temporary folder)")
    parser.add_argument("--output", type=Path, help="benchmarks/results/large_data.json by default, for all images")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        run_step(options.run, options.images, options.folder)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for step in options.steps:
            _measure(step, options.images, folder, options.output)


def _measure(step: str, images: int, folder: Path, output: Path | None) -> None:
    from benchmarks import common  # here, so that the processes that measure do not hold what it imports

    command = [sys.executable, "-m", "benchmarks.large_data", "--run", step, "--images", str(images)]
    own = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    done = subprocess.run(
        [*command, "--folder", str(folder)], check=True, stdout=subprocess.PIPE, text=True, cwd=common.ROOT, env=own
    )
    row = json.loads(done.stdout.splitlines()[-1])
    print(f"{step:11} {row['seconds']:7.2f} s, {row['megabytes']:6.0f} MB  {row['what']}", flush=True)
    if output is None and images < 2_000_000:
        return
    output = output or common.RESULTS / "large_data.json"
    measured = json.loads(output.read_text(encoding="utf-8"))["steps"] if output.exists() else {}
    measured[step] = row
    measured = {name: measured[name] for name in STEPS if name in measured}
    rows = [
        [name, one["what"], common.seconds(one["seconds"]), f"{one['megabytes']:.0f} MB"]
        for name, one in measured.items()
    ]
    table = common.table("Two million images", ["step", "what", "time", "memory it adds at its peak"], rows)
    environment = common.environment("large_data")
    common.write_result(
        output, {"title": "Two million images", "environment": environment, "tables": [table], "steps": measured}
    )


if __name__ == "__main__":
    main()
