"""Our two networks beside torchvision's Faster R-CNN on the same ResNeXt C4 weights: the time of each step and part.

    python -m benchmarks.detector                    the paper's settings, 1 × 3 × 608 × 800
    python -m benchmarks.detector --preset modern
    python -m benchmarks.detector --preset pyramid
    python -m benchmarks.detector --preset modern --precision auto --threads 1
    python -m benchmarks.detector --device cuda --precision bf16 --backbone resnext101_32x4d
    python -m benchmarks.detector --quick            to see that it runs: small, twice

torchvision's side is its own: body with its FrozenBatchNorm2d, RPN, RoI heads, operators, memory order, and SGD as its
training script makes it. It is given our anchors and pixel conventions, so that both must find the same boxes; that
they do is checked first. Then the two take turns, in one process.

- RPN training step: forward, losses, backward, update. torchvision computes proposals while training, and its head
  answers for all anchors; ours computes no proposals, and its head answers for the sampled anchors alone.
- Fast R-CNN training step: the same with given proposals.
- Inference of one image: torchvision's joint network; ours as the pair with two trunks, and, for equal work, as a
  pair that shares one.
- Throughput of these: images a second, and the operations that each side needs, and their share of what a dense
  convolution reaches on the device; on a GPU, memory too.
- On a CPU in low precision: ours beside torchvision's fp32, which is what it offers there, and torchvision's under
  autocast in a row of its own; no parts.
- The parts. "Proposals" is `filter_proposals` there, without the decoding of all anchors that comes before it; ours
  includes decoding.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import functools
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.detection.rpn import concat_box_prediction_layers

from backbones.common.errors import UserError
from backbones.grouped.choice import library_only
from benchmarks.common import (
    COMPARISON_COLUMNS,
    OURS,
    PEER,
    RESULTS,
    ROOT,
    Timing,
    comparison_rows,
    environment,
    interleaved,
    matched_share,
    seconds,
    table,
    write_comparison,
)
from benchmarks.roofline import exact_convolutions, operations, peak, peak_memory
from benchmarks.scene import Scene, make_scene
from benchmarks.torchvision_peer import PeerDetector, as_lists
from detection.command_line import run
from detection.config_file import load_config
from detection.experiment.precision_trial import measure_inference
from detection.geometry.roi_pooling import RoIPooling
from detection.networks.box_heads import C4BoxHead
from detection.networks.fast_rcnn import FastRCNN
from detection.networks.network_input import prepare
from detection.training.distributed import process_group
from detection.training.low_precision import convert
from detection.training.precision import Precision
from detection.training.precision_trial import measure_step
from detection.training.recipe import optimizer_for

Functions = Mapping[str, Callable[[], object]]

SHARED = "one trunk"
_PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
_STILL = 1e-12  # a learning rate that leaves float32 weights as they are
_LEAST_MATCHED = 0.98  # rounding may turn a suppression of two boxes that overlap by just the threshold


def main() -> int:
    options = _arguments().parse_args()
    size, regions, proposals, repeats = options.size, options.regions, options.proposals, options.repeats
    if options.quick:
        size, regions, proposals, repeats = [160, 224], 16, 50, 2
    changes = [
        f"runtime.device={options.device}",
        f"fast_rcnn.samples={regions}",
        "rpn.training_proposals.before_nms=12000",
        "rpn.training_proposals.after_nms=2000",
        "rpn.test_proposals.before_nms=6000",
        f"rpn.test_proposals.after_nms={proposals}",
        *options.set,
    ]
    config = load_config(ROOT / "configs" / options.preset / f"{options.backbone}.yaml", changes)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    with process_group(config.runtime.device) as device:
        scene = make_scene(config, (size[0], size[1]), device)
        with exact_convolutions():
            agreement = agreements(scene)
        print("\n".join(f"{what}: {share:.4f} of them alike" for what, share in agreement.items()), flush=True)
        if min(agreement.values()) < _LEAST_MATCHED:
            raise UserError("the two do not compute the same, so their times mean nothing")
        choices: dict[str, Precision] = {}
        dtype = _PRECISIONS.get(options.precision, torch.float32)
        if device.type == "cpu" and options.precision != "fp32":
            whole, choices = on_cpu_in_low_precision(scene, options.precision)
            every = whole
        else:
            whole = in_precision(steps(scene), dtype, device)
            every = whole if options.no_parts else whole | in_precision(parts(scene), dtype, device)
        measured: dict[str, dict[str, Timing]] = {}
        for what, functions in every.items():
            measured[what] = interleaved(functions, repeats, least_seconds=2.0, device=device)
            print(*next(comparison_rows({what: measured[what]})), sep="  ", flush=True)
        throughput = throughput_of(whole, measured, dtype, device)
        about = environment("detector", device)
    title = (
        f"{options.backbone}, {options.preset} preset, 1 × 3 × {size[0]} × {size[1]}, {regions} regions in training, "
        f"{proposals} proposals at test, {', '.join([device.type, options.precision, *options.set])}"
    )
    comparison = table(title, COMPARISON_COLUMNS, list(comparison_rows(measured)))
    output = options.output or (None if options.quick else RESULTS / _file_name(options))
    more = {"alike": agreement, "precision": {what: str(chosen) for what, chosen in choices.items()}}
    tables = [comparison, throughput]
    if choices:
        rows = [[what, chosen.name, chosen.why] for what, chosen in choices.items()]
        tables.append(table("Precision of ours", ["", "precision", "why"], rows))
    if config.runtime.compile:
        tables.append(_compiling({what: measured[what] for what in whole if "training" in what}))
    write_comparison(output, "The detector beside torchvision's", about, tables, measured, more)
    return 0


def on_cpu_in_low_precision(scene: Scene, asked: str) -> tuple[dict[str, Functions], dict[str, Precision]]:
    """The steps of `steps`, ours in bf16 or, with "auto", in what is chosen by measurement, and the choices."""
    device, networks = torch.device("cpu"), {"RPN": scene.rpn, "Fast R-CNN": scene.fast_rcnn}
    inference, _ = measure_inference(scene.detector, scene.batch)
    chosen = {f"{name} training step": measure_step(one, scene.batch, device)[0] for name, one in networks.items()}
    chosen["inference"] = inference
    if asked == "bf16":
        chosen = {what: Precision("bf16", "asked for") for what in chosen}
    if chosen["inference"].name == "bf16":
        low = copy.deepcopy(scene.detector), copy.deepcopy(scene.shared)
        for one in low:
            convert(one, torch.bfloat16)
        scene = dataclasses.replace(scene, detector=low[0], shared=low[1])
    autocast = torch.autocast("cpu", torch.bfloat16)
    found: dict[str, Functions] = {}
    for what, functions in steps(scene).items():
        name = next(one for one in chosen if what.startswith(one))
        own = {
            who: autocast(function) if chosen[name].name == "bf16" and "training" in what and who == OURS else function
            for who, function in functions.items()
        }
        found[what] = {**own, f"{PEER} under autocast": autocast(functions[PEER])}
    return found, chosen


def throughput_of(
    work: Mapping[str, Functions],
    measured: Mapping[str, Mapping[str, Timing]],
    dtype: torch.dtype,
    device: torch.device,
) -> dict[str, Any]:
    """The table of images a second, operations, their share of the device's peak and, on a GPU, memory."""
    most = peak(device, dtype)
    rows = []
    for what, functions in work.items():
        for who, function in functions.items():
            median = measured[what][who].median
            with library_only():  # another implementation may take more, and Triton's are not counted
                needed = operations(function)
            row = [f"{what}: {who}", f"{1 / median:.2f}", f"{needed / 1e9:.4g} G", f"{needed / median / most:.0%}"]
            memory = peak_memory(function, device)
            rows.append(row if memory is None else [*row, f"{memory:.0f} MiB"])
    columns = ["", "images/s", "operations an image", "share of peak", "memory it takes"][: len(rows[0])]
    precision = str(dtype).removeprefix("torch.")
    title = f"Throughput; the peak is that of a dense 3×3 convolution in {precision}, {most / 1e9:,.0f} G operations/s"
    return table(title, columns, rows)


