"""`Detector`: images → detections, with the trained detector of a `detector.pt`.

    from detection import Detector

    detector = Detector.load("runs/demo/detector.pt")
    found = detector("street.jpg")
    for box, score, name in zip(found.boxes, found.scores, found.names):
        print(name, score, box)

Shapes: D detections, H × W image.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import numpy as np
import torch

from backbones.common.errors import UserError
from backbones.common.text import first_of
from detection.base_detector import BaseDetector
from detection.common.categories import Categories
from detection.config_file import quoted
from detection.data.augmentation import Augmentation
from detection.detector_interface import ImageDetections
from detection.experiment.agreement import change_trained
from detection.experiment.builders import pair
from detection.experiment.inference import Inference, batch_images, detect_batch, prepare_inference
from detection.experiment.model_files import load_detector
from detection.experiment.stored_configuration import with_precision_for_inference
from detection.networks.detections import Detections
from detection.networks.faster_rcnn import FasterRCNN
from detection.training.distributed import named_device
from detection.training.precision import Precision

_NAMES: dict[torch.dtype, Literal["bf16", "fp16"]] = {torch.bfloat16: "bf16", torch.float16: "fp16"}
_LESS_MEMORY = (
    "Lower batch_size; or the size that images are brought to (Detector.load with changes=["
    '"data.test_shorter_side=…", "data.test_longer_side=…"]); or load the detector on another device.'
)


class Detector(BaseDetector):
    """Images → detections, by both networks. It has no state between calls and may be called from several threads.

    Args:
        network: both networks, on their device.
        categories: the classes.
        resize: the resize to the size that the networks were trained for.
        size_divisor: padded sides are multiples of this.
        autocast: the type of half precision; None computes in float32.
        views, flip: test-time augmentation, see `Inference`.
        precision: what the networks compute in, and why, for those who ask; None: by `autocast`.
    """

    def __init__(
        self,
        network: FasterRCNN,
        categories: Categories,
        resize: Augmentation,
        *,
        size_divisor: int = 32,
        autocast: torch.dtype | None = None,
        views: Sequence[Augmentation] = (),
        flip: bool = False,
        precision: Precision | None = None,
    ) -> None:
        self.network = network.eval()
        self.categories = categories
        self._inference = Inference(
            self.network,
            resize,
            size_divisor,
            autocast,
            views=tuple(views),
            flip=flip,
            precision=precision or Precision("fp32" if autocast is None else _NAMES[autocast], "as given"),
        )

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        device: str | torch.device = "auto",
        *,
        precision: str | None = None,
        changes: Sequence[str] = (),
    ) -> Detector:
        """The detector of a `detector.pt`.

        On a CPU with the GNU C library, the process keeps large blocks of freed tensors for the next tensors, as in
        training (`detection.training.memory.keep_freed_memory`). No other setting of the process is changed.

        Args:
            device: "cpu", "cuda", "cuda:1", or "auto", which uses a GPU if there is one.
            precision: "fp32", "bf16", "fp16" (on a GPU) or "auto", which on a CPU with instructions for bf16 measures
                once whether bf16 is faster, for large networks (see `detection.training.precision`). None: auto on a
                CPU, and that of the training on a GPU.
            changes: changes to its configuration, such as "fast_rcnn.min_score=0.3".

        Raises:
            UserError: the file is missing, damaged, or not a detector; a change cannot be made; no such device.
        """
        chosen = _choose_device(str(device))
        trained = load_detector(path)
        own = [] if precision is None else [f"runtime.precision={quoted(precision)}"]
        config = change_trained(with_precision_for_inference(trained.config, chosen), [*changes, *own], path)
        network = pair(config, trained.rpn.network, trained.fast_rcnn.network)
        inference = prepare_inference(network, config, chosen, choose=True)
        return cls(
            inference.network,
            trained.categories,
            inference.resize,
            size_divisor=inference.size_divisor,
            autocast=inference.autocast,
            views=inference.views,
            flip=inference.flip,
            precision=inference.precision,
        )

    @property
    def precision(self) -> Precision:
        """What the networks compute in (`name`, `why`)."""
        return self._inference.precision

    @property
    def device(self) -> torch.device:
        """The device of the networks."""
        return self._inference.device

    def input_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) that an image of this size is resized to."""
        return self._inference.resize.resized(height, width, seed=0)

    def __repr__(self) -> str:
        resize = self._inference.resize
        return (
            f"<Detector: {len(self.categories)} classes ({first_of(self.categories.names, 3)}), images of "
            f"{max(resize.shorter_sides)} to {resize.longer_side_max} pixels, {self.device}, "
            f"{str(self.precision.dtype or torch.float32).removeprefix('torch.')}>"
        )

    def _detect(self, images: Iterable[np.ndarray], batch_size: int) -> Iterator[ImageDetections]:
        for batch in batch_images(self._inference, images, batch_size):
            for found in detect_batch(self._inference, batch, _LESS_MEMORY, "numbers in the call, from 0:"):
                yield self._named(found)

    def _named(self, found: Detections) -> ImageDetections:
        boxes, scores, labels = (values.numpy() for values in found)
        return ImageDetections.of_labels(boxes, scores, labels, self.categories)


def _choose_device(name: str) -> torch.device:
    """The device of this name, as in `process_group`, but without a change of the current GPU."""
    if not re.fullmatch(r"auto|cpu|cuda(:[0-9]+)?", name):
        raise UserError(f'device "{name}" is none of auto, cpu, cuda, and cuda:1 (the second GPU)')
    device = named_device(name)
    if device.index is not None and device.index >= torch.cuda.device_count():
        raise UserError(f'device "{name}" was asked for, but PyTorch sees {torch.cuda.device_count()} GPU(s)')
    return device
