"""Computes the proposals of a trained RPN on a split of the data set and writes them to a file."""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # run as a file of a checkout, without installation
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from detection.command_line import add_config_arguments, overrides, parser, run

EPILOG = """examples:
  python tools/propose.py --weights runs/demo/rpn.pt
      on the training split, for tools/train_fastrcnn.py (which also does this if they are missing)
  python tools/propose.py --weights runs/demo/rpn.pt --split test --store test.st
      then: python tools/eval_coco.py --proposals test.st
  torchrun --nproc-per-node 8 tools/propose.py --weights …
      on eight GPUs

The file is in the safetensors format and contains image_ids, offsets, boxes (x0, y0, x1, y1 in pixels of the original
image) and scores. After an interruption, the same command continues."""


def main(arguments: list[str] | None = None) -> int:
    options_parser = parser(__doc__ or "", EPILOG)
    options_parser.add_argument("--weights", type=Path, required=True, metavar="FILE", help="rpn.pt or detector.pt")
    options_parser.add_argument(
        "--split",
        choices=("train", "test"),
        default="train",
        help="train: data.train with rpn.training_proposals; test: data.test with rpn.test_proposals (default: train)",
    )
    options_parser.add_argument(
        "--store",
        type=Path,
        metavar="FILE",
        help="output file (default: proposals/<name of the split>.st in --output)",
    )
    add_config_arguments(
        options_parser, config=False, output="folder of proposals/<name of the split>.st (default: that of the weights)"
    )
    options = options_parser.parse_intermixed_args(arguments)

    from detection.experiment import proposing
    from detection.experiment.model_files import load_rpn_or_detector
    from detection.experiment.stored_configuration import change_stored_config
    from detection.training.distributed import is_main, process_group

    config = change_stored_config(load_rpn_or_detector(options.weights).config, options.weights, overrides(options))
    with process_group(config.runtime.device, time_limit=60 * config.runtime.timeout_minutes) as device:
        path = proposing.propose(config, options.weights, options.split, device, output=options.store)
        if is_main():
            print(path)
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
