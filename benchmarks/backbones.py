"""The classification networks beside torchvision's and timm's: forward, and forward with backward.

    python -m benchmarks.backbones                   fp32 on the CPU
    python -m benchmarks.backbones --device cuda     fp32, then bf16 with channels_last: as it is, compiled, and with
                                                     ours by the fastest grouped convolutions
    python -m benchmarks.backbones --quick           to see that it runs: small images, twice

ResNeXt-50 32×4d, ResNeXt-101 32×4d and ResNet-101. All three implementations get the same weights and images, and
must give the same logits and gradients; that is checked first, in float64 on small images. Then all networks of all
three take turns, in one process.

- 8 × 3 × 224 × 224 is how a classifier is trained: BN by the statistics of the batch.
- 1 × 3 × 608 × 800 is what a detector's trunk sees: in training, BN is frozen, and stem and c2 are fixed, with each
  side's own means (torchvision's FrozenBatchNorm2d, timm's freeze_batch_norm_2d).
- Forward is inference. Its second row is ours as a detector runs it, BN folded and channels_last, beside the others as
  they come.

The second table is the paper's complaint (section 5): ResNeXt-101 32×4d takes 0.95 s where ResNet-101, of as many
FLOPs, takes 0.70 s.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional

from backbones import ResNeXt, Variant, fastest_grouped_convolutions, fold_batch_norm
from backbones.common.errors import UserError
from backbones.variants import find_variant
from benchmarks.common import (
    OURS,
    PEER,
    RESULTS,
    Timing,
    environment,
    interleaved,
    seconds,
    table,
    write_comparison,
)
from detection.command_line import run
from detection.training.distributed import named_device

TIMM = "timm"
FOLDED = "BN folded, channels_last"
WIDE, GROUPED = "resnet101", "resnext101_32x4d"
NETWORKS = {name: find_variant(name, {}) for name in ("resnext50_32x4d", GROUPED, WIDE)}
CLASSES = 1000
_TOLERANCE = 1e-8  # of the norm of logits, and of the gradient of all weights together, in float64

States = Mapping[str, Mapping[str, Tensor]]  # state dicts by the name of the network
Timings = Mapping[str, Timing]  # by `key`


@dataclass(frozen=True)
class Case:
    """`shape` is (images, height, width); `frozen` says that BN is, and that stem and c2 are fixed."""

    what: str
    shape: tuple[int, int, int]
    backward: bool = False
    frozen: bool = False

    @property
    def name(self) -> str:
        images, height, width = self.shape
        return f"{images} × {height} × {width}, {self.what}"


CASES = (
    Case("forward", (8, 224, 224)),
    Case("forward + backward", (8, 224, 224), backward=True),
    Case("forward", (1, 608, 800)),
    Case("forward + backward, frozen BN", (1, 608, 800), backward=True, frozen=True),
)
_SMALL = {(8, 224, 224): (4, 64, 64), (1, 608, 800): (1, 96, 128)}


@dataclass(frozen=True)
class Setup:
    """How all implementations are run."""

    name: str
    dtype: torch.dtype = torch.float32
    channels_last: bool = False
    autocast: torch.dtype | None = None
    compiled: bool = False
    fastest: bool = False  # ours by `fastest_grouped_convolutions`


ON_CPU = (Setup("fp32"),)
ON_GPU = (
    Setup("fp32"),
    Setup("bf16, channels_last", channels_last=True, autocast=torch.bfloat16),
    Setup("bf16, channels_last, compiled", channels_last=True, autocast=torch.bfloat16, compiled=True),
    Setup("bf16, channels_last, ours by the fastest", channels_last=True, autocast=torch.bfloat16, fastest=True),
)


def key(network: str, who: str) -> str:
    """What a network of an implementation is called among functions and timings."""
    return f"{network}, {who}"


def main() -> int:
    options = _arguments().parse_args()
    device = named_device(options.device)
    cases, repeats = (small_cases(), 2) if options.quick else (CASES, options.repeats)
    states = {name: calibrated(variant) for name, variant in NETWORKS.items()}
    differences = {case.name: difference(case, states, device) for case in small_cases()}
    for what, worst in differences.items():
        print(f"{what}: results differ by {worst:.1e} of their norm in float64", flush=True)
        if not worst < _TOLERANCE:
            raise UserError("the three do not compute the same, so their times mean nothing")

    measured: dict[str, Timings] = {}
    rows, ratios = [], []
    for setup in ON_CPU if device.type == "cpu" else ON_GPU:
        for case in cases:
            name = f"{case.name}, {setup.name}"
            timings = interleaved(functions(case, setup, states, device), repeats, device=device)
            measured[name] = timings
            ratios.append([name, *grouped_by_wide(timings)])
            for row in comparison(name, timings):
                rows.append(row)
                print(*row, sep="  ", flush=True)
    where = "CPU" if device.type == "cpu" else torch.cuda.get_device_name(device)
    tables = [
        table(
            f"Classification networks on the {where}",
            ("median (fastest – slowest)", OURS, PEER, TIMM, "ours by the faster of the two"),
            rows,
        ),
        table(
            "Time of ResNeXt-101 32×4d by that of ResNet-101, which has as many FLOPs (1.36 in the paper)",
            ("", OURS, PEER, TIMM),
            ratios,
        ),
    ]
    output = options.output or (None if options.quick else RESULTS / _file_name(device))
    about, title = environment("backbones", device, [TIMM]), "The backbones beside torchvision's and timm's"
    write_comparison(output, title, about, tables, measured, {"differences": differences})
    return 0


def small_cases() -> list[Case]:
    """The cases on small images."""
    return [replace(case, shape=_SMALL[case.shape]) for case in CASES]


def calibrated(variant: Variant) -> dict[str, Tensor]:
    """Random weights under which a deep network is as well-behaved as a trained one, so that rounding stays rounding:
    BN statistics that keep activations at their size, and blocks that change their input by a little."""
    torch.manual_seed(0)
    network = ResNeXt(variant, CLASSES).train()
    for name, module in network.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
            if name.endswith("bn3"):
                nn.init.constant_(module.weight, 0.2)
    with torch.no_grad():
        network(torch.randn(8, 3, 96, 96))
    return network.state_dict()


def implementations(variant: Variant, state: Mapping[str, Tensor], *, frozen: bool) -> dict[str, nn.Module]:
    """Ours, torchvision's and timm's network of the same numbers and weights, on the CPU and in training mode."""
    timm = _timm()
    with torch.device("meta"):  # the numbers come from `state`
        ours = ResNeXt(variant, CLASSES, norm="frozen" if frozen else "batch")
        networks: dict[str, nn.Module] = {
            OURS: ours,
            PEER: torchvision.models.resnet.ResNet(
                torchvision.models.resnet.Bottleneck,
                list(variant.depths),
                CLASSES,
                groups=variant.cardinality,
                width_per_group=variant.base_width,
                norm_layer=torchvision.ops.FrozenBatchNorm2d if frozen else None,
            ),
            TIMM: timm.models.resnet.ResNet(
                timm.models.resnet.Bottleneck,
                variant.depths,
                CLASSES,
                cardinality=variant.cardinality,
                base_width=variant.base_width,
            ),
        }
    for network in networks.values():
        network.load_state_dict({name: tensor.clone() for name, tensor in state.items()}, assign=True)
    if frozen:
        ours.freeze("c2")
        networks[TIMM] = timm.layers.freeze_batch_norm_2d(networks[TIMM])
        for network in networks.values():
            for name, parameter in network.named_parameters():
                parameter.requires_grad_(ours.get_parameter(name).requires_grad)
    return networks


def functions(case: Case, setup: Setup, states: States, device: torch.device) -> dict[str, Callable[[], list[Tensor]]]:
    """What is timed, by `key`; each gives its logits and, with backward, the gradients of its weights."""
    torch.manual_seed(0)
    count, *size = case.shape
    order = torch.channels_last if setup.channels_last else torch.contiguous_format
    images = torch.randn(count, 3, *size, device=device, dtype=setup.dtype).contiguous(memory_format=order)
    labels = torch.randint(CLASSES, (count,), device=device)

    def infer(network: nn.Module, images: Tensor) -> list[Tensor]:
        with torch.inference_mode(), torch.autocast(device.type, setup.autocast, enabled=setup.autocast is not None):
            return [network(images)]

    def learn(network: nn.Module, weights: Sequence[Tensor]) -> list[Tensor]:
        with torch.autocast(device.type, setup.autocast, enabled=setup.autocast is not None):
            logits = network(images)
            loss = functional.cross_entropy(logits, labels)
        return [logits.detach(), *torch.autograd.grad(loss, weights)]

    def prepared(network: nn.Module, order: torch.memory_format) -> nn.Module:
        network = network.train(case.backward).to(device, setup.dtype, memory_format=order)  # type: ignore[call-overload]
        return torch.compile(network) if setup.compiled else network  # type: ignore[return-value]

    found: dict[str, Callable[[], list[Tensor]]] = {}
    for name, state in states.items():
        for who, network in implementations(NETWORKS[name], state, frozen=case.frozen).items():
            if setup.fastest and who == OURS:
                fastest_grouped_convolutions(network)
            network = prepared(network, order)
            if case.backward:
                weights = [parameter for parameter in network.parameters() if parameter.requires_grad]
                found[key(name, who)] = partial(learn, network, weights)
            else:
                found[key(name, who)] = partial(infer, network, images)
        if not case.backward:
            last = torch.channels_last
            ours = implementations(NETWORKS[name], state, frozen=False)[OURS].to(setup.dtype)
            folded = fold_batch_norm(ours)
            if setup.fastest:
                fastest_grouped_convolutions(folded)
            folded = prepared(folded, last)
            found[key(name, FOLDED)] = partial(infer, folded, images.contiguous(memory_format=last))
    return found


def difference(case: Case, states: States, device: torch.device) -> float:
    """By how much what any network gives differs from torchvision's: the largest ‖a - b‖ / ‖b‖ of the logits, or of the
    gradients of all weights together. In float64, because rounding that turns a ReLU changes gradients by a percent."""
    work = functions(case, Setup("fp64", torch.float64), states, device)
    results = {what: function() for what, function in work.items()}
    distances = []
    for name in states:
        expected = results[key(name, PEER)]
        for who in (OURS, FOLDED, TIMM):
            got = results.get(key(name, who))
            if got is not None:
                distances.append(_distance(got[:1], expected[:1]))
                if case.backward:
                    distances.append(_distance(got[1:], expected[1:]))
    return max(distances)


def _distance(first: Sequence[Tensor], second: Sequence[Tensor]) -> float:
    def norm(tensors: Iterator[Tensor]) -> float:
        return math.sqrt(sum(tensor.double().square().sum().item() for tensor in tensors))

    return norm(one - other for one, other in zip(first, second, strict=True)) / norm(iter(second))


def comparison(name: str, timings: Timings) -> Iterator[list[str]]:
    """Rows of a case: for each network, ours beside the others, and ours folded if it was measured."""
    for network in NETWORKS:
        others = [timings[key(network, who)] for who in (PEER, TIMM)]
        fastest = min(others, key=lambda timing: timing.median)
        for who, what in ((OURS, name), (FOLDED, f"{name}; ours {FOLDED}")):
            own = timings.get(key(network, who))
            if own is not None:
                cells = [
                    f"{seconds(one.median)} ({seconds(min(one.rounds))} – {seconds(max(one.rounds))})"
                    for one in (own, *others)
                ]
                yield [f"{network}, {what}", *cells, f"{own.ratio_to(fastest):.2f}"]


def grouped_by_wide(timings: Timings) -> Iterator[str]:
    """The time of ResNeXt-101 by that of ResNet-101, for each implementation."""
    for who in (OURS, PEER, TIMM):
        yield f"{timings[key(GROUPED, who)].ratio_to(timings[key(WIDE, who)]):.2f}"


def _timm() -> Any:
    try:
        import timm
    except ImportError:
        raise UserError(
            "timm is not installed, and this benchmark compares with it: pip install -r requirements-dev.txt"
        ) from None
    return timm


def _file_name(device: torch.device) -> str:
    return "backbones.json" if device.type == "cpu" else f"backbones_{device.type}.json"


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="rounds (default: 3)")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="default: cpu")
    parser.add_argument("--quick", action="store_true", help="small images, two rounds, to see that it runs; no file")
    parser.add_argument(
        "--output", type=Path, help="benchmarks/results/backbones.json by default, backbones_cuda.json on a GPU"
    )
    return parser


if __name__ == "__main__":
    sys.exit(run(main))
