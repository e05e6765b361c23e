"""The detector as an exported program → a file of each format that can be run for its verification, and written.

OnnxCandidate       .onnx, run by onnxruntime
OpenVinoCandidate   .xml and .bin, OpenVINO's intermediate representation, run by OpenVINO
Pt2Candidate        .pt2, torch.export's format, run by PyTorch
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from backbones.common.files import atomic_write
from detection.common.categories import Categories
from detection.detector_interface import ImageDetections
from detection.export import runtime
from detection.export.network import BatchDetector, ImageDetector
from detection.export.onnx_program import exported_program, onnx_file
from detection.export.openvino_session import IR, RT_INFO, require_openvino, sealed, weights_of

if TYPE_CHECKING:
    import onnx


class Candidate(Protocol):
    """A file that is still to be verified."""

    def detect(self, images: list[np.ndarray]) -> Sequence[ImageDetections]:
        """The detections in each image uint8 (H, W, 3), by the file."""
        ...

    def write(self, path: Path, metadata: Mapping[str, str]) -> None:
        """Writes the file with these metadata, whole or not at all."""
        ...


class _OfRuntime:
    """What the candidates that `runtime` loads have in common."""

    _detector: runtime.Detector

    def _load(self, trial: Path) -> None:
        self._detector = runtime.Detector.load(trial, "cpu", threads=torch.get_num_threads())

    def detect(self, images: list[np.ndarray]) -> Sequence[ImageDetections]:
        """See `Candidate`."""
        found: list[ImageDetections] = self._detector(images, batch_size=len(images))
        return found


class OnnxCandidate(_OfRuntime):
    """A `Candidate` of ONNX.

    Args:
        model: the detector.
        metadata: of the file, without its verification.
        folder: for the file that is verified; it must exist as long as this object.
    """

    def __init__(self, model: onnx.ModelProto, metadata: Mapping[str, str], folder: Path) -> None:
        self._model = model
        trial = Path(tempfile.mkdtemp(dir=folder)) / "detector.onnx"
        self.write(trial, metadata)
        self._load(trial)

    def write(self, path: Path, metadata: Mapping[str, str]) -> None:
        """See `Candidate`."""
        with atomic_write(path) as temporary:
            temporary.write_bytes(onnx_file(self._model, metadata))


class OpenVinoCandidate(_OfRuntime):
    """A `Candidate` for OpenVINO. Arguments as of `OnnxCandidate`, and:

    half: weights are stored in fp16.
    """

    def __init__(
        self, model: onnx.ModelProto, metadata: Mapping[str, str], folder: Path, *, half: bool = False
    ) -> None:
        self._openvino = require_openvino()
        self._half = half
        own = Path(tempfile.mkdtemp(dir=folder))
        source = own / "source.onnx"
        source.write_bytes(model.SerializeToString())
        # Not by convert_model, which reports its use to OpenVINO's makers where that is not switched off.
        self._model: Any = self._openvino.Core().read_model(source)
        trial = own / f"detector{IR}"
        self.write(trial, metadata)
        self._load(trial)

    def write(self, path: Path, metadata: Mapping[str, str]) -> None:
        """See `Candidate`. A process that is killed between the two names leaves two files that the runtime refuses."""
        self._model.set_rt_info(json.dumps(dict(metadata)), RT_INFO)
        with tempfile.TemporaryDirectory() as folder:
            graph = Path(folder) / f"detector{IR}"
            self._openvino.save_model(self._model, graph, compress_to_fp16=self._half)
            weights = weights_of(graph).read_bytes()
            content = sealed(graph.read_bytes(), weights)
        with atomic_write(path) as of_graph, atomic_write(weights_of(path)) as of_weights:
            of_weights.write_bytes(weights)
            of_graph.write_bytes(content)


class Pt2Candidate:
    """A `Candidate` of torch.export's format; the metadata are further files in it.

    Args:
        module: the detector; its form of NMS is `nms`.
        metadata, folder: as of `OnnxCandidate`.
    """

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
        with atomic_write(path) as temporary, open(temporary, "wb") as file:
            torch.export.save(self._program, file, extra_files=dict(metadata))
