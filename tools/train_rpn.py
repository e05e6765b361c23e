"""Trains the region proposal network (RPN); writes <output>/rpn.pt."""

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
  python tools/train_rpn.py
      the demo: draws its images and trains on them, in minutes on a CPU
  python tools/train_rpn.py --config configs/paper/resnext101_32x4d.yaml --data /path/to/coco
      the paper's RPN; one GPU accumulates gradients over the global batch
  torchrun --nproc-per-node 8 tools/train_rpn.py --config … --data …
      the same on eight GPUs
  torchrun --nnodes 2 --nproc-per-node 8 --rdzv-endpoint HOST:29500 tools/train_rpn.py …
      the same on two machines that share the output folder; run the command on both
  python tools/train_rpn.py --config … --resume
      continues from the newest checkpoint
  python tools/train_rpn.py --config … --resume rpn.training.steps=9000
      continues a finished run with more steps
  python tools/train_rpn.py --config mine.yaml init_from=old/detector.pt
      starts from a trained detector, also of other classes; also for tools/train_fastrcnn.py

next: python tools/train_fastrcnn.py, with the same --config, --data and --output"""


def main(arguments: list[str] | None = None) -> int:
    options_parser = parser(__doc__ or "", EPILOG)
    add_config_arguments(options_parser)
    add_training_arguments(options_parser)
    options = options_parser.parse_intermixed_args(arguments)
    config = read_config(options)
    if printed_config(options, config):
        return 0

    from detection.experiment import dry_run, stages

    return plan_or_train(
        options,
        config.runtime,
        lambda device: dry_run.of_rpn(config, device),
        lambda device, resume: stages.train_rpn(config, device, resume=resume),
    )


if __name__ == "__main__":
    sys.exit(run(main))
