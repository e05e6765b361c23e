"""What `benchmarks.growth` makes larger and larger: for each quantity, the works whose time and memory depend on it.

The networks are those of configs/demo.yaml with random weights, and look at one image: what grows is what is
measured. A work is prepared for one size and then called again and again.

Shapes: A anchors, G ground-truth boxes, R regions, K classes, M images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.common import ROOT
from benchmarks.growth_data import detections, images
from detection import config as settings
from detection.config_file import load_config
from detection.data.batches import Batch
from detection.experiment.builders import build_fast_rcnn, build_rpn, pair
from detection.kernels.choice import CPU
from detection.networks.fast_rcnn import FastRCNN
from detection.networks.rpn import RPN
from detection.training.placement import for_inference, placed

Work = Callable[[], object]

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Subject:
    """A quantity that grows.

    name: as the command line and the plots' file names have it. quantity: in words. sizes: ascending. works: (size,
    scratch folder) → works by name. slow: is measured once, not in rounds.
    """

    name: str
    quantity: str
    sizes: tuple[int, ...]
    works: Callable[[int, Path], Mapping[str, Work]]
    slow: bool = False


def area(pixels: int, _: Path) -> dict[str, Work]:
    """Both training steps and inference on a square image of so many pixels."""
    side = round(pixels**0.5)
    config = _config()
    rpn, fast_rcnn = _networks(config)
    batch = _batch((side, side), boxes=8, proposals=300)
    detector = for_inference(pair(config, rpn, fast_rcnn), config.runtime, _CPU)

    @torch.inference_mode()
    def infer() -> object:
        return detector(batch.images, batch.sizes, batch.original_sizes)

    return {
        "RPN training step": _training_step(rpn, batch),
        "Fast R-CNN training step": _training_step(fast_rcnn, batch),
        "inference, both": infer,
    }


def regions(count: int, _: Path) -> dict[str, Work]:
    """The Fast R-CNN that learns from R of 2,000 proposals, that looks at R, and the NMS that keeps R of 12,000."""
    config = _config(f"fast_rcnn.samples={count}")
    fast_rcnn = _networks(config)[1]
    batch = _batch((256, 256), boxes=8, proposals=2000)
    scattered = _boxes(12_000, (600, 1000), shortest=0.05, longest=0.3)
    takes_part = torch.ones(1, len(scattered), dtype=torch.bool)
    return {
        "Fast R-CNN training step": _training_step(fast_rcnn, batch),
        "Fast R-CNN inference": _looking(config, fast_rcnn, batch, count),
        "NMS of 12,000 boxes": lambda: CPU.suppress(scattered[None], takes_part, 0.7, count),
    }


def ground_truth(count: int, _: Path) -> dict[str, Work]:
    """Both training steps on an image with G objects, and the share of it that depends on them: which of 28,500
    anchors and which of 2,000 proposals learn what."""
    config = _config("rpn.anchor_sizes=[32,64,128,256,512]", "rpn.anchor_ratios=[0.5,1,2]")
    rpn, fast_rcnn = _networks(config)
    batch = _batch((608, 800), boxes=count, proposals=2000)
    anchors = rpn.anchors([torch.zeros(1, 1, 38, 50)])

    @torch.no_grad()
    def targets_of_anchors() -> object:
        return rpn.assign(anchors, batch.boxes, batch.labels, batch.crowds, batch.sizes)

    @torch.no_grad()
    def targets_of_proposals() -> object:
        return fast_rcnn.sample_regions(batch)

    return {
        "RPN training step": _training_step(rpn, batch),
        "Fast R-CNN training step": _training_step(fast_rcnn, batch),
        "targets of 28,500 anchors": targets_of_anchors,
        "targets of 2,000 proposals": targets_of_proposals,
    }


def classes(count: int, _: Path) -> dict[str, Work]:
    """The Fast R-CNN for K classes, learning from 64 regions and looking at 300."""
    config = _config("fast_rcnn.samples=64")
    fast_rcnn = _networks(config, count)[1]
    nn.init.normal_(fast_rcnn.class_logits.weight, std=0.3)  # decided, as after training, however many classes
    batch = _batch((256, 256), boxes=8, proposals=300, labels=count)
    return {
        "training step, 64 regions": _training_step(fast_rcnn, batch),
        "inference, 300 regions": _looking(config, fast_rcnn, batch, 300),
    }


SUBJECTS = (
    Subject("area", "pixels of the image", tuple(side**2 for side in (128, 192, 256, 384, 512, 768, 1024)), area),
    Subject("regions", "regions", (64, 128, 256, 512, 1000, 2000), regions),
    Subject("ground_truth", "ground-truth boxes", (1, 16, 125, 500, 1000, 2000), ground_truth),
    Subject("classes", "classes", (1, 10, 80, 300, 600, 1203), classes),
    Subject("images", "images of the data set", (1000, 4000, 12_000, 40_000, 118_287, 400_000), images, slow=True),
    Subject("detections", "evaluated images", (1000, 4000, 12_000, 40_000), detections, slow=True),
)


def _config(*changes: str) -> settings.Config:
    return load_config(ROOT / "configs" / "demo.yaml", ["runtime.device=cpu", *changes])


def _networks(config: settings.Config, classes: int = 6) -> tuple[RPN, FastRCNN]:
    torch.manual_seed(0)
    rpn, fast_rcnn = build_rpn(config, pretrained=False), build_fast_rcnn(config, classes, pretrained=False)
    return placed(rpn, config.runtime, _CPU), placed(fast_rcnn, config.runtime, _CPU)


def _batch(size: tuple[int, int], *, boxes: int, proposals: int, labels: int = 6) -> Batch:
    """One image of noise with random boxes and proposals."""
    torch.manual_seed(0)
    own_size = torch.tensor([size])
    return Batch(
        images=torch.randint(0, 256, (1, *size, 3), dtype=torch.uint8).permute(0, 3, 1, 2),
        sizes=own_size,
        original_sizes=own_size,
        image_ids=torch.ones(1, dtype=torch.int64),
        seeds=torch.ones(1, dtype=torch.int64),
        boxes=_boxes(boxes, size)[None],
        labels=torch.randint(1, labels + 1, (1, boxes)),
        crowds=torch.zeros(1, boxes, dtype=torch.bool),
        proposals=_boxes(proposals, size)[None],
        proposal_counts=torch.tensor([proposals]),
    )


def _boxes(count: int, size: tuple[int, int], shortest: float = 0.1, longest: float = 0.4) -> Tensor:
    """Random boxes (count, 4) in an image of `size` (height, width); sides in shares of the image's."""
    corner = torch.rand(count, 2) * (1 - longest)
    far = corner + shortest + torch.rand(count, 2) * (longest - shortest)
    return torch.cat([corner, far], dim=1) * torch.tensor([size[1], size[0], size[1], size[0]])


def _training_step(network: nn.Module, batch: Batch) -> Work:
    """Forward, losses, backward; what the optimizer does depends on the weights alone."""
    network.train()

    def step() -> None:
        torch.stack([loss.sum() for loss in network(batch).values()]).sum().backward()
        network.zero_grad(set_to_none=True)

    return step


def _looking(config: settings.Config, network: FastRCNN, batch: Batch, count: int) -> Work:
    """Detections from the first `count` proposals, by a copy made for inference."""
    network = for_inference(network, config.runtime, _CPU)
    assert batch.proposals is not None
    arguments = (batch.images, batch.sizes, batch.proposals[:, :count].contiguous(), torch.tensor([count]))
    return torch.inference_mode()(lambda: network.detect(*arguments))
