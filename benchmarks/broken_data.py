"""Does the report name what is wrong? Real data is broken on purpose, and what the page says to do next is read.

    python -m benchmarks.broken_data --weights runs/bccd/detector.pt
    python -m benchmarks.broken_data --weights runs/bccd/detector.pt --train --shorter-side 160 --steps 60 100

Every fault is one change of the test labels, of inference or, with `--train`, of what a detector is trained on. It is
evaluated as `tools/eval_coco.py` does it, into a folder of its own below `--work`. Each fault has the words by which a
sentence of the page names it. A fault is missed if no sentence has its words, and a false alarm if a sentence has them
although nothing was broken. The exit status is 1 if there is either.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import random
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from backbones.common.files import user_path
from benchmarks.common import ROOT
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

Content = dict[str, Any]  # of a COCO annotation file


@dataclass(frozen=True)
class Fault:
    """What is broken, and the words by which a sentence names it (a regular expression; None: nothing is broken).

    test, train: (annotations of the split, those of the other) → broken annotations. changes: of the configuration.
    alarming: whether the words are a false alarm where nothing is broken.
    """

    named: str | None = None
    test: Callable[[Content, Content], Content] | None = None
    train: Callable[[Content, Content], Content] | None = None
    changes: Callable[[settings.Config], Sequence[str]] = lambda config: ()
    alarming: bool = True


def half_removed(name: str) -> Callable[[Content, Content], Content]:
    """Removes every other box of a class."""

    def broken(content: Content, _: Content) -> Content:
        number = next(one["id"] for one in content["categories"] if one["name"] == name)
        own = [one["id"] for one in content["annotations"] if one["category_id"] == number]
        kept = [one for one in content["annotations"] if one["id"] not in set(own[::2])]
        return {**content, "annotations": kept}

    return broken


def shuffled_names(content: Content, _: Content) -> Content:
    """Gives each class the name of the next one."""
    ids = [one["id"] for one in content["categories"]]
    following = dict(zip(ids, ids[1:] + ids[:1], strict=True))
    annotations = [{**one, "category_id": following[one["category_id"]]} for one in content["annotations"]]
    return {**content, "annotations": annotations}


def shifted(content: Content, _: Content) -> Content:
    """Moves every box by 30 % of its width and height, as where a centre is taken for a corner by mistake."""
    content = copy.deepcopy(content)
    for one in content["annotations"]:
        x, y, width, height = one["bbox"]
        one["bbox"] = [x + 0.3 * width, y + 0.3 * height, width, height]
    return content


def invented(content: Content, _: Content) -> Content:
    """Adds boxes of the usual sizes where nothing is annotated, a sixth of all or 14."""
    content, chance = copy.deepcopy(content), random.Random(0)
    sizes = {one["id"]: (one["width"], one["height"]) for one in content["images"]}
    taken: dict[int, list[list[float]]] = {number: [] for number in sizes}
    for one in content["annotations"]:
        taken[one["image_id"]].append(one["bbox"])
    number, wanted = 10**6, max(14, len(content["annotations"]) // 6)
    for _attempt in range(100 * wanted):
        model, image = chance.choice(content["annotations"]), chance.choice(list(sizes))
        (_, _, width, height), (across, down) = model["bbox"], sizes[image]
        if not (0 < width < across and 0 < height < down) or number - 10**6 == wanted:
            continue
        x, y = chance.uniform(0, across - width), chance.uniform(0, down - height)
        if all(x >= a + w or a >= x + width or y >= b + h or b >= y + height for a, b, w, h in taken[image]):
            number += 1
            box = [x, y, width, height]
            taken[image].append(box)
            content["annotations"].append({**model, "id": number, "image_id": image, "bbox": box})
    return content


def leaked(content: Content, train: Content) -> Content:
    """Adds a dozen training images to the test split."""
    last = max(one["id"] for one in content["images"]) + 1
    new = {one["id"]: last + place for place, one in enumerate(train["images"][:12])}
    images = [{**one, "id": new[one["id"]]} for one in train["images"] if one["id"] in new]
    own = [{**one, "image_id": new[one["image_id"]]} for one in train["annotations"] if one["image_id"] in new]
    annotations = [{**one, "id": 10**6 + place} for place, one in enumerate(own)]
    return {
        **content,
        "images": [*content["images"], *images],
        "annotations": [*content["annotations"], *annotations],
    }


def smaller_images(config: settings.Config, divisor: int = 4) -> list[str]:
    """A quarter of the sides."""
    data = config.data
    return [
        f"data.test_shorter_side={data.test_shorter_side // divisor}",
        f"data.test_longer_side={data.test_longer_side // divisor}",
    ]


def _sizes(config: settings.Config, factor: float) -> list[str]:
    return [f"rpn.anchor_sizes={[round(factor * size, 2) for size in config.rpn.anchor_sizes]}"]


def test_faults(content: Content) -> dict[str, Fault]:
    """The faults that a trained detector is evaluated with."""
    names = {one["id"]: one["name"] for one in content["categories"]}
    of_class = [one["category_id"] for one in content["annotations"]]
    faults = {"nothing": Fault()}
    for number, name in names.items():
        if of_class.count(number) >= 25:
            words = rf"labels of {re.escape(name)} are probably missing"
            faults[f"half of the labels of {name} removed"] = Fault(words, half_removed(name))
    if len(names) > 1:
        faults["names shuffled"] = Fault("they look exchanged", shuffled_names)
    faults["boxes shifted"] = Fault("lie to the left of the annotated boxes by .* and above them", shifted)
    faults["boxes invented"] = Fault("whether there is an object in these boxes", invented)
    faults["training images in test"] = Fault("test images also stand in train", leaked)
    faults["images of a quarter"] = Fault(
        "(network's input.*|less than 0.5 cost .*): larger images", changes=smaller_images, alarming=False
    )
    faults["three proposals"] = Fault(
        "classify more proposals", changes=lambda config: ["rpn.test_proposals.after_nms=3"]
    )
    faults["no suppression"] = Fault("a lower fast_rcnn.nms_iou", changes=lambda config: ["fast_rcnn.nms_iou=0.95"])
    return faults


def training_faults(content: Content) -> dict[str, Fault]:
    """The faults that a detector is trained with; the test split is sound."""
    names = [one["name"] for one in content["categories"]]
    faults = {
        "trained: nothing": Fault(),
        "trained: anchors too small": Fault(
            "fit no anchor.*other anchors", changes=lambda config: _sizes(config, 1 / 6)
        ),
        "trained: anchors too large": Fault("fit no anchor.*other anchors", changes=lambda config: _sizes(config, 6)),
    }
    if len(names) > 1:
        faults["trained: names shuffled"] = Fault("they look exchanged", train=shuffled_names)
    return faults


def main() -> int:
    options = _arguments().parse_args()
    trained = load_detector(options.weights)
    with process_group(trained.config.runtime.device) as device:
        bench = Bench(trained.config, options.work / options.weights.resolve().parent.name, device)
        said = dict(bench.evaluated(options.weights, options.only))
        if options.train:
            said |= dict(bench.trained(options.shorter_side, options.steps, options.only))
    failed = [name for name, (_, failure) in said.items() if failure]
    print(
        f"\n{len(said) - len(failed)} of {len(said)} as they should be" + "".join(f"\n  not: {one}" for one in failed)
    )
    return 1 if failed else 0


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
            config = dataclasses.replace(config, output=str(self.folder / _plain(name)))
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
        *_sizes(config, scale),
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
