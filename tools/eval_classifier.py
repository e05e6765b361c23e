"""Measures a classifier: top-1 and top-5 error, over one crop, ten, or whole images at several sizes."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run from a checkout, without installation

from detection.command_line import add_config_arguments, overrides, parser, run
from detection.config import SIDE

EPILOG = """examples:
  python tools/eval_classifier.py --weights runs/cifar10_small/classifier.pt
      the single crop that the classifier's configuration tests on
  python tools/eval_classifier.py --weights … --data /path/to/imagenet --size 320
      a single crop of 320, of images enlarged in the same proportion as for the configured crop
  python tools/eval_classifier.py --weights … --crops ten
      ten crops: corners and centre, each mirrored too
  python tools/eval_classifier.py --weights … --crops whole --scales 224 256 384 480 640
      fully-convolutional: whole images and their mirror images, averaged over positions and scales
  python tools/eval_classifier.py --weights imagenet5k.pt --data /path/to/imagenet
      a network of 5,000 classes on images of 1,000 of them, 5K-way
  python tools/eval_classifier.py --weights imagenet5k.pt --data /path/to/imagenet --classes 1k.txt
      the same, 1K-way: it chooses among the classes that the file names, one a line
  python tools/eval_classifier.py --network resnext50_32x4d --weights torchvision/IMAGENET1K_V1 --data /path/to/imagenet
      public weights, or anybody's file of them, on the images of val/<class>/; where their source measures so,
      --size 288 --scales 304 data.interpolation=bicubic, say
  torchrun --nproc-per-node 8 tools/eval_classifier.py --weights …
      on eight GPUs; the figures are the same

The folders of data.test are matched with the network's classes by their names; weights without names (--network) take
them in the order of their names."""


def main(arguments: list[str] | None = None) -> int:
    options_parser = parser(__doc__ or "", EPILOG)
    options_parser.add_argument(
        "--weights", required=True, help="a classifier.pt; with --network any weights by name, URL or file"
    )
    options_parser.add_argument(
        "--network",
        metavar="NAME",
        help="the network of weights that are no classifier.pt: `python -m backbones` lists them",
    )
    options_parser.add_argument("--size", type=_side, metavar="PIXELS", help="side of the crops (data.test_size)")
    options_parser.add_argument(
        "--crops", choices=("centre", "ten", "whole"), default="centre", help="what of an image is looked at"
    )
    options_parser.add_argument(
        "--scales",
        type=_side_or_change,
        nargs="+",
        metavar="PIXELS",
        help="shorter sides that images are resized to, in turn (data.test_resize)",
    )
    options_parser.add_argument("--classes", type=Path, metavar="FILE", help="the classes to choose among")
    add_config_arguments(
        options_parser,
        config=False,
        output="folder of what is written; default: `evaluation` beside the weights, or in runs/<network>",
        example="runtime.test_batch=16",
    )
    options = options_parser.parse_intermixed_args(arguments)
    if options.scales is not None:  # which takes all that follows it
        options.overrides += [value for value in options.scales if isinstance(value, str)]
        options.scales = [value for value in options.scales if isinstance(value, int)]
        if not options.scales:
            options_parser.error("argument --scales: expected at least one number of pixels")

    from backbones.common.errors import UserError
    from backbones.common.files import user_path
    from detection.classifier.classifier_file import load_classifier
    from detection.classifier.config import ClassifierConfig
    from detection.classifier.image_input import views_for_test
    from detection.classifier.public_weights import with_public_weights
    from detection.classifier.top_errors import measure, read_class_list
    from detection.config_file import change_config
    from detection.training.distributed import is_main, process_group

    if options.network is not None:
        config = change_config(ClassifierConfig(), overrides(options))
        trained = with_public_weights(config, options.network, options.weights)
        home = Path("runs") / options.network
    else:
        try:
            trained = load_classifier(options.weights)
        except UserError as error:
            raise UserError(f"{error}\nWeights that tools/train_classifier.py did not write need --network") from error
        config = change_config(trained.config, overrides(options))
        home = user_path(options.weights).parent
    folder = user_path(options.output) if options.output else home / "evaluation"
    among = None if options.classes is None else read_class_list(options.classes, trained.classes)
    with process_group(config.runtime.device, time_limit=60 * config.runtime.timeout_minutes) as device:
        views = views_for_test(config.data, size=options.size, crops=options.crops, scales=options.scales)
        errors = measure(trained, config, views, device, folder, among=among)
        if is_main():
            print(errors.table())
            print(f"\nwritten: {folder}")
    return 0


def _side(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and 1 <= int(text) <= SIDE):
        raise argparse.ArgumentTypeError(f"a number of pixels from 1 to {SIDE}, not {text[:50]!r}")
    return int(text)


def _side_or_change(text: str) -> int | str:
    return text if "=" in text else _side(text)


if __name__ == "__main__":
    sys.exit(run(main))