def _compiling(measured: Mapping[str, Mapping[str, Timing]]) -> dict[str, Any]:
    """The table of what the first step costs, in which torch.compile compiles."""
    rows = [[what, seconds(timing[OURS].first or 0), seconds(timing[OURS].median)] for what, timing in measured.items()]
    return table("torch.compile: ours, in training", ["", "the first time", "from then on"], rows)


def agreements(scene: Scene) -> dict[str, float]:
    """How much of what either side finds the other finds too: proposals, and detections, to 0.01 pixels and 1e-4 of
    score.

    The proposals are those of one prediction; the detections are those of the whole networks, each with its own trunk.
    """
    found = {}
    ours, theirs = _proposing(scene, 12_000, 2_000)
    with torch.inference_mode():
        first, second = ours(), theirs()
        found["proposals"] = matched_share(
            (first.boxes[0, : first.counts[0]], first.scores[0, : first.counts[0]]),
            (second[0][0], second[1][0]),
            (1e-3, 1e-5),
        )
        arguments = (scene.batch.images, scene.batch.sizes, scene.batch.original_sizes)
        (expected,) = PeerDetector(scene.peer)(*arguments)
        for who, network in (("detections", scene.detector), ("detections with one trunk", scene.shared)):
            (detections,) = network(*arguments)
            found[who] = matched_share(detections, expected, (1e-2, 1e-4, 0))
    return found


