"""Trains a detector in one command: check of the data, RPN, proposals, Fast R-CNN, evaluation, report."""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # run as a file of a checkout, without installation
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from backbones.common.errors import UserError
from backbones.common.progress import is_first_rank
from detection.command_line import DEMO, add_fitting_arguments, overrides, parser, run

EPILOG = """examples:
  python tools/train.py --data images_and_labels
      writes a configuration that fits them, runs/images_and_labels/images_and_labels.yaml, and trains with it
  python tools/train.py --data images_and_labels --minutes 30
      with as many steps as fit into half an hour on this machine
  python tools/train.py --data more_images --from runs/images_and_labels/detector.pt
      starts from the weights of a trained detector, also of other classes
  python tools/train.py --config mine.yaml
      trains with an existing configuration; --data DIR replaces its data.root
  python tools/train.py
      the demo
  torchrun --nproc-per-node 8 tools/train.py --config …
      on eight GPUs

After Ctrl-C, a crash or a power cut, the same command continues where it stopped; finished parts are not repeated.
Another configuration needs another --output.

next: python tools/predict.py --weights <output>/detector.pt IMAGES"""


def main(arguments: list[str] | None = None) -> int:
    options_parser = parser(__doc__ or "", EPILOG)
    options_parser.add_argument(
        "--config", type=Path, metavar="FILE",
        help="the configuration, a YAML file (default: with --data, one is written; otherwise the demo is trained)",
    )  # fmt: skip
    options_parser.add_argument("--data", metavar="DIR", help="folder of the data set (data.root)")
    options_parser.add_argument("--output", metavar="DIR", help="folder of the run (default: runs/<name>)")
    add_fitting_arguments(options_parser)
    options = options_parser.parse_intermixed_args(arguments)
    fits = options.config is None and options.data is not None
    if options.minutes is not None and not fits:
        raise UserError(
            "--minutes is for --data without --config, where a configuration is written. With --config, change "
            "rpn.training.steps and fast_rcnn.training.steps, or write the file by tools/new_config.py --minutes"
        )

    from detection.experiment.training_run import run_for_config, run_for_data
    from detection.presets import preset_path

    if fits:
        result = run_for_data(
            options.data, output=options.output, minutes=options.minutes, init_from=options.init_from,
            device=options.device, changes=options.overrides,
        )  # fmt: skip
    else:
        changes = list(overrides(options))
        result = run_for_config(
            options.config or preset_path(DEMO), init_from=options.init_from, device=options.device, changes=changes
        )
    if result.figures is not None and is_first_rank():
        print(result.figures.table())
        print(f"\nwritten: {result.folder.detector}, {result.folder.report}")
    return result.outcome.exit_status


if __name__ == "__main__":
    sys.exit(run(main))
