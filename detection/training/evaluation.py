"""The result of an evaluation during a training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Evaluation:
    """Figures by name, NaN where there was nothing to compute one by; and images for the loggers by name, each uint8
    (H, W, 3) RGB, on rank 0 alone."""

    figures: Mapping[str, float]
    images: Mapping[str, np.ndarray] = field(default_factory=dict)
