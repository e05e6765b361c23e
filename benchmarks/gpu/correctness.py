"""(a) Does the device compute the right numbers: kernels, networks, precisions, determinism, lack of memory.

Each function returns {"checks": [{"what", "error", "tolerance", "passed"}, …]}; what cannot be tried here is told in
"left_out". The reference is the plain form of each function, in float64 or float32 on the CPU.
"""

from __future__ import annotations

import copy
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.common import ROOT
from benchmarks.gpu.results import Work
from benchmarks.gpu.scenes import DTYPES, configuration, exact, repeated, scene_of
from detection.data.batches import Batch
from detection.experiment.builders import build_fast_rcnn, build_rpn
from detection.geometry.roi_pooling import RoIPooling
from detection.kernels.choice import PLAIN, Kernels, kernels_for
from detection.networks.box_heads import C4BoxHead
from detection.training.determinism import determinism
from detection.training.micro_batches import backward, backward_or_halve
from detection.training.recipe import optimizer_for

# By how much results may differ, relative to the largest value of the reference. Gradients of networks sum over many
# layers; in low precision each of these rounds to 3 (bf16) or 4 (fp16) digits.
_KERNEL = 1e-4
_LOSS = {"fp32": 1e-3, "bf16": 1e-1, "fp16": 3e-2}
_GRADIENT = {"fp32": 1e-2, "bf16": 4e-1, "fp16": 1.5e-1}
_SAME_BOXES = 0.999  # share of boxes that both keep: rounding may turn one that overlaps by just the threshold
_GPU_TESTS = ("tests/backbones/grouped", "tests/detection/kernels", "tests/detection/training/test_determinism.py")
_MEMORY_LEFT = 256 << 20  # bytes for a micro-batch that must not fit


def check(what: str, error: float, tolerance: float) -> dict[str, Any]:
    """A row: it passed if `error` is at most `tolerance`, which NaN is not."""
    return {"what": what, "error": error, "tolerance": tolerance, "passed": bool(error <= tolerance)}


def relative_error(found: Tensor, expected: Tensor) -> float:
    """The largest difference by the largest value of `expected`."""
    largest = expected.abs().max().double().item()
    difference = (found.detach().cpu().double() - expected.detach().cpu().double()).abs().max().item()
    return difference / largest if largest else difference


def kernels(work: Work) -> dict[str, Any]:
    """Each form of each function on the device beside its plain form on the CPU: values, and gradients where it has
    some."""
    chosen = kernels_for(work.device)
    checks = []
    with exact(work.device):
        for method, strides in (("align", (16,)), ("max", (16,)), ("align", (4, 8, 16, 32))):
            pooling = RoIPooling(method, 7, strides)  # type: ignore[arg-type]
            maps, regions = _maps(strides), _regions(64)
            name = f"RoI pooling, {method}, {len(strides)} level(s)"
            checks += _with_gradient(name, work, chosen, partial(_pool, pooling, regions), maps)
        checks += _region_features(work, chosen)
        checks += _head(work, chosen)
    checks += _suppression(work, chosen)
    ordered = _maps((16,))[0].contiguous(memory_format=torch.channels_last)
    checks.append(check("contiguous order", relative_error(chosen.contiguous(ordered.to(work.device)), ordered), 0.0))
    return {"checks": checks, "left_out": []}


def networks(work: Work, *, preset: str) -> dict[str, Any]:
    """Losses and gradients of both networks on the device, in each precision, beside the plain form on the CPU in
    float32."""
    config = configuration(work, preset, "resnext50_32x4d", *_less(work))
    scene = scene_of(Work(work.device, True, work.folder), preset, config)  # small: the CPU computes it, too
    batch = repeated(scene.batch, 2)
    checks = []
    for name, network in (("RPN", scene.rpn), ("Fast R-CNN", scene.fast_rcnn)):
        build = build_rpn if name == "RPN" else partial(build_fast_rcnn, classes=80)
        reference: nn.Module = build(config, pretrained=False)  # type: ignore[operator]
        reference.load_state_dict({key: value.cpu() for key, value in network.state_dict().items()})
        losses, gradients = _losses_and_gradients(reference, batch.to("cpu"), torch.float32)
        for precision, dtype in DTYPES.items():
            with exact(work.device):
                found, own = _losses_and_gradients(network, batch, dtype)
            loss = max(relative_error(found[term], losses[term]) for term in losses)
            checks.append(check(f"{name}, {precision}: losses", loss, _LOSS[precision]))
            together, expected = (torch.cat([one.flatten().cpu() for one in many]) for many in (own, gradients))
            error = ((together - expected).norm() / expected.norm()).item()
            checks.append(check(f"{name}, {precision}: gradient", error, _GRADIENT[precision]))
    return {"checks": checks, "left_out": []}


