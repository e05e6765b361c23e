"""python -m backbones: lists the networks with their parameters and multiply-adds, and their public weights.

    python -m backbones                              every variant: parameters, multiply-adds, and the paper's figures
    python -m backbones resnext50_32x4d --stages     one of them, stage by stage
    python -m backbones compare 1x64d 2x 8x 32x4d    blocks of equal cost (Table 2); a width left out is solved for
    python -m backbones weights resnext101_32x4d     the public weights of a network, or of all, with their licences
    python -m backbones pack FILE NETWORK OUTPUT     any file of weights as a small safetensors file

Sizes are (H, W) in pixels; multiply-adds are for one image.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .common.errors import UserError
from .paper_figures import PAPER_FIGURES, PaperFigures
from .variants import DEPTHS, VARIANTS, Variant, canonical_name, find_variant

if TYPE_CHECKING:
    from .complexity import Complexity

MOST_PIXELS, MOST_CLASSES = 32_768, 10_000_000  # a side, and classes, that no network comes near
EPILOG = """\
The columns beside ours, under "paper", are what Xie et al. (CVPR 2017) print. Multiply-adds are for one image; the
paper calls them FLOPs. "weights" are the parameters without those of normalisation, as the paper counts them.
The other commands, `python -m backbones compare`, `weights` and `pack`, have a help of their own."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns its exit status."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        if arguments[:1] == ["compare"]:
            _compare(arguments[1:])
        elif arguments[:1] == ["weights"]:
            _weights(arguments[1:])
        elif arguments[:1] == ["pack"]:
            _pack(arguments[1:])
        else:
            _list(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # `| head` reads no more; nothing may be written when Python ends, either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _list(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m backbones",
        description="Lists the networks with their parameters and multiply-adds.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help="a row of the table, or any name by its pattern (resnext101_16x8d); without names, the whole table",
    )
    parser.add_argument(
        "--size",
        type=_size,
        help="size of the image: 224, or HEIGHTxWIDTH as in 608x800 (default: 224; CIFAR networks 32)",
    )
    parser.add_argument("--classes", type=_count, help="classes of the classifier (default: 1000, CIFAR networks 10)")
    parser.add_argument("--stages", action="store_true", help="stage by stage, with the size of each map")
    options = parser.parse_args(arguments)

    rows = []
    for name in options.names or VARIANTS:
        variant = find_variant(name, {})
        complexity = _measure(variant, options.size, options.classes)
        paper = PAPER_FIGURES.get(canonical_name(name, variant))
        # The paper's figures are shown only if they are for the same number of classes and the same image size.
        parameters = paper.parameters if paper and options.classes is None else None
        multiply_adds = paper.multiply_adds if paper and options.size in (None, (224, 224)) else None
        rows.append(
            [
                name,
                f"{complexity.parameters:,}",
                f"{complexity.weights / 1e6:.2f}",
                _optional(parameters),
                f"{complexity.multiply_adds / 1e9:.2f}",
                _optional(multiply_adds),
                _errors(paper),
                paper.tables if paper else "",
            ]
        )
        if options.stages:
            rows += _stage_rows(variant, complexity)
    header = ["network", "parameters", "weights M", "paper", "mult-adds G", "paper", "paper's error %", "table"]
    print(_table(header, rows))


def _stage_rows(variant: Variant, complexity: Complexity) -> list[list[str]]:
    blocks = {
        level: f"{depth} × [{width}, {width} C={variant.cardinality}, {variant.channels[level]}]"
        for level, depth, width in zip(variant.levels, variant.depths, variant.group_widths, strict=True)
    }
    return [
        [
            f"  {part.name}" + (f" {part.output_size[0]}×{part.output_size[1]}" if part.output_size else ""),
            f"{part.parameters:,}",
            f"{(part.parameters - part.norm_parameters) / 1e6:.2f}",
            "",
            f"{part.multiply_adds / 1e9:.3f}",
            "",
            blocks.get(part.name, ""),
            "",
        ]
        for part in complexity.parts
    ]