def steps(scene: Scene, *, scaled: bool = False) -> dict[str, Functions]:
    """A training step of either network, and inference.

    scaled: both sides scale their losses, as training in float16 does.
    """
    batch, peer, config = scene.batch, scene.peer, scene.config
    floats, targets = as_lists(batch)
    arguments = (batch.images, batch.sizes, batch.original_sizes)
    proposals = batch.proposals
    assert proposals is not None

    def theirs_rpn() -> Tensor:
        images, scaled = peer.transform(floats, targets)
        return _total(peer.rpn(images, peer.backbone(images.tensors), scaled)[1])

    def theirs_fast_rcnn() -> Tensor:
        images, scaled = peer.transform(floats, targets)
        features = peer.backbone(images.tensors)
        return _total(peer.roi_heads(features, list(proposals), images.image_sizes, scaled)[1])

    def stepping(
        network: nn.Module, loss: Callable[[], Tensor], optimizer: torch.optim.Optimizer
    ) -> Callable[[], None]:
        scaler = torch.amp.GradScaler(batch.images.device.type, enabled=scaled)

        def step() -> None:
            network.train()
            scaler.scale(loss()).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad(set_to_none=True)
            network.eval()

        return step

    def ours(network: nn.Module, training: Any) -> Callable[[], None]:
        optimizer = optimizer_for(network, dataclasses.replace(training, learning_rate=_STILL))
        return stepping(network, lambda: _total(network(batch)), optimizer)

    def theirs(loss: Callable[[], Tensor], *modules: nn.Module) -> Callable[[], None]:
        parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
        return stepping(peer, loss, torch.optim.SGD(parameters, _STILL, 0.9, weight_decay=1e-4))

    @torch.inference_mode()
    def infer(network: nn.Module) -> object:
        return network(*arguments)

    return {
        "RPN training step": {
            OURS: ours(scene.rpn, config.rpn.training),
            PEER: theirs(theirs_rpn, peer.backbone, peer.rpn),
        },
        f"Fast R-CNN training step, {config.fast_rcnn.samples} regions": {
            OURS: ours(scene.fast_rcnn, config.fast_rcnn.training),
            PEER: theirs(theirs_fast_rcnn, peer.backbone, peer.roi_heads),
        },
        f"inference, {config.rpn.test_proposals.after_nms} proposals": {
            OURS: functools.partial(infer, scene.detector),
            SHARED: functools.partial(infer, scene.shared),
            PEER: functools.partial(infer, PeerDetector(peer)),
        },
    }


