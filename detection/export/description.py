"""A trained detector → the metadata of its exported file: texts by name, JSON but for the first.

format          "resnext-detection"
version         of this format, a number
kind            "image": the file takes one image; "batch": several
precision       of the layers: "fp32", "fp16", "int8"
quantization    of int8: what is quantised (`detection.export.quantization`)
categories      ids and names of the classes, in the order of the labels 1..K
settings        image sizes and thresholds
licences        of the weights that each network began from; null: none, or not known
provenance      of each network, as in the detector.pt
configuration   as in the detector.pt, with the changes of the export
source          name and SHA-256 of the detector.pt
versions        of the packages that wrote the file
verification    how it was compared with the detector (`detection.export.verification`)
"""

from __future__ import annotations

import dataclasses
import json
from importlib import metadata
from pathlib import Path
from typing import Any

from backbones.common.files import sha256_of
from detection import config as settings
from detection.config_file import config_to_dict
from detection.experiment.model_files import Trained, TrainedDetector
from detection.export import runtime
from detection.export.onnx_program import PACKAGES
from detection.training.artifacts import versions


def describe(
    trained: TrainedDetector, config: settings.Config, weights: Path, kind: str, precision: str = "fp32"
) -> dict[str, str]:
    """The metadata of a file, all but "quantization" and "verification"."""
    networks: dict[str, Trained[Any]] = {"rpn": trained.rpn, "fastrcnn": trained.fast_rcnn}
    data, limits, fast = config.data, config.rpn.test_proposals, config.fast_rcnn
    values = {
        "version": runtime.VERSION,
        "kind": kind,
        "precision": precision,
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
        "licences": {name: _licence(one) for name, one in networks.items()},
        "provenance": {name: one.provenance for name, one in networks.items()},
        "configuration": config_to_dict(config),
        "source": {"file": weights.name, "sha256": sha256_of(weights)},
        "versions": {**versions(), **_package_versions()},
    }
    return {"format": runtime.FORMAT, **{name: json.dumps(value) for name, value in values.items()}}


def _licence(trained: Trained[Any]) -> str | None:
    """The licence of the weights that a network began from; None if it began from none, or if it is not known."""
    licence = (trained.began_with or {}).get("licence")
    return None if licence is None else str(licence)


def _package_versions() -> dict[str, str]:
    found = {}
    for name in (*PACKAGES, "openvino"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
