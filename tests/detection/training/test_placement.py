"""Where a network's parameters lie, in which order, and by what its convolutions are computed."""

from __future__ import annotations

import pytest
import torch

from backbones import create_backbone, create_classifier
from backbones.grouped import GroupedConvolution
from detection.config import Runtime
from detection.networks.rpn_head import RPNHead
from detection.training import placement
from detection.training.placement import for_inference, placed
from tests.detection import ranks
from tests.detection.tiny_networks import TINY, tiny_rpn

CPU = torch.device("cpu")


@pytest.mark.parametrize(("means", "converted"), [("library", 0), ("fastest", 16)])
def test_grouped_convolutions_are_computed_by_the_means_configured(means: str, converted: int) -> None:
    runtime = Runtime(grouped_convolutions=means)  # type: ignore[arg-type]
    network = create_classifier("resnext50_32x4d", num_classes=2)
    for made in (for_inference(network, runtime, CPU), placed(network, runtime, CPU)):
        assert sum(type(module) is GroupedConvolution for module in made.modules()) == converted


def test_a_module_that_names_its_memory_order_on_a_cpu_has_it_there() -> None:
    assert RPNHead(1024, 8, 3).cpu_memory_format == torch.contiguous_format
    network = tiny_rpn()
    network.head.cpu_memory_format = torch.contiguous_format
    network = placed(network, Runtime(channels_last=True), CPU)
    assert network.head.conv.weight.is_contiguous()
    assert network.backbone.layer1[0].conv2.weight.is_contiguous(memory_format=torch.channels_last)
    other = placed(tiny_rpn(), Runtime(channels_last=True), CPU)
    assert other.head.cpu_memory_format is None  # narrow
    assert other.head.conv.weight.is_contiguous(memory_format=torch.channels_last)


def test_inference_on_a_cpu_keeps_the_memory_that_tensors_free(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[None] = []
    monkeypatch.setattr(placement, "keep_freed_memory", lambda: calls.append(None))
    for_inference(tiny_rpn(), Runtime(), CPU)
    assert len(calls) == 1
    for_inference(tiny_rpn(), Runtime(), torch.device("meta"))
    assert len(calls) == 1


def test_synchronised_batch_norm_is_refused_where_it_cannot_run() -> None:
    network = create_backbone("resnext50_32x4d", None, norm="sync_batch", **TINY)

    def place(rank: int, device: torch.device) -> str:
        for_inference(network, Runtime(), device)  # folded: nothing is left to exchange
        placed(create_backbone("resnext50_32x4d", None, norm="batch", **TINY), Runtime(), device)
        placed(network, Runtime(), device)
        return "placed"

    for said in ranks.by_ranks(2, place):
        assert "sync_batch needs GPUs where several processes train" in said
    assert placed(network, Runtime(), CPU) is network, "one process may"
