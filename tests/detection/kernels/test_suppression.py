"""NMS, in its three forms, against torchvision's full NMS and a slow loop."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision

from detection.kernels import suppression
from tests.detection.geometry.test_boxes import random_boxes

Suppress = Callable[[torch.Tensor, torch.Tensor, float, int], tuple[torch.Tensor, torch.Tensor]]


@pytest.fixture(params=["suppress", "suppress_in_blocks", "suppress_in_one_call"])
def suppress(request: pytest.FixtureRequest) -> Suppress:
    """Each form in turn; those for a GPU work on a CPU, too."""
    return getattr(suppression, request.param)


def clustered(count: int, seed: int) -> torch.Tensor:
    """Boxes in many crowded places, so that NMS has much to do."""
    generator = torch.Generator().manual_seed(seed)
    centres = random_boxes(max(count // 20, 1), seed=seed, extent=600.0)
    chosen = centres[torch.randint(len(centres), (count,), generator=generator)]
    return chosen + torch.randn(count, 4, generator=generator) * 8


@pytest.mark.parametrize(("count", "limit"), [(3000, 300), (3000, 3000), (700, 50), (5, 300), (513, 512)])
@pytest.mark.parametrize("threshold", [0.3, 0.7])
def test_equals_the_full_nms_cut_to_the_limit(count: int, limit: int, threshold: float, suppress: Suppress) -> None:
    boxes = torch.stack([clustered(count, seed) for seed in (1, 2)])
    index, kept = suppress(boxes, torch.ones(2, count, dtype=torch.bool), threshold, limit)
    for image in range(2):
        expected = torchvision.ops.nms(boxes[image], torch.arange(count, 0, -1).float(), threshold)[:limit]
        assert index[image][kept[image]].tolist() == expected.tolist()


def test_what_takes_no_part_suppresses_nothing_and_is_not_kept(suppress: Suppress) -> None:
    boxes = torch.tensor([[[0.0, 0, 10, 10], [0, 0, 10, 10.5], [50, 50, 60, 60]]])
    index, kept = suppress(boxes, torch.tensor([[False, True, True]]), 0.5, 10)
    assert index[kept].tolist() == [1, 2]
    assert kept.tolist() == [[True, True, False]]


def test_a_slow_loop_agrees(suppress: Suppress) -> None:
    boxes = clustered(60, 9)
    alive, expected = list(range(60)), []
    while alive:
        best = alive.pop(0)
        expected.append(best)
        alive = [b for b in alive if torchvision.ops.box_iou(boxes[best : best + 1], boxes[b : b + 1]).item() <= 0.5]
    index, kept = suppress(boxes[None], torch.ones(1, 60, dtype=torch.bool), 0.5, 60)
    assert index[kept].tolist() == expected


def test_no_boxes_at_all(suppress: Suppress) -> None:
    index, kept = suppress(torch.zeros(2, 0, 4), torch.zeros(2, 0, dtype=torch.bool), 0.5, 10)
    assert index.shape == kept.shape == (2, 0)
    index, kept = suppress(torch.zeros(1, 4, 4), torch.zeros(1, 4, dtype=torch.bool), 0.5, 10)
    assert not kept.any()


@pytest.mark.parametrize("form", ["suppress_by_group", "suppress_by_group_in_double"])
def test_other_classes_suppress_nothing(form: str) -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10]] * 3)
    kept = getattr(suppression, form)(boxes, torch.tensor([0.5, 0.9, 0.7]), torch.tensor([1, 1, 2]), 0.5)
    assert kept.tolist() == [1, 2]


@pytest.mark.parametrize("count", [0, 1, 40, 999, 1000, 1001, 2500])
def test_by_group_on_a_cpu_is_torchvisions_to_the_bit(count: int) -> None:
    torch.manual_seed(count)
    corners = torch.rand(count, 2) * 300
    boxes = torch.cat([corners, corners + torch.rand(count, 2) * 80], dim=1)
    scores, groups = torch.rand(count), torch.randint(0, 5, (count,))
    expected = torchvision.ops.batched_nms(boxes, scores, groups, 0.4)
    assert suppression.suppress_by_group_on_cpu(boxes, scores, groups, 0.4).tolist() == expected.tolist()
    if count > 900:
        assert 0 < len(expected) < count


@pytest.mark.parametrize("libraries", ["", "; torchvision_nms._LIBRARIES = ('none.so',)"], ids=["alone", "imported"])
def test_nms_loads_its_operator_alone_and_torchvision_where_it_cannot(repository: Path, libraries: str) -> None:
    code = (
        f"import sys, torch; from detection.kernels import torchvision_nms{libraries};"
        "boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 30]]);"
        "print(torchvision_nms.nms(boxes, torch.tensor([0.5, 0.9, 0.1]), 0.5).tolist(), 'torchvision' in sys.modules);"
        "import torchvision; print(torchvision.ops.nms(boxes, torch.tensor([0.5, 0.9, 0.1]), 0.5).tolist())"
    )
    output = subprocess.run([sys.executable, "-c", code], cwd=repository, check=True, capture_output=True, text=True)
    assert output.stdout.split("\n")[:2] == [f"[1, 2] {bool(libraries)}", "[1, 2]"]
