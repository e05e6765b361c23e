"""Writes a commented configuration that fits a data set and this machine."""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # run as a file of a checkout, without installation
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from detection.command_line import add_fitting_arguments, parser, run

EPILOG = """examples:
  python tools/new_config.py --data images_and_labels
      format, splits, classes, image size, anchors and limits by the data; writes images_and_labels.yaml
  python tools/new_config.py --data images_and_labels --minutes 30 --output half_hour.yaml
      as many steps as fit into half an hour on this machine, together with proposals and evaluations, by measured steps
  python tools/new_config.py --data images_and_labels --output tuned.yaml data.split.test=0.1 rpn.samples=128
      values of your own; the rest is fitted to them

Every value has its reason as a comment. An existing file is never overwritten.

next: python tools/check_dataset.py --config FILE, then python tools/train.py --config FILE"""


def main(arguments: list[str] | None = None) -> int:
    options_parser = parser(__doc__ or "", EPILOG)
    options_parser.add_argument("--data", metavar="DIR", type=Path, required=True, help="folder of the data set")
    options_parser.add_argument(
        "--output", metavar="FILE", type=Path, help="the file (default: <name of the data's folder>.yaml)"
    )
    add_fitting_arguments(options_parser)
    options = options_parser.parse_intermixed_args(arguments)

    from detection.experiment.config_for_data import name_for, write_new_config
    from detection.experiment.said_once import said_once
    from detection.training.distributed import is_main, process_group

    path = options.output or Path(f"{name_for(options.data)}.yaml")
    with process_group(options.device) as device, said_once():
        write_new_config(
            path,
            options.data,
            device,
            name=path.stem,
            changes=options.overrides,
            minutes=options.minutes,
            init_from=options.init_from,
            stated_device=options.device,
        )
        if is_main():
            print(path)
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
