"""A `detector.pt` or a `detector.onnx` → the detector that runs it. PyTorch is imported for a `detector.pt` only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from backbones.common.errors import UserError
from backbones.common.text import printable
from detection.base_detector import BaseDetector

EXPORTED = ".onnx"


def load_detector_file(
    path: Path, device: str = "auto", *, precision: str | None = None, changes: Sequence[str] = ()
) -> BaseDetector:
    """The detector of a file; one that ends in .onnx is run by onnxruntime.

    Args:
        device, precision, changes: see `detection.Detector.load`; a .onnx file has its precision and configuration
            from its export.

    Raises:
        UserError: see `detection.Detector.load` and `detection.export.runtime.Detector.load`; or `precision` or
            `changes` are given for a .onnx file.
    """
    if path.suffix.lower() != EXPORTED:
        from detection.detector import Detector

        return Detector.load(path, device, precision=precision, changes=changes)
    if changes:
        raise UserError(
            f"{printable(str(path))}: the configuration of an exported file is fixed; export it again with "
            f"{printable(' '.join(changes))}"
        )
    if precision is not None:
        raise UserError(f"{printable(str(path))}: the precision of an exported file is fixed; leave --precision out")
    from detection.export.runtime import Detector as ExportedDetector

    return ExportedDetector.load(path, device)


def source_digest(path: Path, detector: BaseDetector) -> str | None:
    """The SHA-256 of the `detector.pt` that a .onnx file was exported from; None for a `detector.pt` itself."""
    if path.suffix.lower() != EXPORTED:
        return None
    metadata = getattr(detector, "metadata", {})
    return str(metadata.get("source", {}).get("sha256", ""))
