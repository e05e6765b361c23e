"""Trains both networks and evaluates the detector, in one command; the same command again goes on where it stopped."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run from a checkout, without installation

from detection.command_line import add_config_arguments, parser, read_config, run

EPILOG = """examples:
  python tools/train.py
      the demo
  python tools/train.py --config mine.yaml --data /data/mine
      data of your own; the same command goes on after Ctrl-C, a crash or a power cut
  torchrun --nproc-per-node 8 tools/train.py --config …
      on eight GPUs

The same as tools/train_rpn.py and tools/train_fastrcnn.py, each with --resume, and tools/eval_coco.py: a training
that is finished in the folder of the run is not done again. Another configuration needs another --output."""


def main(arguments: list[str] | None = None) -> int:
    options_parser = parser(__doc__ or "", EPILOG)
    add_config_arguments(options_parser)
    config = read_config(options_parser.parse_intermixed_args(arguments))

    from detection.experiment.chain import train_and_evaluate
    from detection.training.distributed import is_main, process_group

    with process_group(config.runtime.device, time_limit=60 * config.runtime.timeout_minutes) as device:
        result = train_and_evaluate(config, device)
        if is_main() and result.figures is not None:
            print(result.figures.table())
            print(f"\nwritten: {result.folder.detector}, {result.folder.evaluation / 'report.html'}")
        return result.outcome.exit_status


if __name__ == "__main__":
    sys.exit(run(main))
