"""Object detection with an RPN and a Fast R-CNN that are trained separately and share no features.

from detection import Detector, evaluate, train
run = train("images_and_labels", minutes=10)
Detector.load(run.weights)("image.jpg")
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from detection.api import TrainedRun, evaluate, train
    from detection.detector import Detector, ImageDetections

__all__ = ["Detector", "ImageDetections", "TrainedRun", "evaluate", "train"]

_OF_DETECTOR = ("Detector", "ImageDetections")


def __getattr__(name: str) -> Any:
    # On first use: the command-line tools answer --help without loading torch.
    if name == "PictureDetections":
        warnings.warn("PictureDetections is called ImageDetections now", DeprecationWarning, stacklevel=2)
        name = "ImageDetections"
    if name in _OF_DETECTOR:
        from detection import detector

        return getattr(detector, name)
    if name in __all__:
        from detection import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
