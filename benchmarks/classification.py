"""Test error against training time on CIFAR, for one cardinality or several at equal complexity.

    python -m benchmarks.classification --data DIR
    python -m benchmarks.classification --data DIR --config configs/cifar/cifar10_8x64d.yaml --cardinality 1 2 4 8 16

The first trains the default classifier, small enough for two CPU cores. The second is the question of the paper's
Figure 7 and Table 3, for a GPU: does cardinality win at equal cost? For each cardinality the width of a path is solved
for, so that a block keeps the number of weights that it has in the configuration's network (Eq. 4).

Every network is trained by `detection.classifier.stage`, as the tool does it, in a folder of its own under --runs; what
was interrupted is resumed, what is finished is not trained again, so that the table can be made anew at any time.
Training time is that of the steps alone, without the measurements of the test error in between.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from backbones.common.errors import UserError
from backbones.complexity import bottleneck_parameters, measure_variant, solve_width
from backbones.variants import Variant, find_variant
from benchmarks.common import RESULTS, ROOT, environment, markdown, table, write_result
from detection.classifier.config import ClassifierConfig
from detection.classifier.stage import run_folder, train_classifier
from detection.command_line import run
from detection.config_file import load_config_of
from detection.report.charts import Panel, write_chart
from detection.training.distributed import process_group

PLOTS = ROOT / "benchmarks" / "plots"


class Point(NamedTuple):
    """The test error after so much training."""

    step: int
    seconds: float
    top1_error: float


class Network(NamedTuple):
    """One of the networks that are compared: its configuration and what it is made of."""

    config: ClassifierConfig
    variant: Variant

    @property
    def name(self) -> str:
        return f"{self.variant.cardinality}×{self.variant.base_width}d"


def main() -> int:
    options = _arguments().parse_args()
    networks = list(chosen_networks(options))
    for network in networks:
        with process_group(network.config.runtime.device) as device:
            outcome = train_classifier(network.config, device, resume=True)
            about = environment("classification", device)
        if not outcome.finished:
            return outcome.exit_status
    curves = [points(run_folder(network.config) / "classifier" / "log.jsonl", network) for network in networks]
    first = networks[0].config
    title = f"{first.name}: test error on CIFAR"
    content = _comparison(networks, curves) if len(networks) > 1 else _progress(title, networks[0], curves[0])
    output = options.output or RESULTS / f"classification_{first.name}.json"
    plot = options.plots / f"{output.stem}.svg"
    named = {network.name: curve for network, curve in zip(networks, curves, strict=True)}
    shown = {name: [(point.seconds, 100 * point.top1_error) for point in curve] for name, curve in named.items()}
    panel = Panel("test error, %", shown)
    write_chart(plot, title, "seconds of training", [panel], logarithmic=False)
    numbers = {name: [point._asdict() for point in curve] for name, curve in named.items()}
    result = {"title": title, "environment": about, "tables": [{**content, "plot": plot.name}], "points": numbers}
    write_result(output, result)
    print(f"\n{markdown(content)}\n\n{output}")
    return 0


def chosen_networks(options: argparse.Namespace) -> Iterator[Network]:
    """The configuration's network, or one for each cardinality asked for, of equal complexity."""
    changes = [f"data.root={options.data}", *options.set]
    config = load_config_of(ClassifierConfig, options.config, changes)
    variant = find_variant(config.network.name, config.network.structure())
    for cardinality in options.cardinality or [None]:
        name, own = config.name, []
        if cardinality is not None:
            width = equal_width(variant, cardinality)
            name = f"{config.name}_{cardinality}x{width}d"
            own = [f"name={name}", f"network.cardinality={cardinality}", f"network.base_width={width}"]
        one = load_config_of(ClassifierConfig, options.config, [*changes, *own, f"output={options.runs / name}"])
        yield Network(one, find_variant(one.network.name, one.network.structure()))


def equal_width(variant: Variant, cardinality: int) -> int:
    """The width of a path at another cardinality that keeps the weights of the first stage's blocks.

    `base_width` is stated for planes of 64 whatever the network's: a path is narrower in proportion.
    """
    channels = 4 * variant.planes
    own_width = variant.base_width * variant.planes // 64
    if cardinality == variant.cardinality:
        return variant.base_width
    width = solve_width(cardinality, bottleneck_parameters(variant.cardinality, own_width, channels), channels)
    return width * 64 // variant.planes


def points(log: Path, network: Network) -> list[Point]:
    """The measurements in a training's log, with the time of the steps before each.

    Raises:
        UserError: the log has none.
    """
    found: list[Point] = []
    seconds, done = 0.0, 0
    for line in log.read_text(encoding="utf-8").splitlines():
        entry: dict[str, Any] = json.loads(line)
        if entry["kind"] == "train":
            images = (entry["step"] - done) * network.config.training.global_batch
            seconds += images / entry["images_per_second"]
            done = entry["step"]
        elif entry["kind"] == "evaluation":
            found.append(Point(entry["step"], seconds, entry["top1_error"]))
    if not found:
        raise UserError(f"{log}: the test error was never measured: set training.evaluate_every")
    return found


def _progress(title: str, network: Network, curve: Sequence[Point]) -> dict[str, Any]:
    """The rows of one training."""
    rows = [[f"{point.step:,}", f"{point.seconds:.0f} s", f"{100 * point.top1_error:.1f} %"] for point in curve]
    return table(f"{title}, {_size(network)}", ["steps", "training", "test error"], rows)


def _comparison(networks: Sequence[Network], curves: Sequence[Sequence[Point]]) -> dict[str, Any]:
    """A row for each cardinality."""
    rows = [
        [network.name, _size(network), f"{curve[-1].seconds:.0f} s", f"{100 * curve[-1].top1_error:.2f} %"]
        for network, curve in zip(networks, curves, strict=True)
    ]
    title = f"{networks[0].config.name}: cardinality at equal complexity"
    return table(title, ["C×d", "size", "training", "test error at the end"], rows)


def _size(network: Network) -> str:
    side = network.config.data.test_size
    complexity = measure_variant(network.variant, (side, side), 10)
    return f"{complexity.parameters / 1e6:.2f} M parameters, {complexity.multiply_adds / 1e9:.3f} G multiply-adds"


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="CIFAR-10's folder")
    parser.add_argument("--config", type=Path, default=ROOT / "configs/cifar/small.yaml")
    parser.add_argument("--cardinality", type=int, nargs="+", help="by default the configuration's own, alone")
    parser.add_argument("--set", nargs="+", default=[], metavar="key.sub=value", help="changes to the configuration")
    parser.add_argument("--runs", type=Path, default=Path("runs/classification"), metavar="DIR")
    parser.add_argument("--plots", type=Path, default=PLOTS, metavar="DIR")
    parser.add_argument("--output", type=Path, help="benchmarks/results/classification_<name>.json by default")
    return parser


if __name__ == "__main__":
    sys.exit(run(main))
