"""Converts a data set of any format that is read to COCO, YOLO or Pascal VOC, into a new folder."""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # run as a file of a checkout, without installation
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from backbones.common.errors import UserError
from detection.command_line import add_config_arguments, overrides, parser, run

EPILOG = """examples:
  python tools/convert_dataset.py --data images_and_labels --to coco --output as_coco
      every split that the folder has; its format is detected
  python tools/convert_dataset.py --data images_and_labels --to yolo --output divided data.split.test=0.2
      a set without splits, divided into train and test
  python tools/convert_dataset.py --config mine.yaml --to voc --output as_voc --cleaned --link
      the splits of a configuration after the repairs that a training makes; images are linked instead of copied
  python tools/convert_dataset.py --data images_and_labels --to coco --output as_shards --shards 100
      the images of each split in 100 tar files, for disks on which millions of small files are slow

A conversion is not needed to train: all tools read the formats as they are. The original files are only read. Without
--cleaned, boxes are written as they are stated."""


def main(arguments: list[str] | None = None) -> int:
    options_parser = parser(__doc__ or "", EPILOG)
    options_parser.add_argument("--to", required=True, choices=("coco", "yolo", "voc"), help="the format to write")
    options_parser.add_argument(
        "--cleaned", action="store_true", help="write what remains after the repairs: boxes within their images"
    )
    placing = options_parser.add_mutually_exclusive_group()
    placing.add_argument("--link", action="store_true", help="link the images instead of copying them")
    placing.add_argument(
        "--shards", type=int, default=0, metavar="N", help="with --to coco: the images of each split in N tar files"
    )
    add_config_arguments(
        options_parser,
        output="the new folder; must not exist",
        default="the data set in --data",
        example="data.split.test=0.2",
    )
    options = options_parser.parse_intermixed_args(arguments)

    from backbones.common.files import user_path
    from backbones.common.text import printable
    from detection.config_file import load_config_of
    from detection.experiment.checking import DataConfig
    from detection.experiment.conversion import convert

    if options.output is None:
        raise UserError("--output DIR is needed: the new folder")
    if options.config is None and options.data is None:
        raise UserError("--data DIR or --config FILE is needed: the data set to convert")
    if options.shards and (options.to != "coco" or options.shards < 1):
        raise UserError("--shards N is at least 1, and needs --to coco: images in tar files are read with COCO labels")
    output, options.output = user_path(options.output), None
    config = load_config_of(DataConfig, options.config, overrides(options))
    placed = {"link": options.link, "shards": options.shards}
    text = convert(config.data, options.to, output, cleaned=options.cleaned, **placed)
    print(printable(text, keep_lines=True))
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
