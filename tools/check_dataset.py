"""Checks a data set before a long run: annotations, and every image; changes nothing."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run from a checkout, without installation

from detection.command_line import add_config_arguments, parser, read_config, run

EPILOG = """examples:
  python tools/check_dataset.py --config mine.yaml
      both splits, data.train and data.test
  python tools/check_dataset.py --config mine.yaml data.root=/other/disk

All findings of a split are told at once, with counts and first examples: first what the tools refuse, then what they
repair (they never change your files). Images are decoded, which takes minutes for a hundred thousand. The exit status
is 1 if something is refused."""


def main(arguments: list[str] | None = None) -> int:
    options_parser = parser(__doc__ or "", EPILOG)
    add_config_arguments(options_parser, output="not used")
    config = read_config(options_parser.parse_intermixed_args(arguments))

    from backbones.common.errors import UserError
    from detection.experiment.datasets import check_split, match_classes

    refused = False
    indices = {}
    for which in ("train", "test"):
        try:
            index = check_split(config.data, which)
        except UserError as error:
            print(f"data.{which}: {error}", file=sys.stderr)
            refused = True
            continue
        indices[which] = index
        found = index.findings.summary()
        print(
            f"data.{which}: {index.annotation_file}: {len(index)} images, {len(index.boxes)} objects, "
            f"{len(index.category_ids)} classes; " + (f"repaired:\n{found}" if found else "nothing to repair")
        )
    if len(indices) == 2:
        train = indices["train"]
        try:
            match_classes(indices["test"], train.category_ids, train.category_names, train.annotation_file)
        except UserError as error:
            print(error, file=sys.stderr)
            refused = True
    return int(refused)


if __name__ == "__main__":
    sys.exit(run(main))
