"""Views of images → class scores, averaged over the views; scores and labels → top-k error.

Legend: N images, V views, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..resnext import ResNeXt


@torch.inference_mode()
def class_scores(network: ResNeXt, views: Sequence[tuple[Tensor, Tensor]], images: int) -> Tensor:
    """The network's scores before the softmax, averaged over each image's views (the reference code: over ten crops).

    Args:
        network: in evaluation mode.
        views: as `stack_views` gives them, on the network's device: images uint8 RGB (V, 3, h, w), owners int64 (V,).
        images: N; all images have the same number of views.

    Returns:
        float32 (N, K).
    """
    total = None
    count = 0
    for stack, owners in views:
        scores = network(network.input_format.normalize(stack)).float()
        if total is None:
            total = scores.new_zeros((images, scores.shape[1]))
        total.index_add_(0, owners, scores)
        count += len(stack)
    if total is None:
        raise ValueError("no views")
    return total * (images / count)


def is_missed(scores: Tensor, labels: Tensor, k: int) -> Tensor:
    """Whether the true class is not among the k of highest score.

    Args:
        scores: (N, K). labels: int64 (N,).

    Returns:
        bool (N,). Classes that tie with the true one are counted before it: a network that gives all classes the same
        score, or NaN, is always wrong. With k ≥ K nothing is missed.

    >>> scores = torch.tensor([[0.1, 0.7, 0.2], [0.4, 0.4, 0.2]])
    >>> is_missed(scores, torch.tensor([2, 0]), 1).tolist(), is_missed(scores, torch.tensor([2, 0]), 2).tolist()
    ([True, True], [False, False])
    """
    own = scores.gather(1, labels[:, None])
    ahead = (~(scores < own)).sum(1) - 1
    return ahead >= k
