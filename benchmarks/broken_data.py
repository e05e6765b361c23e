"""Does the report name what is wrong? Real data is broken on purpose, and what the page says to do next is read.

    python -m benchmarks.broken_data --weights runs/bccd/detector.pt
    python -m benchmarks.broken_data --weights runs/bccd/detector.pt --train --shorter-side 160 --steps 60 100

Every fault is one change of the test labels, of inference or, with `--train`, of what a detector is trained on. It is
evaluated as `tools/eval_coco.py` does it, into a folder of its own below `--work`. Each fault has the words by which a
sentence of the page names it. A fault is missed if no sentence has its words, and a false alarm if a sentence has them
although nothing was broken. The exit status is 1 if there is either. In benchmarks/results/broken_data_<name of the
run>.json, the rows of the faults that were tried are replaced, and the others stay.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from backbones.common.files import user_path
from benchmarks.common import RESULTS, ROOT, environment, table, write_result
from benchmarks.data_faults import Content, Fault, anchor_sizes, test_faults, training_faults
from detection import config as settings
from detection.command_line import run
from detection.config_file import change_config
from detection.data.writers import coco
from detection.data.writers.objects import Split, as_stated
from detection.experiment.datasets import load_split
from detection.experiment.evaluate import evaluate_detector
from detection.experiment.label_location import locate
from detection.experiment.model_files import load_detector
from detection.experiment.run_folder import RunFolder
from detection.experiment.stages import train_fast_rcnn, train_rpn
from detection.training.distributed import process_group


def main() -> int:
    options = _arguments().parse_args()
    trained = load_detector(options.weights)
    with process_group(trained.config.runtime.device) as device:
        bench = Bench(trained.config, options.work / options.weights.resolve().parent.name, device)
        said = dict(bench.evaluated(options.weights, options.only))
        if options.train:
            said |= dict(bench.trained(options.shorter_side, options.steps, options.only))
    _write(options.weights.resolve().parent.name, said, bench)
    failed = [name for name, (_, failure) in said.items() if failure]
    print(
        f"\n{len(said) - len(failed)} of {len(said)} as they should be" + "".join(f"\n  not: {one}" for one in failed)
    )
    return 1 if failed else 0


def _write(name: str, said: dict[str, tuple[list[str], str]], bench: Bench) -> None:
    """Writes what was said into the result file of this data set."""
    path = RESULTS / f"broken_data_{name}.json"
    rows = {} if not path.exists() else {row[0]: row for row in json.loads(path.read_text())["tables"][0]["rows"]}
    for fault, (sentences, failure) in said.items():
        named = {**test_faults(bench.contents["test"]), **training_faults(bench.contents["test"])}[fault].named
        telling = [one for one in sentences if named is not None and re.search(named, one)]
        verdict = failure or ("no sentence about the data" if named is None else "named")
        rows[fault] = [fault, verdict, " ".join(telling or sentences[:1])]
    content = table(
        f"{name}: what is broken on purpose, and what the report says",
        ["broken", "the page", "its sentence (where nothing is broken or it is missed, the first)"],
        list(rows.values()),
    )
    write_result(
        path, {"title": f"Broken data: {name}", "environment": environment("broken_data"), "tables": [content]}
    )


class Bench:
    """One data set in COCO's format, whose copies are broken; images stay where they are.

    config: of a detector of this data set. folder: of all that is written.
    """

    def __init__(self, config: settings.Config, folder: Path, device: torch.device) -> None:
        self.root, self.folder, self.device = user_path(config.data.root).resolve(), folder, device
        self.contents = {which: self._as_coco(config.data, which) for which in ("train", "test")}
        paths = [f"data.{which}.images={self.root}" for which in ("train", "test")]
        plain = ["data.layout=files", "data.format=coco", "data.split={test: null}", *paths]
        self.config = change_config(config, [*plain, *self._annotations("sound", self.contents)])

    def evaluated(self, weights: Path, only: Sequence[str] | None) -> Iterator[tuple[str, tuple[list[str], str]]]:
        """Name of a fault → what is said with it, and what is wrong with that."""
        yield from self._judged(test_faults(self.contents["test"]), only, lambda name, config: weights)

    def trained(
        self, shorter_side: int, steps: Sequence[int], only: Sequence[str] | None
    ) -> Iterator[tuple[str, tuple[list[str], str]]]:
        """The same with detectors trained from scratch for a few steps."""

        def train(name: str, config: settings.Config) -> Path:
            config = dataclasses.replace(config, output=str(self.folder / _plain(name.partition(" (")[0])))
            folder = RunFolder.of(config)
            if not folder.detector.exists():
                train_rpn(config, self.device, resume=True)
                train_fast_rcnn(config, self.device, resume=True)
            return folder.detector

        scale = shorter_side / self.config.data.test_shorter_side
        self.config = change_config(self.config, _short(self.config, scale, steps))
        yield from self._judged(training_faults(self.contents["test"]), only, train)

    def _judged(
        self, faults: dict[str, Fault], only: Sequence[str] | None, weights: Callable[[str, settings.Config], Path]
    ) -> Iterator[tuple[str, tuple[list[str], str]]]:
        alarms = {fault.named for fault in faults.values() if fault.named and fault.alarming}
        for name, fault in faults.items():
            if only and not any(part in name for part in only):
                continue
            config = self._broken(name, fault)
            file = weights(name, config)
            sentences = self._said(name, config, file)
            failure = _failure(fault, sentences, alarms)
            print(
                f"\n{name}{f': {failure}' if failure else ''}\n" + "\n".join(f"  {one}" for one in sentences),
                flush=True,
            )
            yield name, (sentences, failure)

    def _broken(self, name: str, fault: Fault) -> settings.Config:
        test, train = self.contents["test"], self.contents["train"]
        broken = {
            "test": fault.test(test, train) if fault.test else test,
            "train": fault.train(train, test) if fault.train else train,
        }
        return change_config(self.config, [*self._annotations(_plain(name), broken), *fault.changes(self.config)])

    def _annotations(self, name: str, contents: dict[str, Content]) -> list[str]:
        """Writes the annotations of both splits, and returns the changes that name the files."""
        folder = self.folder / _plain(name)
        folder.mkdir(parents=True, exist_ok=True)
        changes = []
        for which, content in contents.items():
            file = (folder / f"{which}.json").resolve()
            file.write_text(json.dumps(content), encoding="utf-8")
            changes.append(f"data.{which}.annotations={file}")
        return changes

    def _said(self, name: str, config: settings.Config, weights: Path) -> list[str]:
        """Evaluates, and reads what to do next from the page."""
        folder = self.folder / _plain(name) / "evaluation"
        shutil.rmtree(folder, ignore_errors=True)
        evaluate_detector(config, load_detector(weights), self.device, folder, images=4)
        text = (folder / "report.txt").read_text(encoding="utf-8")
        return re.findall(r"^\d+\. (.*)$", text, re.MULTILINE)

    def _as_coco(self, data: settings.Data, which: Any) -> Content:
        index = load_split(data, which, locate(data, which), "present", "evaluation")
        files = [index.path(i).resolve().relative_to(self.root).as_posix() for i in range(len(index))]
        categories = dict(zip(index.category_names, index.category_ids.tolist(), strict=True))
        folder = self.folder / "as_coco" / which
        if not folder.exists():
            coco.write_labels(folder, [Split(which, index, as_stated(index), files)], categories)
        content: Content = json.loads((folder / "annotations" / f"instances_{which}.json").read_text(encoding="utf-8"))
        return content


def _failure(fault: Fault, sentences: Sequence[str], alarms: set[str]) -> str:
    if fault.named is not None:
        return (
            "" if any(re.search(fault.named, one) for one in sentences) else f"MISSED, no sentence has {fault.named!r}"
        )
    false = [one for one in sentences if any(re.search(words, one) for words in alarms)]
    return f"FALSE ALARM: {len(false)} sentences" if false else ""


def _short(config: settings.Config, scale: float, steps: Sequence[int]) -> list[str]:
    """Changes for a short training on smaller images: anchors are scaled with them."""
    data = config.data
    changes = [
        f"data.shorter_sides={[round(scale * side) for side in data.shorter_sides]}",
        f"data.longer_side={round(scale * data.longer_side)}",
        f"data.test_shorter_side={round(scale * data.test_shorter_side)}",
        f"data.test_longer_side={round(scale * data.test_longer_side)}",
        *anchor_sizes(config, scale),
    ]
    for network, number in zip(("rpn", "fast_rcnn"), steps, strict=True):
        changes += [f"{network}.training.{key}" for key in (f"steps={number}", "evaluate_every=null", "keep_best=null")]
    return changes


def _plain(name: str) -> str:
    return re.sub(r"\W+", "_", name)


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.broken_data",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--weights", type=Path, required=True, metavar="FILE", help="a detector.pt; its data is broken")
    parser.add_argument("--only", nargs="+", metavar="WORDS", help="the faults with these words in their names")
    parser.add_argument("--train", action="store_true", help="also train detectors on broken data")
    parser.add_argument("--shorter-side", type=int, default=160, help="of the images of these trainings (default: 160)")
    parser.add_argument(
        "--steps", type=int, nargs=2, default=[150, 250], metavar="N", help="of the two networks (default: 150 250)"
    )
    parser.add_argument(
        "--work", type=Path, default=ROOT / "runs" / "broken_data", help="folder of all that is written"
    )
    return parser


if __name__ == "__main__":
    sys.exit(run(main))
