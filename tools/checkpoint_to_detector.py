"""Turns a checkpoint of a training into rpn.pt, or into fastrcnn.pt and detector.pt."""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # run as a file of a checkout, without installation
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from detection.command_line import parser, run

EPILOG = """examples:
  python tools/checkpoint_to_detector.py runs/demo/fastrcnn/checkpoint_00000600.pt
      writes fastrcnn.pt and detector.pt into runs/demo/fastrcnn_after_600/
  python tools/checkpoint_to_detector.py runs/demo/fastrcnn/best.pt --rpn other/rpn.pt --output best/
  python tools/checkpoint_to_detector.py runs/demo/rpn/checkpoint_00000300.pt
      writes rpn.pt into runs/demo/rpn_after_300/

The weights are those that an evaluation at that step measures: the averaged ones, if training.ema is set. The training
is not changed and can be resumed."""


def main(arguments: list[str] | None = None) -> int:
    options_parser = parser(__doc__ or "", EPILOG)
    options_parser.add_argument(
        "checkpoint", type=Path, help="checkpoint_….pt or best.pt in rpn/ or fastrcnn/ of a run"
    )
    options_parser.add_argument(
        "--rpn", type=Path, metavar="FILE", help="the RPN of the detector (default: rpn.pt of the run)"
    )
    options_parser.add_argument(
        "--output", type=Path, metavar="DIR", help="folder of the files (default: <run>/<network>_after_<steps>)"
    )
    options = options_parser.parse_args(arguments)

    from detection.experiment.from_checkpoint import write_network_of

    for path in write_network_of(options.checkpoint, rpn_file=options.rpn, output=options.output):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
