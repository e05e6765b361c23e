"""Proposals and ground truth → mean and standard deviation of the raw box targets, to normalise them by.

Source: py-faster-rcnn `roi_data_layer/roidb.py`, which measures them for each class over the whole training set when
its BBOX_NORMALIZE_TARGETS_PRECOMPUTED is off (the alternating recipe); here one measurement covers all classes.
"""

from __future__ import annotations

import dataclasses
import logging

import torch

from backbones.common.errors import UserError
from detection import config as settings
from detection.data.index import DatasetIndex
from detection.data.proposal_store import ProposalStore
from detection.geometry import boxes as box_ops
from detection.geometry.coding import BoxCoder
from detection.training.distributed import on_main

logger = logging.getLogger(__name__)

Four = tuple[float, float, float, float]


def measure(index: DatasetIndex, store: ProposalStore, positive_iou: float, limit: int) -> tuple[Four, Four]:
    """Means and stds of the raw targets over every proposal with an IoU of at least `positive_iou` with an object.

    Args:
        limit: at most this many proposals an image are used, best first.

    Raises:
        UserError: fewer than two proposals overlap an object that much.
    """
    coder = BoxCoder()
    count, total, squares = 0, torch.zeros(4, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)
    for i, image_id in enumerate(index.image_ids.tolist()):
        boxes, _, crowds = index.objects(i)
        truth = torch.from_numpy(boxes[~crowds])
        proposals = torch.from_numpy(store.boxes(image_id, limit))
        if not len(truth) or not len(proposals):
            continue
        best, own = box_ops.iou(truth, proposals).max(dim=0)
        learns = best >= positive_iou
        targets = coder.encode(truth[own[learns]], proposals[learns]).double()
        count += len(targets)
        total += targets.sum(dim=0)
        squares += targets.square().sum(dim=0)
    if count < 2:
        raise UserError(
            f"{store.path}: fewer than two proposals overlap an object by {positive_iou} or more, so "
            "box_statistics=empirical has nothing to measure; train the RPN longer, or set "
            "fast_rcnn.box_statistics=fixed"
        )
    mean = total / count
    std = (squares / count - mean.square()).clamp(min=1e-8).sqrt()
    return _four(mean), _four(std)


def apply_box_statistics(config: settings.Config, index: DatasetIndex, store: ProposalStore) -> settings.Config:
    """The configuration; if `box_statistics` is empirical, with the measured means and stds of the box targets."""
    if config.fast_rcnn.box_statistics == "fixed":
        return config
    means, stds = measure(index, store, config.fast_rcnn.positive_iou, config.rpn.training_proposals.after_nms)
    on_main(lambda: logger.info("box targets: means %s, stds %s", means, stds))
    fast_rcnn = dataclasses.replace(config.fast_rcnn, box_means=means, box_stds=stds, box_statistics="fixed")
    return dataclasses.replace(config, fast_rcnn=fast_rcnn)


def _four(values: torch.Tensor) -> Four:
    a, b, c, d = values.tolist()
    return a, b, c, d
