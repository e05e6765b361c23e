"""A `detector.pt` or an exported file → the detector that runs it. PyTorch is imported for a `detector.pt` only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from backbones.common.errors import UserError
from backbones.common.text import printable
from detection.base_detector import BaseDetector

EXPORTED = (".onnx", ".xml")


def load_detector_file(
    path: Path, device: str = "auto", *, precision: str | None = None, changes: Sequence[str] = ()
) -> BaseDetector:
    """The detector of a file; one that ends in .onnx is run by onnxruntime, in .xml by OpenVINO.

    Args:
        device, precision, changes: see `detection.Detector.load`; an exported file has its precision and
            configuration from its export.

    Raises:
        UserError: see `detection.Detector.load` and `detection.export.runtime.Detector.load`; or `precision` or
            `changes` are given for an exported file.
    """
    if path.suffix.lower() not in EXPORTED:
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
    """The SHA-256 of the `detector.pt` that an exported file was made from; None for a `detector.pt` itself."""
    if path.suffix.lower() not in EXPORTED:
        return None
    metadata = getattr(detector, "metadata", {})
    return str(metadata.get("source", {}).get("sha256", ""))
