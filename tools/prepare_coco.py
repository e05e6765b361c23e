"""Prepares COCO in a folder: downloads what is missing, checks and unpacks it, and builds trainval35k and minival.

    python tools/prepare_coco.py --data /path/to/coco --dry-run     what is there, what would be downloaded, disk space
    python tools/prepare_coco.py --data /path/to/coco

If you have COCO 2017 already, you need not run this: give the folder to the other tools by --data. It can be stopped at
any time; the same command continues. Each archive is checked by its SHA-256, and nothing is written outside the folder.

layouts:
  2017   annotations/instances_{train,val}2017.json, train2017/, val2017/: about 21 GB, and 41 GB while unpacking.
         train2017 has the images of trainval35k, val2017 those of minival.
  2014   annotations/instances_{train,val}2014.json, train2014/, val2014/: the same size. trainval35k and minival are
         built from the annotations and the image ids of val2017, as
         annotations/instances_{trainval35k,minival}.json.
  auto   the layout of which less is missing; 2017 in an empty folder.

Archives that are already in the folder or in its archives/ are used and left there.

The annotations are licensed CC BY 4.0. COCO does not own the copyright of the images: their use must abide by the
Flickr terms of use (https://www.flickr.com/creativecommons/), each image under the licence named in the annotations.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

if not __package__:  # run as a file of a checkout, without installation
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from backbones.common.errors import UserError
from backbones.common.units import in_bytes
from detection.command_line import parser, run
from detection.data.coco.derived_splits import OFFICIAL_COUNTS, Counts
from detection.data.coco.parts import BASE_URL, LAYOUTS, Part
from detection.data.coco.prepare import carry_out, check_disk, free_disk_space, make_plan


def main(
    argv: list[str] | None = None,
    *,
    layouts: Mapping[str, tuple[Part, ...]] = LAYOUTS,
    counts: Mapping[str, Counts] = OFFICIAL_COUNTS,
    free: Callable[[Path], int] = free_disk_space,
) -> int:
    """`layouts`, `counts` and `free` are for tests on small copies of COCO: see `make_plan` and `carry_out`."""
    options_parser = parser(__doc__ or "")
    options_parser.add_argument(
        "--data", type=Path, required=True, metavar="DIR", help="COCO's folder, created if missing"
    )
    options_parser.add_argument("--layout", choices=("auto", "2017", "2014"), default="auto", help="default: auto")
    options_parser.add_argument("--only", choices=("annotations",), help="annotations without images")
    options_parser.add_argument(
        "--keep-archives", action="store_true", help="move downloaded zip files to archives/ instead of deleting them"
    )
    options_parser.add_argument("--base-url", default=BASE_URL, metavar="URL", help=f"a mirror (default: {BASE_URL})")
    options_parser.add_argument("--dry-run", action="store_true", help="print what would be done, and stop")
    options_parser.add_argument("--yes", action="store_true", help="download without asking")
    options = options_parser.parse_args(argv)

    plan = make_plan(
        options.data,
        options.layout,
        only_annotations=options.only == "annotations",
        keep_archives=options.keep_archives,
        layouts=layouts,
    )
    print(plan.describe())
    if plan.is_done:
        return 0
    room = free(options.data)
    print(f"Free: {in_bytes(room)}.", flush=True)
    check_disk(plan, room)
    if options.dry_run:
        return 0
    if plan.to_fetch and not options.yes and not _agrees():
        print("Nothing was done.")
        return 1
    carry_out(plan, base_url=options.base_url, expected=counts, free=free)
    print(f"Done: the other tools find it by --data {options.data}")
    return 0


def _agrees() -> bool:
    if not sys.stdin.isatty():
        raise UserError("there is nobody to ask whether to fetch this: add --yes")
    return input("Go ahead? [y/N] ").strip().lower() in ("y", "yes")


if __name__ == "__main__":
    sys.exit(run(main))
