"""A classifier and images → top-1 and top-5 error, for chosen views and classes."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from backbones import ResNeXt
from backbones.classification.labelled_images import LabelledImages
from backbones.classification.scores import class_scores, is_missed
from backbones.classification.views import Views
from backbones.common.errors import UserError
from backbones.common.files import write_json
from backbones.common.progress import with_progress
from detection import config as settings
from detection.classifier.classifier_file import TrainedClassifier
from detection.classifier.config import ClassifierConfig
from detection.classifier.image_input import open_split
from detection.classifier.labelled_batches import evaluation_batches_for
from detection.training.consensus import require_agreement, require_same_weights
from detection.training.distributed import gather_objects, on_main, world_size
from detection.training.placement import for_inference
from detection.training.recipe import autocast_dtype

TOP = (1, 5)


@dataclass(frozen=True)
class TopErrors:
    """Shares (0–1) of the images whose class is not the first, or not among the first five.

    Attributes:
        images: the number evaluated.
        classes: the number that the network chose from.
    """

    top1: float
    top5: float
    images: int
    classes: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"top1_error": self.top1, "top5_error": self.top5, "images": self.images, "classes": self.classes}

    def table(self) -> str:
        """The figures as the paper prints them, in percent."""
        return (
            f"top-1 error  {100 * self.top1:.2f} %\n"
            f"top-5 error  {100 * self.top5:.2f} %\n"
            f"{self.images} images, {self.classes}-way"
        )


def measure(
    trained: TrainedClassifier,
    config: ClassifierConfig,
    views: Views,
    device: torch.device,
    folder: Path,
    *,
    among: np.ndarray | None = None,
) -> TopErrors:
    """`top_errors` of a trained classifier on the test split that `config` names; writes `folder/errors.json`.

    Raises:
        UserError: an image cannot be used, or its class is unknown to the network; the folder cannot be written, or
            its errors.json is on another data set or of another program.
    """
    require_agreement("measure a classifier", config, views=dataclasses.asdict(views))
    require_same_weights(trained.network)
    images = open_split(config.data, "test", trained.classes)
    on_main(lambda: _refuse_other_file(folder / "errors.json", images))
    errors = top_errors(trained.network, images, views, config.runtime, device, among=among, label="batches")
    content = {
        **errors.to_dict(),
        "views": dataclasses.asdict(views),
        "test": images.fingerprint,
        "network": trained.provenance,
    }
    on_main(lambda: write_json(folder / "errors.json", content))
    return errors


def _refuse_other_file(path: Path, images: LabelledImages) -> None:
    """Raises a UserError if there is a file that does not hold the errors on these images."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    except (OSError, ValueError, RecursionError):
        found = None
    is_ours = isinstance(found, dict) and "test" in found
    if not is_ours or found["test"] != images.fingerprint:
        what = "holds the errors on another data set" if is_ours else "exists already, and holds no errors of this tool"
        raise UserError(f"{path}: {what}; name another folder (--output), or move that one away")


def top_errors(
    network: ResNeXt,
    images: LabelledImages,
    views: Views,
    runtime: settings.Runtime,
    device: torch.device,
    *,
    among: np.ndarray | None = None,
    label: str | None = None,
) -> TopErrors:
    """Evaluates a network, which is not changed. With several ranks, each evaluates its share; all return the same.

    Args:
        among: labels, int64 (K',): only images of these classes are used, and the network chooses only among these
            ("1K-way" for a network that knows 5K); None: all.
        label: the beginning of the progress line on stderr; None shows none.

    Raises:
        UserError: there are no such images, or one cannot be read.
    """
    folded = for_inference(network, runtime, device)
    ways = np.arange(len(images.classes)) if among is None else among
    indices = np.flatnonzero(np.isin(images.labels, ways))
    if len(indices) == 0:
        raise UserError("there are no images of the classes asked for")
    position = torch.full((len(images.classes),), -1)  # of a label among `ways`
    position[torch.from_numpy(ways)] = torch.arange(len(ways))
    columns, autocast = torch.from_numpy(ways).to(device), autocast_dtype(runtime, device)
    batches = evaluation_batches_for(images, indices, views, runtime)
    if label is not None:
        own = range(0, len(indices), world_size() * runtime.test_batch)  # rank 0's: only it shows progress
        batches = with_progress(batches, len(own), label, unit="batches")
    missed = torch.zeros(len(TOP), dtype=torch.int64, device=device)
    for batch in batches:
        stacks = [(stack.to(device), owners.to(device)) for stack, owners in batch.views]
        with torch.autocast(device.type, autocast, enabled=autocast is not None):
            scores = class_scores(folded, stacks, len(batch.labels))[:, columns]
        labels = position[batch.labels].to(device)
        missed += torch.stack([is_missed(scores, labels, k).sum() for k in TOP])
    total = np.sum(gather_objects(missed.tolist()), axis=0) / len(indices)
    return TopErrors(float(total[0]), float(total[1]), len(indices), len(ways))


def read_class_list(path: Path, classes: tuple[str, ...]) -> np.ndarray:
    """The labels, int64, of the classes that a text file names, one a line; blank lines are ignored.

    Raises:
        UserError: the file cannot be read, is empty, or names a class twice or one that the network does not know.
    """
    try:
        names = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: the list of classes cannot be read: {error}") from error
    label_of = {name: label for label, name in enumerate(classes)}
    unknown = [name for name in names if name not in label_of]
    if not names or unknown or len(set(names)) < len(names):
        problem = (
            f"{unknown[0]!r} is no class of the network" if unknown else "a class is listed twice" if names else "empty"
        )
        raise UserError(f"{path}: {problem}; write the names of classes, one a line")
    return np.array([label_of[name] for name in names])
