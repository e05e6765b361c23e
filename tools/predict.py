"""Detects objects in images; writes annotated images and one JSON file."""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # run as a file of a checkout, without installation
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from backbones.common.errors import UserError
from backbones.common.files import user_path
from backbones.common.text import printable
from detection.command_line import parser, run

EPILOG = """examples:
  python tools/predict.py --weights runs/demo/detector.pt street.jpg
      one image (in a photograph, the demo's detector finds nothing: it knows only drawn shapes)
  python tools/predict.py --weights detector.pt images/ more/*.png --output found --min-score 0.7
  python tools/predict.py --weights runs/demo/detector.pt images/ --thresholds best
  python tools/predict.py --weights runs/demo/detector.pt aerial.tif --tile 800 --overlap 0.2

detections.json is a list with one entry per image: {"file": …, "width": …, "height": …, "detections":
[{"category_id": …, "category": …, "score": …, "box": [x0, y0, x1, y1]}, …], "drawing": …}, boxes in pixels, "drawing"
the name of the annotated image. It lists every detection; the annotated images show those with a score of at least
--min-score, or that of their class (--thresholds). An image that cannot be read has "error" in place of "detections",
and so has one that was not reached when the tool was stopped. The exit status is 1 if an image could not be read.

A folder is searched, with its subfolders, for files with the extension of a readable image format. Hidden files (such
as macOS's ._a.jpg) are skipped. In the output folder, only annotated images and a detections.json of earlier calls are
replaced. A call that would overwrite another file, or an annotated image that was changed since (or drawn by an earlier
version, which did not mark its images), is refused. So is an output folder that another process of this tool is writing
to."""


def main(arguments: list[str] | None = None) -> int:
    options_parser = parser(__doc__ or "", EPILOG)
    options_parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="images, or folders of them")
    options_parser.add_argument(
        "--weights",
        type=Path,
        required=True,
        metavar="FILE",
        help="detector.pt, or detector.onnx of tools/export.py, which is run without PyTorch",
    )
    options_parser.add_argument(
        "--output", type=Path, default=Path("predictions"), metavar="DIR", help="output folder (default: predictions)"
    )
    options_parser.add_argument(
        "--min-score",
        type=float,
        metavar="S",
        help="draw detections with at least this score (default: 0.5)",
    )
    options_parser.add_argument(
        "--thresholds",
        metavar="best|FILE",
        help="draw detections with at least the threshold of their class. best: the thresholds with the best F1, from "
        "evaluation/thresholds.json beside the weights, which tools/eval_coco.py writes; or another such FILE",
    )
    options_parser.add_argument(
        "--tile",
        type=int,
        metavar="PIXELS",
        help="detect in overlapping tiles of this side, and merge their detections: for small objects in large images",
    )
    options_parser.add_argument(
        "--overlap",
        type=float,
        metavar="SHARE",
        help="least overlap of two tiles, as a share of their side (default: 0.2)",
    )
    options_parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1 (default: auto)")
    options_parser.add_argument(
        "--precision",
        choices=("auto", "fp32", "bf16", "fp16"),
        help="auto: the faster of fp32 and bf16 on a CPU with instructions for bf16, measured once for a large network "
        "(default: auto on a CPU, that of the training on a GPU)",
    )
    options = options_parser.parse_args(arguments)

    from detection.detector_file import load_detector_file, source_digest
    from detection.experiment import thresholds_file
    from detection.predict import predict

    if options.thresholds is not None and options.min_score is not None:
        raise UserError("--min-score and --thresholds exclude each other: give one of them")
    if options.overlap is not None and options.tile is None:
        raise UserError("--overlap is that of tiles; give --tile, too")
    overlap = 0.2 if options.overlap is None else options.overlap
    detector = load_detector_file(options.weights, options.device, precision=options.precision)
    least: float | list[float] = 0.5 if options.min_score is None else options.min_score
    if options.thresholds is not None:
        beside = options.weights.parent / "evaluation" / thresholds_file.NAME
        file = beside if options.thresholds == "best" else user_path(options.thresholds)
        least = thresholds_file.read_thresholds(
            file, options.weights, detector.categories.names, source_digest(options.weights, detector)
        )
    summary = predict(detector, options.paths, options.output, min_score=least, tile=options.tile, overlap=overlap)
    unreadable = f" ({summary.unreadable} unreadable)" if summary.unreadable else ""
    drawn = f"score {least:g} and above" if isinstance(least, float) else f"at least the scores in {file}"
    detections = f"{summary.detections} detections of {drawn}"
    print(f"{summary.images} images{unreadable}, {detections}")
    print(f"written: {printable(str(options.output))}")
    return 1 if summary.unreadable else 0


if __name__ == "__main__":
    sys.exit(run(main))