def parts(scene: Scene) -> dict[str, Functions]:
    """What the steps are made of, on the same inputs in each side's own memory order. Ours are as at inference where
    nothing is learnt: BN folded."""
    ours, folded, theirs, batch, config = scene.fast_rcnn, scene.detector, scene.peer, scene.batch, scene.config
    image = prepare(batch.images, batch.sizes, ours.trunk.input_format)
    plain_image = image.contiguous()
    with torch.no_grad():
        rpn_maps = [_leaf(features) for features in scene.rpn.backbone(image).values()]
    plain_rpn_maps = [_leaf(features.contiguous()) for features in rpn_maps]
    levels = len(ours.trunk.channels)
    maps, plain_maps = rpn_maps[:levels], plain_rpn_maps[:levels]
    kernels, box_head = ours.kernels, ours.box_head
    pooling: RoIPooling = box_head.pooling  # type: ignore[attr-defined]
    head_name = "conv5" if isinstance(box_head, C4BoxHead) else "box head"
    learning = box_head.conv5 if isinstance(box_head, C4BoxHead) else box_head
    assert isinstance(learning, nn.Module)
    image_sizes = [tuple(size) for size in batch.sizes.tolist()]

    def pool(regions: Tensor) -> Tensor:
        return kernels.pool_regions(pooling, maps, regions)

    def plain_pool(regions: Tensor) -> Tensor:
        named = dict(zip(theirs.roi_heads.box_roi_pool.featmap_names, plain_maps, strict=True))
        pooled: Tensor = theirs.roi_heads.box_roi_pool(named, list(regions), image_sizes)
        return pooled

    def head(network: FastRCNN, regions: Tensor) -> Tensor:
        vectors: Tensor = network.box_head(maps, regions)
        return vectors

    def plain_head(regions: Tensor) -> Tensor:
        vectors: Tensor = theirs.roi_heads.box_head(plain_pool(regions))
        return vectors

    assert batch.proposals is not None
    few = batch.proposals[:, : config.fast_rcnn.samples]
    many = batch.proposals[:, : config.rpn.test_proposals.after_nms]
    found = {
        "trunk forward": _forward(lambda: folded.fast_rcnn.trunk(image), lambda: theirs.backbone(plain_image)),
        "trunk forward + backward": {
            OURS: _backward(lambda: list(ours.trunk(image).values()), ours.trunk),
            PEER: _backward(lambda: list(theirs.backbone(plain_image).values())[:levels], theirs.backbone),
        },
        "RPN head": _forward(
            lambda: folded.rpn.head(rpn_maps),
            lambda: concat_box_prediction_layers(*theirs.rpn.head(plain_rpn_maps)),
        ),
        f"RPN head for {config.rpn.samples} anchors, forward + backward": _asking_some_anchors(
            scene, rpn_maps, plain_rpn_maps
        ),
        f"RoI pooling, {many.shape[1]} regions": _forward(lambda: pool(many), lambda: plain_pool(many)),
        f"RoI pooling, {few.shape[1]} regions, forward + backward": {
            OURS: _backward(lambda: pool(few), *maps),
            PEER: _backward(lambda: plain_pool(few), *plain_maps),
        },
        f"RoI pooling and {head_name}, {many.shape[1]} regions": _forward(
            lambda: head(folded.fast_rcnn, many), lambda: plain_head(many)
        ),
        f"RoI pooling and {head_name}, {few.shape[1]} regions, forward + backward": {
            OURS: _backward(lambda: head(ours, few), *maps, learning),
            PEER: _backward(lambda: plain_head(few), *plain_maps, theirs.roi_heads.box_head),
        },
    }
    for before, after in ((12_000, 2_000), (6_000, 300)):
        found[f"proposals, {before:,} → {after:,}"] = _forward(*_proposing(scene, before, after))
        found[f"NMS, {before:,} → {after:,}"] = _forward(*_suppressing(scene, before, after))
    return found


def in_precision(work: Mapping[str, Functions], dtype: torch.dtype, device: torch.device) -> dict[str, Functions]:
    """The same work under autocast, where low precision is asked for."""
    autocast = torch.autocast(device.type, dtype, enabled=dtype != torch.float32)
    return {what: {who: autocast(function) for who, function in functions.items()} for what, functions in work.items()}


def _total(losses: Mapping[str, Tensor]) -> Tensor:
    return torch.stack([loss.sum() for loss in losses.values()]).sum()


def _proposing(scene: Scene, before: int, after: int) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Proposals from one prediction of our RPN, by ours (from the decoding on) and by torchvision's (after it)."""
    batch, limits = scene.batch, scene.config.rpn.test_proposals
    with torch.no_grad():
        prediction = scene.rpn.predict(batch.images, batch.sizes)
    ours = copy.copy(scene.rpn)
    setattr(ours, "predict", lambda images, sizes: prediction)  # noqa: B010 - a network that has looked already
    boxes = scene.rpn.coder.decode(prediction.targets, prediction.anchors)
    theirs = copy.copy(scene.peer.rpn)
    theirs._pre_nms_top_n = {"testing": before}
    theirs._post_nms_top_n = {"testing": after}
    min_sides = limits.min_side * batch.sizes / batch.original_sizes
    sizes = [tuple(size) for size in batch.sizes.tolist()]
    anchors = [scene.rpn.anchors.per_position * features.shape[2:].numel() for features in prediction.maps]
    return (
        lambda: ours.propose(
            batch.images, batch.sizes, before_nms=before, after_nms=after, nms_iou=limits.nms_iou, min_sides=min_sides
        ),
        lambda: theirs.filter_proposals(boxes, prediction.logits, sizes, anchors),
    )


