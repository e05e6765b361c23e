"""Checks the labels and every image of a data set, and writes a page with advice; no file of yours is changed."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

if not __package__:  # run as a file of a checkout, without installation
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from detection.command_line import DEMO, add_config_arguments, overrides, parser, run

EPILOG = """examples:
  python tools/check_dataset.py --config mine.yaml
      both splits: data.train as a training reads it, data.test as an evaluation reads it
  python tools/check_dataset.py --data images_and_labels
      a folder without a configuration: format, splits and classes are detected

All findings of a split are reported at once, with counts and the first examples: first what the tools refuse, then
what they repair (they never change your files) and what is implausible. Then the two splits are compared. Every image
is decoded. The exit status is 1 if something is refused.

A page shows the same with images, and the rest: counts, class balance, boxes against the configuration's anchors,
anchors fitted to the boxes, nearly equal images, annotated and augmented training images, crowded images. It is
dataset.html in the folder of the run, or what --output names: a folder, or a file that ends in .html. Only the page of
an earlier check is replaced."""


def main(arguments: list[str] | None = None) -> int:
    options_parser = parser(__doc__ or "", EPILOG)
    add_config_arguments(
        options_parser,
        output="folder of the page, or its name.html (default: runs/<name>)",
        default="the data set in --data, or the demo",
        example="data.format=voc",
    )
    options = options_parser.parse_intermixed_args(arguments)

    from backbones.common.text import printable
    from detection.config_file import load_config_of, quoted
    from detection.experiment.checking import DataConfig, check_splits
    from detection.experiment.config_for_data import name_for
    from detection.experiment.dataset_advice import page_path, write_page
    from detection.presets import preset_path
    from detection.report.dataset_page import require_replaceable_page

    default = preset_path(DEMO) if options.data is None else None
    changes = list(overrides(options))
    if options.config is None and options.data is not None:  # the folder of the run that train.py makes of the data
        changes = [f"name={quoted(name_for(Path(options.data)))}", *changes]
    config = load_config_of(DataConfig, default if options.config is None else options.config, changes)
    page = page_path(config)
    require_replaceable_page(page)
    verdicts = []
    for verdict in check_splits(config.data):
        print(printable(verdict.text, keep_lines=True), file=sys.stderr if verdict.refused else sys.stdout, flush=True)
        verdicts.append(verdict)
    write_page(config, verdicts, page)
    logging.getLogger(__name__).info("page: %s", page)
    return int(any(verdict.refused for verdict in verdicts))


if __name__ == "__main__":
    sys.exit(run(main))
