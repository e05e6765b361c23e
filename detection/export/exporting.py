"""A `detector.pt` → one file that detects without this project, written after it has shown that it detects the same.

detector.onnx   for onnxruntime and others; `detection.export.runtime.Detector` loads it
detector.pt2    torch.export's format, for PyTorch and torchvision alone

"""

from __future__ import annotations

import dataclasses
import json
import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from backbones.common.errors import UserError
from backbones.common.files import atomic_write
from detection import config as settings
from detection.data.image_search import find_images
from detection.data.images import ImageError, read_image
from detection.data.index import DatasetIndex
from detection.detector import Detector
from detection.experiment.builders import pair
from detection.experiment.class_matching import match_classes
from detection.experiment.datasets import open_split
from detection.experiment.inference import Inference, prepare_inference
from detection.experiment.model_files import TrainedDetector, load_detector
from detection.experiment.stored_configuration import change_stored_config
from detection.export.description import describe
from detection.export.formats import Candidate, OnnxCandidate, Pt2Candidate
from detection.export.network import BatchDetector, ImageDetector
from detection.export.onnx_program import require_packages
from detection.export.suppression import nms, onnx_nms
from detection.export.verification import Detect, Image, Verification, verify
from detection.networks.faster_rcnn import FasterRCNN

logger = logging.getLogger(__name__)

ONNX, PT2 = ".onnx", ".pt2"
IMAGES = 100  # to verify on


@dataclasses.dataclass(frozen=True)
class _Sources:
    """The images of a verification, and their annotations if they have any."""

    paths: list[Path]
    index: DatasetIndex | None
    of: str

    def read(self) -> Iterator[Image]:
        """The images that can be read; the others are named in warnings."""
        for number, path in enumerate(self.paths):
            size, image_id = None, number
            if self.index is not None:
                size = int(self.index.heights[number]), int(self.index.widths[number])
                image_id = int(self.index.image_ids[number])
            try:
                yield Image(str(path), image_id, read_image(path, size))
            except ImageError as error:
                logger.warning("%s", error)


def export_detector(
    weights: Path,
    output: Path,
    *,
    batch: bool = False,
    images: Sequence[Path] = (),
    limit: int | None = IMAGES,
    changes: Sequence[str] = (),
) -> Verification:
    """Writes the detector of a `detector.pt` as one file, after comparing it with the `Detector` on images.

    Args:
        output: its ending chooses the format, ".onnx" or ".pt2".
        batch: the file takes several images at once, padded to one size, instead of one (ONNX only).
        images: images and folders to compare on; by default those of the test split of the configuration.
        limit: at most this many of them, spread evenly; None takes all.
        changes: changes to the configuration, as of `Detector.load`.

    Returns:
        The comparison, which the file's metadata hold too.

    Raises:
        UserError: the output has another ending or cannot be written; packages are missing; the weights or images
            cannot be used; the file does not detect the same. An earlier file at `output` is then unchanged.
    """
    if output.suffix not in (ONNX, PT2):
        raise UserError(f"{output}: its ending chooses the format: {ONNX} (ONNX) or {PT2} (torch.export)")
    if output.suffix == ONNX:
        require_packages()
    elif batch:
        raise UserError(f"{output}: a file for batches is written as {ONNX}")
    trained = load_detector(weights)
    config = change_stored_config(trained.config, weights, changes)
    _require_exportable(config, weights)
    sources = _sources(config, trained, images, limit)
    detector, other_forms = _inference(config, trained, "fastest"), _inference(config, trained, "plain")
    description = describe(trained, config, weights, "batch" if batch else "image")
    module = (BatchDetector if batch else ImageDetector)(
        other_forms.network, other_forms.resize, other_forms.size_divisor, nms if output.suffix == PT2 else onnx_nms
    )
    with tempfile.TemporaryDirectory() as folder:
        kind = Pt2Candidate if output.suffix == PT2 else OnnxCandidate
        candidate: Candidate = kind(module, description, Path(folder))
        result = verify(
            candidate.detect,
            _detect(detector, trained),
            _detect(other_forms, trained),
            sources.read(),
            len(sources.paths),
            of=sources.of,
            index=sources.index,
        )
        with atomic_write(output) as temporary:
            candidate.write(temporary, {**description, "verification": json.dumps(result.to_dict())})
    return result


def _require_exportable(config: settings.Config, weights: Path) -> None:
    """Raises UserError for options of the detections that an exported file does not compute."""
    fast, data = config.fast_rcnn, config.data
    if fast.cascade:
        raise UserError(f"{weights}: a cascade of box heads (fast_rcnn.cascade) cannot be exported yet")
    others = {
        "fast_rcnn.nms=hard": fast.nms != "hard",
        "fast_rcnn.nms_across_classes=false": fast.nms_across_classes,
        "fast_rcnn.box_voting_iou=null": fast.box_voting_iou is not None,
        "data.test_scales=[]": bool(data.test_scales),
        "data.test_flip=false": data.test_flip,
    }
    if remedies := [remedy for remedy, needed in others.items() if needed]:
        raise UserError(
            f"{weights}: an exported file detects in one view of an image with plain non-maximum suppression; add "
            f"{' '.join(remedies)} to the command"
        )


def _sources(config: settings.Config, trained: TrainedDetector, images: Sequence[Path], limit: int | None) -> _Sources:
    if images:
        paths = find_images(images)
        return _Sources([paths[i] for i in _spread(len(paths), limit)], None, ", ".join(path.name for path in images))
    try:
        index = open_split(config.data, "test")
    except UserError as error:
        raise UserError(
            f"the images to verify the file on cannot be used: {error}\nName others with --verify DIR, or the folder "
            "of the data set with --data DIR"
        ) from error
    categories = trained.categories
    index = match_classes(index, categories.ids, categories.names, "the detector")
    index = index.subset(_spread(len(index), limit))
    return _Sources([index.path(i) for i in range(len(index))], index, f"the test split, {index.annotation_file.name}")


def _spread(count: int, limit: int | None) -> np.ndarray:
    """Positions of at most `limit` of `count`, spread evenly."""
    return np.unique(np.linspace(0, count - 1, min(limit or count, count)).astype(int))


def _inference(
    config: settings.Config, trained: TrainedDetector, kernels: Literal["fastest", "plain"]
) -> Inference[FasterRCNN]:
    """Both networks ready for inference on the CPU, by these forms of functions."""
    # In fp32: an exported file is verified beside the exact network, the same on every machine.
    forms = dataclasses.replace(config.runtime, kernels=kernels, channels_last=kernels == "fastest", precision="fp32")
    config = dataclasses.replace(config, runtime=forms)
    return prepare_inference(pair(config, trained.rpn.network, trained.fast_rcnn.network), config, torch.device("cpu"))


def _detect(inference: Inference[FasterRCNN], trained: TrainedDetector) -> Detect:
    return Detector(inference.network, trained.categories, inference.resize, size_divisor=inference.size_divisor)
