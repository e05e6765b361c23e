"""Evaluates a classifier: top-1 and top-5 error on one crop, ten crops, or whole images at several sizes."""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # run as a file of a checkout, without installation
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from detection.command_line import add_config_arguments, overrides, parser, run, whole_number
from detection.config import SIDE

EPILOG = """examples:
  python tools/eval_classifier.py --weights runs/cifar10_small/classifier.pt
      a single crop of the size that the classifier's configuration names for tests
  python tools/eval_classifier.py --weights … --data /path/to/imagenet --size 320
      a single crop of 320 pixels, from images resized in the same proportion as for the configured crop
  python tools/eval_classifier.py --weights … --crops ten
      ten crops: the corners and the centre of the image and of its mirror image
  python tools/eval_classifier.py --weights … --crops whole --scales 224 256 384 480 640
      fully convolutional: whole images and their mirror images, scores averaged over positions and scales
  python tools/eval_classifier.py --weights imagenet5k.pt --data /path/to/imagenet
      5K-way: a network of 5,000 classes on images of 1,000 of them
  python tools/eval_classifier.py --weights imagenet5k.pt --data /path/to/imagenet --classes 1k.txt
      1K-way: the same, choosing among the classes that the file lists, one per line
  python tools/eval_classifier.py --network resnext50_32x4d --weights torchvision/IMAGENET1K_V1 --data /path/to/imagenet
      public weights, or a file or URL of weights, on the images of val/<class>/; options such as --size 288
      --scales 304 data.interpolation=bicubic give the test settings of the weights' source
  torchrun --nproc-per-node 8 tools/eval_classifier.py --weights …
      on eight GPUs; the figures are the same

The folders of data.test are matched with the network's classes by name. Weights without class names (--network) are
matched with the folders in alphabetical order."""


def main(arguments: list[str] | None = None) -> int:
    options_parser = parser(__doc__ or "", EPILOG)
    options_parser.add_argument(
        "--weights", required=True, help="a classifier.pt; with --network, weights as a name, URL or file"
    )
    options_parser.add_argument(
        "--network",
        metavar="NAME",
        help="the network of weights that are not a classifier.pt: `python -m backbones` lists the networks",
    )
    options_parser.add_argument(
        "--size", type=_side, metavar="PIXELS", help="side of the crops, in place of data.test_size"
    )
    options_parser.add_argument(
        "--crops",
        choices=("centre", "ten", "whole"),
        default="centre",
        help="the part of each image that is classified (default: centre)",
    )
    options_parser.add_argument(
        "--scales",
        type=_side_or_change,
        nargs="+",
        metavar="PIXELS",
        help="shorter sides that images are resized to, in place of data.test_resize",
    )
    options_parser.add_argument(
        "--classes",
        type=Path,
        metavar="FILE",
        help="file with the classes to choose among, one per line (default: all)",
    )
    add_config_arguments(
        options_parser,
        config=False,
        output="folder for the results; default: `evaluation` beside the weights or, with --network, in runs/<network>",
        example="runtime.test_batch=16",
    )
    options = options_parser.parse_intermixed_args(arguments)
    if options.scales is not None:  # it takes all values after it, key=value ones too
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


_side = whole_number(1, SIDE, "a number of pixels")


def _side_or_change(text: str) -> int | str:
    return text if "=" in text else _side(text)


if __name__ == "__main__":
    sys.exit(run(main))