def deterministic(work: Work) -> dict[str, Any]:
    """With `runtime.deterministic`, two trainings of a few steps end with the same bits."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    config = configuration(work, "modern", "resnext50_32x4d", "runtime.deterministic=true", *_less(work))
    scene = scene_of(Work(work.device, True, work.folder), "modern", config)
    batch = repeated(scene.batch, 2)
    checks = []
    for name, network, training in (
        ("RPN", scene.rpn, config.rpn.training),
        ("Fast R-CNN", scene.fast_rcnn, config.fast_rcnn.training),
    ):
        ends = []
        for _ in range(2):
            own = copy.deepcopy(network).train()
            optimizer = optimizer_for(own, training)
            with determinism(config.runtime):
                for _ in range(3):
                    backward(own, [batch], device=work.device, factor=0.5)
                    optimizer.step()
                    optimizer.zero_grad(set_to_none=True)
            ends.append([parameter.detach().cpu() for parameter in own.parameters()])
        different = sum(not torch.equal(one, other) for one, other in zip(*ends, strict=True))
        checks.append(check(f"{name}: tensors that differ after three steps", different, 0.0))
    return {"checks": checks, "left_out": []}


def out_of_memory(work: Work) -> dict[str, Any]:
    """A step that does not fit is done in halves and gives the same gradient; the device is usable afterwards.

    On a GPU the process is given only so much memory that the whole does not fit.
    """
    if work.device.type != "cuda":
        return {"checks": [], "left_out": ["a CPU's memory cannot be limited for one step"]}
    config = configuration(work, "modern")
    scene = scene_of(work, "modern", config)
    network, batch = scene.rpn.train(), repeated(scene.batch, 4)
    step = partial(backward, network, device=work.device, factor=0.25)
    optimizer = torch.optim.SGD(network.parameters(), 0.0)

    def gradient() -> Tensor:
        return torch.cat([p.grad.flatten().clone() for p in network.parameters() if p.grad is not None])

    with exact(work.device):
        step([half for half in batch.halves()])
        optimizer.zero_grad(set_to_none=True)
        work.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(work.device)
        begin = torch.cuda.memory_allocated(work.device)
        step(batch.halves())
        half = torch.cuda.max_memory_reserved(work.device) - begin
        expected = gradient()
        optimizer.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(work.device).total_memory
        allowed = torch.cuda.memory_reserved(work.device) + half + _MEMORY_LEFT
        torch.cuda.set_per_process_memory_fraction(min(1.0, allowed / total), work.device)
        log: list[str] = []
        try:
            backward_or_halve(step, [batch], optimizer, log.append)
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, work.device)
    return {
        "checks": [
            check("steps that were not done again in halves", 1 - len(log), 0.0),
            check("gradient of the halves", relative_error(gradient(), expected), _KERNEL),
        ],
        "left_out": [],
    }


def tests(work: Work) -> dict[str, Any]:
    """The suite's tests of what a GPU computes differently, by pytest where it is installed."""
    missing = [name for name in ("pytest", "hypothesis") if importlib.util.find_spec(name) is None]
    if missing:
        return {"checks": [], "left_out": [f"the suite's tests need {', '.join(missing)} (--wheels)"]}
    paths = _GPU_TESTS[-1:] if work.quick else _GPU_TESTS
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *paths]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    lines = done.stdout.strip().splitlines()
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    row = check(f"tests that fail: {' '.join(paths)}", len(failed) if done.returncode in (0, 1) else 1, 0.0)
    return {"checks": [row], "left_out": [], "output": [*failed[:20], *lines[-1:]]}


def _pool(pooling: RoIPooling, regions: Tensor, own: Kernels, maps: Sequence[Tensor]) -> Tensor:
    return own.pool_regions(pooling, maps, regions.to(maps[0]))


def _with_gradient(
    name: str, work: Work, chosen: Kernels, call: Callable[[Kernels, Sequence[Tensor]], Tensor], maps: Sequence[Tensor]
) -> list[dict[str, Any]]:
    """Checks of a function of maps, and of its gradient for a random gradient of its result."""
    results = []
    for own, device, dtype in ((PLAIN, torch.device("cpu"), torch.float64), (chosen, work.device, torch.float32)):
        leaves = [one.detach().to(device, dtype).requires_grad_() for one in maps]
        result = call(own, leaves)
        weights = torch.randn(result.shape, generator=torch.Generator().manual_seed(1)).to(result)
        results.append((result, torch.autograd.grad((result * weights).sum(), leaves)))
    (expected, gradients), (found, own_gradients) = results
    worst = max(relative_error(one, other) for one, other in zip(own_gradients, gradients, strict=True))
    return [
        check(name, relative_error(found, expected), _KERNEL),
        check(f"{name}, gradient", worst, _KERNEL),
    ]


