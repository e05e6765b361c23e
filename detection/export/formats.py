"""The detector as a module → a file of each format that can be run for its verification, and written.

OnnxCandidate   .onnx, run by onnxruntime
Pt2Candidate    .pt2, torch.export's format, run by PyTorch
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from detection.common.categories import Categories
from detection.detector_interface import ImageDetections
from detection.export import runtime
from detection.export.network import BatchDetector, ImageDetector
from detection.export.onnx_program import exported_program, onnx_file, onnx_model


class Candidate(Protocol):
    """A file that is still to be verified."""

    def detect(self, images: list[np.ndarray]) -> Sequence[ImageDetections]:
        """The detections in each image uint8 (H, W, 3), by the file."""
        ...

    def write(self, path: Path, metadata: Mapping[str, str]) -> None:
        """Writes the file with these metadata."""
        ...


class OnnxCandidate:
    """A `Candidate` of ONNX.

    Args:
        module: the detector; its form of NMS is `onnx_nms`.
        metadata: of the file, without its verification.
        folder: for the file that is verified; it must exist as long as this object.
    """

    def __init__(self, module: ImageDetector | BatchDetector, metadata: Mapping[str, str], folder: Path) -> None:
        self._model = onnx_model(module)
        trial = folder / "detector.onnx"
        self.write(trial, metadata)
        self._detector = runtime.Detector.load(trial, "cpu", threads=torch.get_num_threads())

    def detect(self, images: list[np.ndarray]) -> Sequence[ImageDetections]:
        """See `Candidate`."""
        found: list[ImageDetections] = self._detector(images, batch_size=len(images))
        return found

    def write(self, path: Path, metadata: Mapping[str, str]) -> None:
        """See `Candidate`."""
        path.write_bytes(onnx_file(self._model, metadata))


class Pt2Candidate:
    """A `Candidate` of torch.export's format; the metadata are further files in it. Arguments as of `OnnxCandidate`,
    with the form of NMS `nms`."""

    def __init__(self, module: ImageDetector | BatchDetector, metadata: Mapping[str, str], folder: Path) -> None:
        self._program = exported_program(module)
        categories = json.loads(metadata["categories"])
        self._categories = Categories(tuple(categories["ids"]), tuple(categories["names"]))
        trial = folder / "detector.pt2"
        self.write(trial, metadata)
        self._module = torch.export.load(trial).module()

    def detect(self, images: list[np.ndarray]) -> Sequence[ImageDetections]:
        """See `Candidate`."""
        with torch.no_grad():
            found = [self._module(torch.from_numpy(image)) for image in images]
        return [
            ImageDetections.of_labels(boxes.numpy(), scores.numpy(), labels.numpy(), self._categories)
            for boxes, scores, labels in found
        ]

    def write(self, path: Path, metadata: Mapping[str, str]) -> None:
        """See `Candidate`."""
        with open(path, "wb") as file:
            torch.export.save(self._program, file, extra_files=dict(metadata))
