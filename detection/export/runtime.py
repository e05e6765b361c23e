"""The runtime of exported detectors: `detector.onnx`, or `detector.xml` for OpenVINO, and images → detections, without
PyTorch.

    from detection.export.runtime import Detector

    detector = Detector.load("detector.onnx")
    found = detector("street.jpg")  # an ImageDetections, as of detection.Detector

It needs the packages of requirements-runtime.txt, and not PyTorch. OpenCV, where installed, decodes JPEG and PNG
faster. A file for OpenVINO needs openvino in place of onnxruntime.

Shapes: N images, H × W their padded size, D detections.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from backbones.common.errors import UserError
from backbones.common.files import require_plain_file, sha256_of_stream, user_path
from backbones.common.text import first_of, printable
from detection.base_detector import BaseDetector
from detection.common.categories import Categories, checked_categories
from detection.detector_interface import ImageDetections
from detection.export.openvino_session import IR, OpenVinoSession, require_sealed

FORMAT = "resnext-detection"
VERSION = 1
KINDS = {"image": ("image",), "batch": ("images", "sizes")}  # the inputs of each kind of file

# The end of a file: a protocol buffer's entry of the field `metadata_props` (14 of ModelProto), with the SHA-256 of all
# bytes before it. A reader of ONNX files takes it as one more entry of the metadata.
_SEAL = b"\x72\x4a\x0a\x06sha256\x12\x40"
_DIGEST = 64  # hexadecimal digits

_EXPORT_AGAIN = "export it again with tools/export.py"


def seal(model: bytes) -> bytes:
    """The bytes of an ONNX model with their checksum at the end."""
    return model + _SEAL + hashlib.sha256(model).hexdigest().encode()


class Detector(BaseDetector):
    """Images → detections, as `detection.Detector`, by onnxruntime or OpenVINO. It may be called from several threads.

    Args:
        session: an `onnxruntime.InferenceSession` or an `OpenVinoSession` of the file.
        metadata: the file's metadata; see `Detector.load`.
        where: the file, for messages.

    Attributes:
        categories: the classes.
        metadata: what the file says of itself, by name: "settings", "licences", "provenance", "verification" and more.
    """

    def __init__(self, session: Any, metadata: Mapping[str, str], where: str = "the model") -> None:
        self._session = session
        self.metadata, self.categories = _checked_metadata(metadata, where)
        self.kind: str = self.metadata["kind"]
        found = tuple(value.name for value in session.get_inputs())
        if found != KINDS[self.kind]:
            raise UserError(f"{where}: its inputs are {found}, not {KINDS[self.kind]}; {_EXPORT_AGAIN}")

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: str = "auto", *, threads: int = 0) -> Detector:
        """The detector of a file that `tools/export.py` wrote.

        Args:
            device: "cpu", "cuda", "cuda:1", or "auto", which uses a GPU if onnxruntime was built for it and finds one.
                OpenVINO's files run on the CPU.
            threads: on the CPU; 0: as many as it has cores.

        Raises:
            UserError: onnxruntime or OpenVINO is not installed; the file is missing, damaged, changed after its export,
                not an exported detector, or of a newer version; no such device.
        """
        path = user_path(path)
        where = printable(str(path))
        if path.suffix.lower() == IR:
            return cls._load_ir(path, where, device, threads)
        sealed = _check_digest(path, where)
        onnxruntime = require_onnxruntime()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3  # errors: warnings are about how it optimises
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=_providers(onnxruntime, device))
        except Exception as error:  # its classes differ from version to version
            reason = str(error).strip().splitlines()
            raise UserError(
                f"{where} is no ONNX model that onnxruntime {onnxruntime.__version__} can run, or is cut short: "
                f"{printable(reason[0] if reason else '')[:200]}; {_EXPORT_AGAIN}"
            ) from error
        metadata = session.get_modelmeta().custom_metadata_map
        if metadata.get("format") == FORMAT and not sealed:
            raise UserError(f"{where} was changed after its export, or is cut short; {_EXPORT_AGAIN}")
        return cls(session, metadata, where)

    @classmethod
    def _load_ir(cls, path: Path, where: str, device: str, threads: int) -> Detector:
        if device not in ("auto", "cpu"):
            raise UserError(f'device "{device}" was asked for, but a file for OpenVINO runs on the CPU: cpu or auto')
        try:
            require_sealed(path, where, _EXPORT_AGAIN)
        except OSError as error:
            raise UserError(f"{where} cannot be read: {error.strerror or error}") from error
        session = OpenVinoSession(path, where, threads)
        return cls(session, session.metadata, where)

    @property
    def device(self) -> str:
        """ "cpu" or "cuda"."""
        return "cuda" if self._session.get_providers()[0].startswith("CUDA") else "cpu"

    def __repr__(self) -> str:
        sizes = self.metadata["settings"]
        engine = "OpenVINO" if isinstance(self._session, OpenVinoSession) else "onnxruntime"
        return (
            f"<Detector: {len(self.categories)} classes ({first_of(self.categories.names, 3)}), images of "
            f"{sizes['shorter_side']} to {sizes['longer_side']} pixels, {engine}, {self.device}, "
            f"{self.metadata.get('precision', 'fp32')}>"
        )

    def _detect(self, images: Iterable[np.ndarray], batch_size: int) -> Iterator[ImageDetections]:
        if self.kind == "image":
            for image in images:
                yield self._named(*self._session.run(None, {"image": image}))
        else:
            for batch in self._batches(images, batch_size):
                yield from self._detect_batch(batch)

    def _named(self, boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> ImageDetections:
        return ImageDetections.of_labels(boxes, scores, labels, self.categories)

    def _detect_batch(self, batch: list[np.ndarray]) -> Iterator[ImageDetections]:
        sizes = np.array([image.shape[:2] for image in batch], dtype=np.int64)
        padded = np.zeros((len(batch), *sizes.max(axis=0), 3), dtype=np.uint8)
        for place, image in zip(padded, batch, strict=True):
            place[: image.shape[0], : image.shape[1]] = image
        found = self._session.run(None, {"images": padded, "sizes": sizes})
        for boxes, scores, labels, count in zip(*found, strict=True):
            yield self._named(boxes[:count], scores[:count], labels[:count])

    def _batches(self, images: Iterable[np.ndarray], batch_size: int) -> Iterator[list[np.ndarray]]:
        """Batches of images of one padded size of the network's input: more padding would change the detections near
        the edges of an image."""
        waiting: list[np.ndarray] = []
        for image in images:
            if waiting and (len(waiting) >= batch_size or self._padded(image) != self._padded(waiting[0])):
                yield waiting
                waiting = []
            waiting.append(image)
        if waiting:
            yield waiting

    def input_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) that an image of this size is resized to."""
        settings = self.metadata["settings"]
        factor = min(settings["shorter_side"] / min(height, width), settings["longer_side"] / max(height, width))
        return max(1, int(height * factor + 0.5)), max(1, int(width * factor + 0.5))

    def _padded(self, image: np.ndarray) -> tuple[int, ...]:
        divisor = self.metadata["settings"]["size_divisor"]
        return tuple(-(-side // divisor) for side in self.input_size(*image.shape[:2]))


def require_onnxruntime() -> Any:
    """The module, imported with its reports to its makers off; every import of it goes through here first.

    From 1.29 on its packages report what runs to Microsoft, and leave an identifier in the home folder, unless a
    variable is set before it is imported (microsoft/onnxruntime, pull request 27379).

    Raises:
        UserError: it is not installed.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ImportError:
        raise UserError(
            "onnxruntime is not installed, which runs exported detectors; run: pip install onnxruntime"
        ) from None
    return onnxruntime


def _providers(onnxruntime: Any, device: str) -> list[Any]:
    """The execution providers of a device, in order of preference."""
    named = re.fullmatch(r"auto|cpu|cuda(?::([0-9]+))?", device)
    if named is None:
        raise UserError(f'device "{device}" is none of auto, cpu, cuda, and cuda:1 (the second GPU)')
    has_gpu = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    if device.startswith("cuda") and not has_gpu:
        raise UserError(
            f'device "{device}" was asked for, but this onnxruntime has no CUDA; run: pip install onnxruntime-gpu'
        )
    if device == "cpu" or not has_gpu:
        return ["CPUExecutionProvider"]
    return [("CUDAExecutionProvider", {"device_id": int(named[1] or 0)}), "CPUExecutionProvider"]


def _check_digest(path: Path, where: str) -> bool:
    """Whether the file ends with the checksum of the bytes before it. False: with none.

    Raises:
        UserError: it cannot be read, is a file of PyTorch, or has another checksum.
    """
    try:
        size = require_plain_file(path).st_size
        with open(path, "rb") as file:
            if file.read(4) == b"PK\x03\x04":
                raise UserError(
                    f"{where} is a file of PyTorch: detection.Detector loads a detector.pt, and tools/export.py makes "
                    "a detector.onnx of it"
                )
            rest = size - len(_SEAL) - _DIGEST
            file.seek(max(rest, 0))
            end = file.read()
            if rest < 0 or not end.startswith(_SEAL):
                return False
            file.seek(0)
            digest = sha256_of_stream(file, rest)
    except FileNotFoundError:
        raise UserError(f"{where}: there is no such file") from None
    except OSError as error:
        raise UserError(f"{where} cannot be read: {error.strerror or error}") from error
    if end[len(_SEAL) :] != digest.encode():
        raise UserError(
            f"{where} is damaged: its checksum is not that of its content; copy it again, or {_EXPORT_AGAIN}"
        )
    return True


def _checked_metadata(metadata: Mapping[str, str], where: str) -> tuple[dict[str, Any], Categories]:
    """The metadata of a file as plain values, and its classes.

    Raises:
        UserError: they are not those of an exported detector, or of a newer version.
    """
    if metadata.get("format") != FORMAT:
        raise UserError(f"{where} is a model of another origin; needed is a detector that tools/export.py wrote")
    try:
        values: dict[str, Any] = {
            key: value if key in ("format", "sha256") else json.loads(value) for key, value in metadata.items()
        }
        version = values["version"]
        if not isinstance(version, int):
            raise ValueError(f"its version is {version!r:.50}")
        if version > VERSION:
            raise UserError(
                f"{where} has version {version} of this file format and was written by a newer release; this one "
                f"reads up to version {VERSION}. Update it, or {_EXPORT_AGAIN} of this release"
            )
        if values["kind"] not in KINDS:
            raise ValueError(f"its kind is {values['kind']!r:.50}")
        settings = values["settings"]
        if not all(
            isinstance(settings[key], int) and settings[key] > 0
            for key in ("shorter_side", "longer_side", "size_divisor")
        ):
            raise ValueError("its sizes are not whole numbers")
        categories = values["categories"]
        return values, Categories(*checked_categories(categories["ids"], categories["names"], where))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{where}: an entry of its metadata is missing or of the wrong kind ({error!r:.200}); {_EXPORT_AGAIN}"
        ) from None