def _region_features(work: Work, chosen: Kernels) -> list[dict[str, Any]]:
    config = configuration(Work(work.device, True, work.folder), "modern")
    head = build_fast_rcnn(config, 3, pretrained=False).box_head
    assert isinstance(head, C4BoxHead)
    width = head.conv5[0].conv1.in_channels if hasattr(head.conv5[0], "conv1") else 1024  # type: ignore[index]
    maps, regions = _maps((16,), channels=width), _regions(24)

    def features(own: Kernels, leaves: Sequence[Tensor]) -> Tensor:
        conv5 = copy.deepcopy(head.conv5).to(leaves[0])
        return own.region_features(head.pooling, conv5, leaves, regions.to(leaves[0]))

    return _with_gradient("vectors of the C4 box head", work, chosen, features, maps)


def _head(work: Work, chosen: Kernels) -> list[dict[str, Any]]:
    config = configuration(Work(work.device, True, work.folder), "modern")
    network = build_rpn(config, pretrained=False)
    width = network.head.conv.in_channels
    maps = _maps((16,), channels=width)
    anchors = maps[0].shape[-2] * maps[0].shape[-1] * network.anchors.per_position
    index = torch.stack([torch.randperm(anchors, generator=torch.Generator().manual_seed(2))[:16] for _ in range(2)])

    def answers(own: Kernels, leaves: Sequence[Tensor]) -> Tensor:
        head = copy.deepcopy(network.head).to(leaves[0])
        logits, targets = own.answer_for(head, leaves, index.to(leaves[0].device))
        return torch.cat([logits[..., None], targets], dim=2)

    return _with_gradient("RPN head for some anchors", work, chosen, answers, maps)


def _suppression(work: Work, chosen: Kernels) -> list[dict[str, Any]]:
    count = 500 if work.quick else 6000
    generator = torch.Generator().manual_seed(3)
    corner = torch.rand(2, count, 2, generator=generator) * 800
    boxes = torch.cat([corner, corner + 8 + torch.rand(2, count, 2, generator=generator) * 200], dim=2)
    valid = torch.rand(2, count, generator=generator) > 0.05
    checks = []
    for limit in (100, count):
        index, kept = PLAIN.suppress(boxes, valid, 0.7, limit)
        found, own_kept = (
            one.cpu() for one in chosen.suppress(boxes.to(work.device), valid.to(work.device), 0.7, limit)
        )
        same = ((index == found) | ~kept) & (kept == own_kept)
        checks.append(check(f"NMS, {limit} kept: boxes that differ", 1 - same.double().mean().item(), 1 - _SAME_BOXES))
    scores, groups = torch.rand(count, generator=generator), torch.randint(0, 80, (count,), generator=generator)
    expected = PLAIN.suppress_by_group(boxes[0].double(), scores.double(), groups, 0.5)
    own = chosen.suppress_by_group(*(one.to(work.device) for one in (boxes[0], scores, groups)), 0.5).cpu()
    lost = len(set(expected.tolist()) ^ set(own.tolist())) / len(expected)
    checks.append(check("NMS by class: boxes that differ", lost, 1 - _SAME_BOXES))
    return checks


def _losses_and_gradients(
    network: nn.Module, batch: Batch, dtype: torch.dtype
) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Each loss (N,) and the gradients of the losses' sum. Dropped again: the network keeps none."""
    network.train()
    device = batch.images.device
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        losses: dict[str, Tensor] = network(batch)
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    total = torch.stack([loss.float().sum() for loss in losses.values()]).sum()
    gradients = torch.autograd.grad(total, parameters)
    network.eval()
    return {name: loss.detach().float().cpu() for name, loss in losses.items()}, [one.float() for one in gradients]


def _maps(strides: Sequence[int], channels: int = 32) -> list[Tensor]:
    """Maps of two images of 256 × 320 pixels."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, channels, 256 // stride, 320 // stride, generator=generator) for stride in strides]


def _regions(count: int) -> Tensor:
    """Boxes (2, count, 4) of all sizes in these images."""
    generator = torch.Generator().manual_seed(1)
    first, second = (torch.rand(2, count, 2, generator=generator) for _ in range(2))
    return torch.cat([torch.minimum(first, second), torch.maximum(first, second)], dim=2) * torch.tensor(
        [320.0, 256.0, 320.0, 256.0]
    )


def _less(work: Work) -> list[str]:
    """Settings with which the CPU computes its part in seconds."""
    return [] if work.quick else ["fast_rcnn.samples=32", "rpn.training_proposals.after_nms=200"]
