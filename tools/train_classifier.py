"""Trains a ResNeXt to classify images; writes <output>/classifier.pt, which can be used as backbone.weights."""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # run as a file of a checkout, without installation
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from detection.command_line import (
    add_config_arguments,
    add_training_arguments,
    overrides,
    parser,
    plan_or_train,
    printed_config,
    run,
)
from detection.presets import preset_path

DEFAULT_CONFIG = "cifar/small.yaml"  # the preset
EPILOG = """examples:
  python tools/train_classifier.py --data /path/to/cifar10
      a small ResNeXt on CIFAR-10, in minutes on a CPU; the folder contains CIFAR's unpacked archive, or its images
      in train/<class>/ and test/<class>/
  python tools/train_classifier.py --config configs/imagenet/resnext50_32x4d.yaml --data /path/to/imagenet
      the paper's recipe on ImageNet, or on any folder with train/<class>/ and val/<class>/
  torchrun --nproc-per-node 8 tools/train_classifier.py --config … --data …
      the same on eight GPUs; two machines as for tools/train_rpn.py
  python tools/train_classifier.py --config … --resume
      continues from the newest checkpoint

next: python tools/eval_classifier.py --weights <output>/classifier.pt
or train a detector from its weights, which needs a network of four stages (ResNeXt-29 has three): any of
configs/imagenet/, or the network of the demo and of configs/bccd.yaml,
      python tools/train_classifier.py --config configs/cifar/detector_backbone.yaml --data /path/to/cifar10
      python tools/train_rpn.py backbone.weights=runs/cifar10_detector_backbone/classifier.pt
and tools/train_fastrcnn.py with the same backbone.weights"""


def main(arguments: list[str] | None = None) -> int:
    options_parser = parser(__doc__ or "", EPILOG)
    add_config_arguments(
        options_parser,
        default="configs/cifar/small.yaml",
        example="training.epochs=10",
    )
    add_training_arguments(options_parser)
    options = options_parser.parse_intermixed_args(arguments)

    from detection.classifier.config import ClassifierConfig
    from detection.config_file import load_config_of

    config = load_config_of(ClassifierConfig, options.config or preset_path(DEFAULT_CONFIG), overrides(options))
    if printed_config(options, config):
        return 0

    from detection.classifier.stage import plan_classifier, train_classifier

    return plan_or_train(
        options,
        config.runtime,
        lambda device: plan_classifier(config, device),
        lambda device, resume: train_classifier(config, device, resume=resume),
    )


if __name__ == "__main__":
    sys.exit(run(main))
