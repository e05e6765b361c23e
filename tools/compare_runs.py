"""Compares evaluated runs on the same test set: AP by class and size with confidence intervals, configurations."""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # run as a file of a checkout, without installation
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from backbones.common.errors import UserError
from backbones.common.text import printable
from detection.command_line import parser, run, whole_number

EPILOG = """examples:
  python tools/compare_runs.py runs/demo runs/demo_longer
  python tools/compare_runs.py runs/a runs/b runs/c --output comparison.html --draws 1000

Each run is a folder with evaluation/, as tools/eval_coco.py writes it, or such an evaluation folder itself. The first
run is what the others are compared with. The confidence intervals are computed by a bootstrap over the test images: if
the interval of a difference does not contain 0, the choice of the test images does not explain the difference. The
intervals do not cover what changes with another seed of the training."""


def main(arguments: list[str] | None = None) -> int:
    options_parser = parser(__doc__ or "", EPILOG)
    options_parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders of runs, two or more")
    options_parser.add_argument(
        "--annotations", type=Path, metavar="FILE",
        help="the test images' annotations in COCO's format (default: what the evaluations recorded)",
    )  # fmt: skip
    options_parser.add_argument(
        "--output", type=Path, default=Path("comparison.html"), metavar="FILE",
        help="the page (default: comparison.html)",
    )  # fmt: skip
    options_parser.add_argument(
        "--draws", type=whole_number(20, 10_000), default=200, metavar="N", help="draws of the bootstrap (default: 200)"
    )
    options = options_parser.parse_args(arguments)
    if len(options.runs) < 2:
        raise UserError("one run cannot be compared: name two or more")

    from detection.experiment.comparison import compare_runs
    from detection.report.comparison_page import write_comparison

    result = compare_runs(options.runs, annotations=options.annotations, draws=options.draws)
    write_comparison(
        options.output,
        names=result.names,
        facts=[f"test set: {result.annotations}, {result.images} images; {result.draws} draws"],
        verdicts=result.verdicts(),
        sizes=[row.cells() for row in result.sizes],
        classes=[row.cells() for row in result.classes],
        settings=result.settings,
        curves=result.curves,
    )
    print(printable(result.table(), keep_lines=True))
    print(f"\nwritten: {printable(str(options.output))}")
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
