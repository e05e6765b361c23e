"""A server whose detector answers at once: what `benchmarks.serve --stand-in` measures is then the server alone.

python -m benchmarks.serve_stand_in    prints its URL; Ctrl-C or SIGTERM ends it
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np

from detection.detector_interface import ImageDetections
from detection.serve.application import create_application
from detection.serve.connections import Server

_BOXES = np.array([[1, 2, 30, 40], [5, 5, 20, 20]], dtype=np.float32)
_SCORES = np.array([0.9, 0.4], dtype=np.float32)
_LABELS = np.array([1, 2], dtype=np.int64)


def detect(images: Sequence[np.ndarray], *, batch_size: int = 1) -> list[ImageDetections]:
    """The same two detections in every image."""
    return [ImageDetections(_BOXES, _SCORES, _LABELS, ["cat", "dog"], _LABELS) for _ in images]


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    Server(create_application(detect), on_start=lambda url: print(url, flush=True)).run()


if __name__ == "__main__":
    main()