def _asking_some_anchors(scene: Scene, maps: list[Tensor], plain_maps: list[Tensor]) -> Functions:
    """Forward and backward of what a training step asks of the RPN's head: logits and targets of a few anchors. Ours
    computes those alone, torchvision's computes all and picks them."""
    ours, theirs = scene.rpn.head, scene.peer.rpn.head
    anchors = sum(features.shape[2:].numel() for features in maps) * scene.rpn.anchors.per_position
    index = torch.randperm(anchors, generator=torch.Generator().manual_seed(0))[: scene.config.rpn.samples]
    index = index.to(maps[0].device)[None]

    def asked() -> Tensor:
        logits, targets = ours.at(maps, index)
        return torch.cat([logits[..., None], targets], dim=2)

    def picked() -> Tensor:
        logits, targets = concat_box_prediction_layers(*theirs(plain_maps))
        return torch.cat([logits, targets], dim=1)[index]

    return {OURS: _backward(asked, *maps, ours), PEER: _backward(picked, *plain_maps, theirs)}


def _suppressing(scene: Scene, before: int, after: int) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """NMS of our RPN's best boxes."""
    batch, threshold = scene.batch, scene.config.rpn.test_proposals.nms_iou
    candidates = scene.rpn.propose(batch.images, batch.sizes, before_nms=before, after_nms=before, nms_iou=1.0)
    valid = torch.ones_like(candidates.scores, dtype=torch.bool)
    return (
        lambda: scene.rpn.kernels.suppress(candidates.boxes, valid, threshold, after),
        lambda: torchvision.ops.nms(candidates.boxes[0], candidates.scores[0], threshold)[:after],
    )


def _forward(ours: Callable[[], object], theirs: Callable[[], object]) -> Functions:
    return {OURS: torch.inference_mode()(ours), PEER: torch.inference_mode()(theirs)}


def _backward(function: Callable[[], Tensor | list[Tensor]], *inputs: Tensor | nn.Module) -> Callable[[], object]:
    """Forward and backward, to tensors and to networks' parameters."""
    leaves: list[Tensor] = []
    for one in inputs:
        leaves += [one] if isinstance(one, Tensor) else [p for p in one.parameters() if p.requires_grad]

    def call() -> object:
        result = function()
        results = [result] if isinstance(result, Tensor) else result
        return torch.autograd.grad(results, leaves, [torch.ones_like(one) for one in results], allow_unused=True)

    return call


def _leaf(tensor: Tensor) -> Tensor:
    """The same numbers as an input that gets a gradient."""
    return tensor.detach().requires_grad_()


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=["paper", "modern", "pyramid"], default="paper", help="default: paper")
    parser.add_argument("--backbone", default="resnext50_32x4d", help="a file of configs/<preset>/, without its ending")
    parser.add_argument("--size", type=int, nargs=2, default=[608, 800], metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--regions", type=int, default=64, help="in training, an image (default: 64)")
    parser.add_argument("--proposals", type=int, default=300, help="at test (default: 300)")
    parser.add_argument("--repeats", type=int, default=5, help="rounds (default: 5); short parts get more")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="default: cpu")
    parser.add_argument(
        "--precision",
        choices=[*_PRECISIONS, "auto"],
        default="fp32",
        help="bf16: on a GPU both sides under autocast, after they were found to agree in fp32; on a CPU ours, beside "
        "torchvision's fp32. auto: ours in what is chosen by measurement (default: fp32)",
    )
    parser.add_argument("--no-parts", action="store_true", help="only the steps and inference, not their parts")
    parser.add_argument("--threads", type=int, help="of PyTorch (default: as many as it takes by itself)")
    parser.add_argument("--set", nargs="+", default=[], metavar="key.sub=value", help="changes to the configuration")
    parser.add_argument(
        "--quick", action="store_true", help="a small image and two rounds, to see that it runs; no file"
    )
    parser.add_argument(
        "--output",
        type=Path,
        help="benchmarks/results/detector_<preset>.json by default; what is not the default is in its name",
    )
    return parser


def _file_name(options: argparse.Namespace) -> str:
    parts = [options.preset]
    for value, default in ((options.backbone, "resnext50_32x4d"), (options.device, "cpu"), (options.precision, "fp32")):
        if value != default:
            parts.append(value)
    if options.threads is not None:
        parts.append(f"{options.threads}_threads")
    parts += [re.sub(r"\W+", "-", change.rpartition(".")[2]) for change in options.set]
    return f"detector_{'_'.join(parts)}.json"


if __name__ == "__main__":
    sys.exit(run(main))