def _compare(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m backbones compare",
        description="Compares blocks of different cardinality at preserved complexity, as Table 2 of the paper does.",
        epilog="Example: python -m backbones compare 1x64d 2x 4x 8x 32x gives Table 2.",
    )
    parser.add_argument(
        "blocks",
        nargs="+",
        metavar="CxDd",
        help="cardinality and width, 32x4d; or cardinality alone, 32x, for the width that keeps the first block's cost",
    )
    parser.add_argument(
        "--depth",
        type=int,
        default=50,
        choices=(29, *DEPTHS),
        help="depth of the networks made of the blocks (default: 50)",
    )
    parser.add_argument("--size", type=_size, help="size of the image: 224, or HEIGHTxWIDTH (default: 224)")
    options = parser.parse_args(arguments)
    from .complexity import bottleneck_parameters, solve_width  # torch: after the help

    reference: int | None = None
    rows = []
    for text in options.blocks:
        match = re.fullmatch(r"([1-9]\d*)x(?:([1-9]\d*)d)?", text)
        if match is None:
            raise UserError(f"{text!r} is no block; write cardinality and width as 32x4d, or cardinality alone as 32x")
        cardinality = int(match[1])
        if match[2]:
            width = int(match[2])
        elif reference is None:
            raise UserError(f"{text!r}: the first block needs a width, as in 1x64d; the others are compared with it")
        else:
            width = solve_width(cardinality, reference)
        cost = bottleneck_parameters(cardinality, width)
        reference = reference or cost
        name = f"resnext{options.depth}_{cardinality}x{width}d"
        variant = find_variant(name, {})
        name = canonical_name(name, variant)  # resnext50_1x64d is resnet50
        complexity = _measure(variant, options.size, None)
        rows.append(
            [
                str(cardinality),
                f"{width}" + ("" if match[2] else " (solved)"),
                str(cardinality * width),
                f"{cost:,}",
                f"{cost / reference:.3f}",
                name,
                f"{complexity.weights / 1e6:.2f}",
                f"{complexity.multiply_adds / 1e9:.2f}",
                _errors(PAPER_FIGURES.get(name)),
            ]
        )
    header = ["C", "d", "group width", "block weights", "of the first"]
    header += ["network", "weights M", "mult-adds G", "paper's error %"]
    print(_table(header, rows))


def _weights(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m backbones weights",
        description="Lists public weights: what to write in create_backbone(name, weights=…) or backbone.weights.",
        epilog="A network's first row is its default. Nothing is downloaded. top-1 is in per cent on ImageNet-1K, as "
        "the source states it for a single crop of that many pixels. BN fused into scale and bias stays frozen.",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="a network, as resnext101_32x4d; all if none is named")
    options = parser.parse_args(arguments)
    from .weights.sources import SOURCES, sources_for  # torch: after the help

    rows = []
    for name in options.names or dict.fromkeys(source.variant for source in SOURCES):
        found = sources_for(canonical_name(name, find_variant(name, {})))
        if not found:
            known = ", ".join(dict.fromkeys(source.variant for source in SOURCES))
            raise UserError(f"no public weights are known for {name}; there are some for {known}")
        rows += [
            [
                source.variant,
                source.name,
                _optional(source.top1),
                str(source.image_size),
                "fused" if source.fused_norm else "",
                source.licence + (", NON-COMMERCIAL" if source.non_commercial else ""),
                {0: "none published", 64: "whole"}.get(len(source.sha256 or ""), "first digits"),
                source.url or "ships with the project",
            ]
            for source in found
        ]
    print(_table(["network", "weights", "top-1 %", "px", "BN", "licence", "SHA-256", "from"], rows))


def _pack(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m backbones pack",
        description="Writes the weights of a network as a safetensors file: convolutions and the classifier in half "
        "precision, normalisation in single precision, by torchvision's names.",
        epilog="The weights that ship with the project, backbones/weights/builtin/, were written by this command.",
    )
    parser.add_argument("weights", metavar="FILE", help="a classifier.pt, or weights by name, URL or file")
    parser.add_argument("network", metavar="NETWORK", help="the network that they are for, as resnext50_32x4d")
    parser.add_argument("output", metavar="OUTPUT", help="the file to write: NAME.safetensors")
    options = parser.parse_args(arguments)
    from .weights.packing import pack  # torch: after the help

    size = pack(options.weights, options.network, options.output)
    print(f"written: {options.output}, {size / 1e6:.1f} MB")


def _measure(variant: Variant, size: tuple[int, int] | None, classes: int | None) -> Complexity:
    from .complexity import measure_variant  # torch: after the help

    cifar = variant.stem == "cifar"
    return measure_variant(variant, size or ((32, 32) if cifar else (224, 224)), classes or (10 if cifar else 1000))


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"([1-9]\d*)(?:x([1-9]\d*))?", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write 224, or HEIGHTxWIDTH as in 608x800")
    return _bounded(match[1], MOST_PIXELS), _bounded(match[2] or match[1], MOST_PIXELS)


def _count(text: str) -> int:
    if not re.fullmatch(r"[1-9]\d*", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of classes; write a whole number above 0")
    return _bounded(text, MOST_CLASSES)


def _bounded(digits: str, most: int) -> int:
    if len(digits) > len(str(most)) or int(digits) > most:
        raise argparse.ArgumentTypeError(f"{digits[:30]} is more than {most}")
    return int(digits)


def _errors(paper: PaperFigures | None) -> str:
    return "" if paper is None else ", ".join(f"{what} {value}" for what, value in paper.errors.items())


def _optional(value: float | None) -> str:
    return "" if value is None else f"{value}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns aligned: numbers to the right, words to the left."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    numeric = [all(re.match(r"[\d.,]*( \(solved\))?$", row[column]) for row in rows) for column in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        aligned = (
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(cells, widths, numeric, strict=True)
        )
        return "  ".join(aligned).rstrip()

    return "\n".join([line(header), line(["-" * width for width in widths]), *(line(row) for row in rows)])


if __name__ == "__main__":
    sys.exit(main())
