"""A `detector.pt` → one file that detects without this project, written after it has shown that it detects the same.

    detector.onnx   for onnxruntime and others; `detection.export.runtime.Detector` loads it
    detector.pt2    torch.export's format, for PyTorch and torchvision alone

The metadata of a file are texts by name, JSON but for the first: format, version, kind ("image" or "batch"), precision,
categories, settings (sizes and thresholds), licences, provenance, configuration, source (name and SHA-256 of the
`detector.pt`), versions (of the packages), verification.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from backbones.common.errors import UserError
from backbones.common.files import atomic_write, sha256_of
from detection import config as settings
from detection.config_file import config_to_dict
from detection.data.image_search import find_images
from detection.data.images import ImageError, read_image
from detection.data.index import DatasetIndex
from detection.detector import Detector
from detection.detector_interface import ImageDetections
from detection.experiment.builders import pair
from detection.experiment.datasets import match_classes, open_split
from detection.experiment.inference import Inference, prepare_inference
from detection.experiment.model_files import TrainedDetector, load_detector
from detection.experiment.stored_configuration import change_stored_config
from detection.export import onnx_program, runtime
from detection.export.network import BatchDetector, ImageDetector
from detection.export.suppression import nms, onnx_nms
from detection.export.verification import Detect, Image, Verification, verify
from detection.networks.faster_rcnn import FasterRCNN
from detection.training.artifacts import versions

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
        onnx_program.require_packages()
    elif batch:
        raise UserError(f"{output}: a file for batches is written as {ONNX}")
    trained = load_detector(weights)
    config = change_stored_config(trained.config, weights, changes)
    sources = _sources(config, trained, images, limit)
    detector, other_forms = (_inference(config, trained, kernels) for kernels in ("fastest", "plain"))
    description = _describe(trained, config, weights, "batch" if batch else "image")
    write = _write_onnx if output.suffix == ONNX else _write_pt2
    module = (BatchDetector if batch else ImageDetector)(
        other_forms.network,
        other_forms.resize,
        other_forms.size_divisor,
        onnx_nms if output.suffix == ONNX else nms,
    )

    def compare(file: Detect) -> dict[str, Any]:
        nonlocal result
        result = verify(
            file,
            *(_detect(inference, trained) for inference in (detector, other_forms)),
            sources.read(),
            len(sources.paths),
            of=sources.of,
            index=sources.index,
        )
        return result.to_dict()

    result = Verification(sources.of)
    write(module, output, description, trained, compare)
    return result


def _sources(config: settings.Config, trained: TrainedDetector, images: Sequence[Path], limit: int | None) -> _Sources:
    if images:
        paths = find_images(images)
        return _Sources([paths[i] for i in _spread(len(paths), limit)], None, ", ".join(path.name for path in images))
    try:
        index = open_split(config.data, "test")
    except UserError as error:
        raise UserError(
            f"the images to verify the file on cannot be used: {error}\nName others with --verify DIR, or the folder of "
            "the data set with --data DIR"
        ) from error
    categories = trained.categories
    index = match_classes(index, categories.ids, categories.names, "the detector")
    index = index.subset(_spread(len(index), limit))
    return _Sources([index.path(i) for i in range(len(index))], index, f"the test split, {index.annotation_file.name}")


def _spread(count: int, limit: int | None) -> np.ndarray:
    """Positions of at most `limit` of `count`, spread evenly."""
    return np.unique(np.linspace(0, count - 1, min(limit or count, count)).astype(int))


def _inference(config: settings.Config, trained: TrainedDetector, kernels: str) -> Inference[FasterRCNN]:
    """Both networks ready for inference on the CPU, by these forms of functions."""
    forms = dataclasses.replace(config.runtime, kernels=kernels, channels_last=kernels == "fastest")
    config = dataclasses.replace(config, runtime=forms)
    return prepare_inference(pair(config, trained.rpn.network, trained.fast_rcnn.network), config, torch.device("cpu"))


def _detect(inference: Inference[FasterRCNN], trained: TrainedDetector) -> Detect:
    return Detector(inference.network, trained.categories, inference.resize, size_divisor=inference.size_divisor)


def _write_onnx(
    module: ImageDetector | BatchDetector,
    output: Path,
    description: Mapping[str, str],
    trained: TrainedDetector,
    compare: Any,
) -> None:
    model = onnx_program.onnx_model(module)
    with tempfile.TemporaryDirectory() as folder:
        trial = Path(folder) / output.name
        trial.write_bytes(onnx_program.onnx_file(model, dict(description)))
        file = runtime.Detector.load(trial, "cpu", threads=torch.get_num_threads())
        verification = compare(lambda images: file(images, batch_size=len(images)))
        del file  # Windows cannot delete an open file
    content = onnx_program.onnx_file(model, {**description, "verification": json.dumps(verification)})
    with atomic_write(output) as temporary:
        temporary.write_bytes(content)


def _write_pt2(
    module: ImageDetector | BatchDetector,
    output: Path,
    description: Mapping[str, str],
    trained: TrainedDetector,
    compare: Any,
) -> None:
    program = onnx_program.exported_program(module)
    with tempfile.TemporaryDirectory() as folder:
        trial = Path(folder) / output.name
        torch.export.save(program, trial)
        loaded = torch.export.load(trial).module()

    def detect(images: list[np.ndarray]) -> list[ImageDetections]:
        with torch.no_grad():
            found = [loaded(torch.from_numpy(image)) for image in images]
        return [ImageDetections.of_labels(*(part.numpy() for part in one), trained.categories) for one in found]

    everything = {**description, "verification": json.dumps(compare(detect))}
    with atomic_write(output) as temporary, open(temporary, "wb") as file:
        torch.export.save(program, file, extra_files=everything)


def _describe(trained: TrainedDetector, config: settings.Config, weights: Path, kind: str) -> dict[str, str]:
    """The metadata of a file, without its verification."""
    networks = {"rpn": trained.rpn, "fastrcnn": trained.fast_rcnn}
    data, limits, fast = config.data, config.rpn.test_proposals, config.fast_rcnn
    values = {
        "version": runtime.VERSION,
        "kind": kind,
        "precision": "fp32",
        "categories": {"ids": trained.categories.ids, "names": trained.categories.names},
        "settings": {
            "shorter_side": data.test_shorter_side,
            "longer_side": data.test_longer_side,
            "size_divisor": data.size_divisor,
            "proposals": dataclasses.asdict(limits),
            "min_score": fast.min_score,
            "nms_iou": fast.nms_iou,
            "detections": fast.detections,
        },
        "licences": {name: _licence(own.provenance) for name, own in networks.items()},
        "provenance": {name: own.provenance for name, own in networks.items()},
        "configuration": config_to_dict(config),
        "source": {"file": weights.name, "sha256": sha256_of(weights)},
        "versions": {**versions(), **_package_versions()},
    }
    return {"format": runtime.FORMAT, **{name: json.dumps(value) for name, value in values.items()}}


def _licence(provenance: Mapping[str, Any]) -> str | None:
    """The licence of the weights that a network began from; None if it began from none, or if it is not known."""
    backbone = provenance.get("backbone")
    weights = backbone.get("weights") if isinstance(backbone, Mapping) else None
    licence = weights.get("licence") if isinstance(weights, Mapping) else None
    return None if licence is None else str(licence)


def _package_versions() -> dict[str, str]:
    found = {}
    for name in onnx_program.PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
