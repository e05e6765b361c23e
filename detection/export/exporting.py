"""A `detector.pt` → one file that detects without this project, written after it has shown that it detects the same.

detector.onnx               for onnxruntime and others; `detection.export.runtime.Detector` loads it
detector.xml, detector.bin  for OpenVINO; the same class loads it
detector.pt2                torch.export's format, for PyTorch and torchvision alone

The first two can be in reduced precision. They are then verified by the AP that they lose.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import logging
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from backbones.common.errors import UserError
from detection import config as settings
from detection.detector import Detector
from detection.detector_interface import ImageDetections
from detection.experiment.builders import pair
from detection.experiment.inference import Inference, prepare_inference
from detection.experiment.model_files import TrainedDetector, load_detector
from detection.experiment.stored_configuration import change_stored_config
from detection.export.description import describe
from detection.export.formats import Candidate, OnnxCandidate, OpenVinoCandidate, Pt2Candidate
from detection.export.network import BatchDetector, ImageDetector
from detection.export.onnx_program import onnx_model, require_packages
from detection.export.openvino_session import IR, require_openvino, weights_of
from detection.export.other_rounding import rounded_otherwise
from detection.export.quantization import quantize
from detection.export.reduced import MAX_LOSS, Reference, require_small_loss
from detection.export.suppression import nms, onnx_nms
from detection.export.verification import Detect, Verification, verify
from detection.export.verification_images import IMAGES, calibration_inputs, images_to_verify_on
from detection.networks.faster_rcnn import FasterRCNN
from detection.training.low_precision import convert

logger = logging.getLogger(__name__)

ONNX, PT2 = ".onnx", ".pt2"
FORMATS = {ONNX: "ONNX", IR: "OpenVINO", PT2: "torch.export"}
Precision = Literal["fp32", "fp16", "int8"]
_ROUNDINGS = 6  # that are tried where the file differs; each turns about half of what lies between two results


def export_detector(
    weights: Path,
    output: Path,
    *,
    batch: bool = False,
    precision: Precision = "fp32",
    calibration: Sequence[Path] = (),
    max_loss: float | None = None,
    images: Sequence[Path] = (),
    limit: int | None = IMAGES,
    changes: Sequence[str] = (),
) -> Verification:
    """Writes the detector of a `detector.pt` as one file, after comparing it with the `Detector` on images.

    Args:
        output: its ending chooses the format: ".onnx", ".xml" (OpenVINO, whose weights are beside it as ".bin") or
            ".pt2".
        batch: the file takes several images at once, padded to one size, instead of one (not for ".pt2").
        precision: of the layers. "fp16" is `training.low_precision.convert`, of OpenVINO only how the weights are
            stored; "int8" is `quantization`. Not for ".pt2".
        calibration: images and folders that "int8" measures the activations' ranges in.
        max_loss: of AP, that a file in reduced precision may have; None: 0.01.
        images: images and folders to compare on; by default those of the test split of the configuration.
        limit: at most this many of them, spread evenly; None takes all.
        changes: changes to the configuration, as of `Detector.load`.

    Returns:
        The comparison, which the file's metadata hold too.

    Raises:
        UserError: the output has another ending or cannot be written; packages are missing; the weights or images
            cannot be used; the file does not detect the same, or loses too much AP. An earlier file at `output` is then
            unchanged.
    """
    _require_format(output, batch, precision, calibration, max_loss)
    max_loss = MAX_LOSS if max_loss is None else max_loss
    trained = load_detector(weights)
    config = change_stored_config(trained.config, weights, changes)
    _require_exportable(config, weights)
    sources = images_to_verify_on(config, trained.categories, images, limit)
    detector = _detect(_inference(config, trained, "fastest"), trained)
    plain = _inference(config, trained, "plain")
    description = describe(trained, config, weights, "batch" if batch else "image", precision)
    network = copy.deepcopy(plain.network)
    if precision == "fp16" and output.suffix == ONNX:
        logger.info("fp16 is for GPUs: on a CPU onnxruntime converts around each layer, slower than in fp32")
        convert(network, torch.float16)
    batch_detector = BatchDetector(
        network,
        plain.resize,
        plain.size_divisor,
        nms if output.suffix == PT2 else onnx_nms,
        convolution_first=precision != "int8",  # in int8 the convolution costs less than a second pooling
        float64=output.suffix != IR,
    )
    module = batch_detector if batch else ImageDetector(batch_detector)
    with tempfile.TemporaryDirectory() as folder:
        make = partial(_candidate, output.suffix, precision, description, Path(folder))
        if precision == "fp32":
            candidate = make(module if output.suffix == PT2 else onnx_model(module))
            result = verify(
                candidate.detect,
                detector,
                [_detect(plain, trained), *(partial(_detect_rounded, plain, trained, i) for i in range(_ROUNDINGS))],
                sources.read(),
                len(sources.paths),
                of=sources.of,
                index=sources.index,
            )
        else:
            reference = Reference(detector, sources.read, len(sources.paths), of=sources.of, index=sources.index)
            model = onnx_model(module)
            if precision == "int8":
                inputs = calibration_inputs(calibration, batch)
                model, done = quantize(
                    model, inputs, lambda one, what: reference.loss(make(one).detect, what), max_loss
                )
                logger.info("%s", done.summary())
                description["quantization"] = json.dumps(done.to_dict())
            candidate = make(model)
            result = reference.compare(candidate.detect)
            require_small_loss(result, max_loss, precision)
        candidate.write(output, {**description, "verification": json.dumps(result.to_dict())})
    return result


def _candidate(
    suffix: str, precision: Precision, description: Mapping[str, str], folder: Path, program: Any
) -> Candidate:
    """The file of a program: the module for `PT2`, else an ONNX model."""
    if suffix == PT2:
        return Pt2Candidate(program, description, folder)
    if suffix == IR:
        return OpenVinoCandidate(program, description, folder, half=precision == "fp16")
    return OnnxCandidate(program, description, folder)


def _require_format(
    output: Path, batch: bool, precision: Precision, calibration: Sequence[Path], max_loss: float | None
) -> None:
    """Raises UserError for an ending that is no format, options that do not go together, and missing packages."""
    if output.suffix not in FORMATS:
        formats = ", ".join(f"{ending} ({name})" for ending, name in FORMATS.items())
        raise UserError(f"{output}: its ending chooses the format: {formats}")
    if output.suffix == PT2 and (batch or precision != "fp32"):
        what = "for batches" if batch else f"in {precision}"
        raise UserError(f"{output}: a file {what} is written as {ONNX} or {IR}")
    if bool(calibration) != (precision == "int8"):
        raise UserError(
            "int8 measures the ranges of activations in images: add --calibrate DIR, some hundred images of the kind "
            "that the detector is for (those of the training will do)"
            if precision == "int8"
            else "images to calibrate on (--calibrate) are for int8: add --int8"
        )
    if max_loss is not None and precision == "fp32":
        raise UserError(
            "a file in fp32 has to detect the same as the detector: leave --max-loss out, or add --half or --int8"
        )
    if output.suffix == PT2:
        return
    require_packages()
    if output.suffix == IR:
        require_openvino()
        if weights_of(output).exists() and not output.exists():
            raise UserError(
                f"{weights_of(output)} exists, which is where the weights of {output.name} would be written: remove it "
                "if it is not needed, or choose another name"
            )


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


def _detect_rounded(
    inference: Inference[FasterRCNN], trained: TrainedDetector, seed: int, images: list[np.ndarray]
) -> Sequence[ImageDetections]:
    """The detections of a network that rounds otherwise; it is made for each call, since few images need it."""
    rounded = dataclasses.replace(inference, network=rounded_otherwise(inference.network, seed))
    return _detect(rounded, trained)(images)
