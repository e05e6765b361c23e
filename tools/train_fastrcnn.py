"""Trains the Fast R-CNN on the proposals of a trained RPN; writes <output>/detector.pt with both networks."""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # run as a file of a checkout, without installation
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from detection.command_line import (
    add_config_arguments,
    add_training_arguments,
    parser,
    plan_or_train,
    printed_config,
    read_config,
    run,
)

EPILOG = """examples:
  python tools/train_fastrcnn.py
      the demo, after tools/train_rpn.py
  python tools/train_fastrcnn.py --config configs/paper/resnext101_32x4d.yaml --data /path/to/coco
      the paper's Fast R-CNN, on the proposals of <output>/rpn.pt, which are computed first if they are missing
  python tools/train_fastrcnn.py --config … --rpn other/rpn.pt
      on the proposals of another RPN
  torchrun --nproc-per-node 8 tools/train_fastrcnn.py …
      on eight GPUs

next: python tools/eval_coco.py --weights <output>/detector.pt"""


def main(arguments: list[str] | None = None) -> int:
    options_parser = parser(__doc__ or "", EPILOG)
    add_config_arguments(options_parser)
    options_parser.add_argument("--rpn", type=Path, metavar="FILE", help="the trained RPN (default: <output>/rpn.pt)")
    options_parser.add_argument(
        "--proposals",
        type=Path,
        metavar="FILE",
        help="proposals on the training split, from tools/propose.py; by default written by the RPN if missing",
    )
    add_training_arguments(options_parser)
    options = options_parser.parse_intermixed_args(arguments)
    config = read_config(options)
    if printed_config(options, config):
        return 0

    from detection.experiment import dry_run, stages

    files = {"rpn_file": options.rpn, "proposals_file": options.proposals}
    return plan_or_train(
        options,
        config.runtime,
        lambda device: dry_run.of_fast_rcnn(config, device, **files),
        lambda device, resume: stages.train_fast_rcnn(config, device, **files, resume=resume),
    )


if __name__ == "__main__":
    sys.exit(run(main))
