"""Detects objects in images; writes annotated images and one JSON file."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run from a checkout, without installation

from backbones.common.text import printable
from detection.command_line import parser, run

EPILOG = """examples:
  python tools/predict.py --weights runs/demo/detector.pt street.jpg
  python tools/predict.py --weights detector.pt images/ more/*.png --output found --min-score 0.7

detections.json is a list with one entry per image: {"file": …, "width": …, "height": …, "detections":
[{"category_id": …, "category": …, "score": …, "box": [x0, y0, x1, y1]}, …], "drawing": …}, boxes in pixels, "drawing"
the name of the annotated image. It lists every detection; the annotated images show those with a score of at least
--min-score. An image that cannot be read has "error" in place of "detections", and so has one that was not reached when
the tool was stopped. The exit status is 1 if an image could not be read.

A folder is searched, with its subfolders, for files with the extension of a readable image format. Hidden files (such
as macOS's ._a.jpg) are skipped. In the output folder, only annotated images and a detections.json of earlier calls are
replaced. A call that would overwrite another file, or an annotated image that was changed since (or drawn by an earlier
version, which did not mark its images), is refused. So is an output folder that another process of this tool is writing
to."""


def main(arguments: list[str] | None = None) -> int:
    options_parser = parser(__doc__ or "", EPILOG)
    options_parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="images, or folders of them")
    options_parser.add_argument("--weights", type=Path, required=True, metavar="FILE", help="detector.pt")
    options_parser.add_argument(
        "--output", type=Path, default=Path("predictions"), metavar="DIR", help="output folder (default: predictions)"
    )
    options_parser.add_argument(
        "--min-score",
        type=float,
        default=0.5,
        metavar="S",
        help="draw detections with at least this score (default: 0.5)",
    )
    options_parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1 (default: auto)")
    options = options_parser.parse_args(arguments)

    from detection.detector import Detector
    from detection.predict import predict

    detector = Detector.load(options.weights, options.device)
    summary = predict(detector, options.paths, options.output, min_score=options.min_score)
    unreadable = f" ({summary.unreadable} unreadable)" if summary.unreadable else ""
    detections = f"{summary.detections} detections of score {options.min_score:g} and above"
    print(f"{summary.images} images{unreadable}, {detections}")
    print(f"written: {printable(str(options.output))}")
    return 1 if summary.unreadable else 0


if __name__ == "__main__":
    sys.exit(run(main))
