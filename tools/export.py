"""Exports a detector as one file, ONNX or torch.export, that takes an image and returns its detections."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if not __package__:  # run as a file of a checkout, without installation
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from backbones.common.text import printable
from detection.command_line import overrides, parser, run

EPILOG = """examples:
  python tools/export.py --weights runs/demo/detector.pt --output detector.onnx
      verified on images of data.test of the detector's configuration
  python tools/export.py --weights detector.pt --output detector.onnx --verify images/ fast_rcnn.min_score=0.3
      verified on other images; with another threshold
  python tools/export.py --weights detector.pt --output detector.pt2 --data /path/to/coco
      torch.export's format; the data set is in another folder

The file holds everything from the decoded image to the detections: resize, normalisation, both networks, NMS. Input:
image, uint8 (height, width, 3) in RGB order, of any size. Outputs: boxes float32 (D, 4) as x0, y0, x1, y1 in pixels of
the image, scores float32 (D,) descending, and labels int64 (D,) from 1 on; the metadata name the classes. With --batch
the inputs are images (N, height, width, 3), padded at the right and the bottom, and sizes int64 (N, 2), (height, width)
of each; the outputs are padded to one length, and counts (N,) says how many are detections.

The file is run with onnxruntime on images before it gets its name. If it does not detect the same as the detector,
boxes to 0.5 pixel and scores to 0.001, nothing is written. `from detection.export.runtime import Detector` runs it
without PyTorch."""


def main(arguments: list[str] | None = None) -> int:
    options_parser = parser(__doc__ or "", EPILOG)
    options_parser.add_argument("--weights", type=Path, required=True, metavar="FILE", help="detector.pt")
    options_parser.add_argument(
        "--output", dest="file", type=Path, required=True, metavar="FILE", help="file to write: .onnx or .pt2"
    )
    options_parser.add_argument("--batch", action="store_true", help="a file for several images at once (.onnx only)")
    options_parser.add_argument(
        "--verify", nargs="+", type=Path, default=[], metavar="PATH",
        help="images, or folders of them, to verify the file on (default: data.test)",
    )  # fmt: skip
    options_parser.add_argument(
        "--images", type=_count, default=100, metavar="N",
        help="verify on at most this many of the images, spread evenly; 0: on all (default: 100)",
    )  # fmt: skip
    options_parser.add_argument("--data", metavar="DIR", help="root of the data set (data.root)")
    options_parser.add_argument(
        "overrides", nargs="*", metavar="key.sub=value",
        help="any value of the detector's configuration that training does not fix, such as fast_rcnn.min_score=0.3",
    )  # fmt: skip
    options = options_parser.parse_intermixed_args(arguments)
    options.output = None  # of the configuration

    from detection.export.exporting import export_detector

    result = export_detector(
        options.weights,
        options.file,
        batch=options.batch,
        images=options.verify,
        limit=options.images or None,
        changes=overrides(options),
    )
    print(result.summary())
    print(f"written: {printable(str(options.file))} ({options.file.stat().st_size / 1e6:.1f} MB)")
    return 0


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"a number from 0 on, not {text!r}")
    return int(text)


if __name__ == "__main__":
    sys.exit(run(main))
