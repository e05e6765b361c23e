"""Exports a detector as one file (ONNX, OpenVINO or torch.export) that takes an image and returns its detections."""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # run as a file of a checkout, without installation
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from backbones.common.text import printable
from detection.command_line import overrides, parser, run, whole_number

EPILOG = """examples:
  python tools/export.py --weights runs/demo/detector.pt --output detector.onnx
      verified on images of data.test of the detector's configuration
  python tools/export.py --weights detector.pt --output detector.onnx --verify images/ fast_rcnn.min_score=0.3
      verified on other images; with another threshold
  python tools/export.py --weights detector.pt --output detector.pt2 --data /path/to/coco
      torch.export's format; the data set is in another folder
  python tools/export.py --weights detector.pt --output int8.onnx --int8 --calibrate data/train/
      int8, with the ranges of these images; layers that cost AP stay in fp32
  python tools/export.py --weights detector.pt --output detector.xml
      OpenVINO's format: detector.xml and detector.bin

The file holds everything from the decoded image to the detections: resize, normalisation, both networks, NMS. Input:
image, uint8 (height, width, 3) in RGB order, of any size. Outputs: boxes float32 (D, 4) as x0, y0, x1, y1 in pixels of
the image, scores float32 (D,) descending, and labels int64 (D,) from 1 on; the metadata name the classes. With --batch
the inputs are images (N, height, width, 3), padded at the right and the bottom, and sizes int64 (N, 2), (height, width)
of each; the outputs are padded to one length, and counts (N,) says how many are detections.

The file is run on images before it gets its name. If it does not detect the same as the detector, boxes to 0.5 pixel
and scores to 0.001, nothing is written. With --half or --int8 nothing is written if it loses more AP than --max-loss.
`from detection.export.runtime import Detector` runs it without PyTorch."""


def main(arguments: list[str] | None = None) -> int:
    options_parser = parser(__doc__ or "", EPILOG)
    options_parser.add_argument("--weights", type=Path, required=True, metavar="FILE", help="detector.pt")
    options_parser.add_argument(
        "--output",
        dest="file",
        type=Path,
        required=True,
        metavar="FILE",
        help="file to write: .onnx, .xml (OpenVINO) or .pt2",
    )
    options_parser.add_argument("--batch", action="store_true", help="a file for several images at once (not .pt2)")
    precisions = options_parser.add_mutually_exclusive_group()
    precisions.add_argument(
        "--half", action="store_true", help="layers in fp16, for GPUs; on a CPU such a file is slower (not .pt2)"
    )
    precisions.add_argument("--int8", action="store_true", help="layers in int8, for CPUs (not .pt2)")
    options_parser.add_argument(
        "--calibrate", nargs="+", type=Path, default=[], metavar="PATH",
        help="images, or folders of them, that --int8 takes the ranges of activations from, at most 100 of them",
    )  # fmt: skip
    options_parser.add_argument(
        "--max-loss", type=float, metavar="AP",
        help="AP that a file of --half or --int8 may lose (default: 0.01)",
    )  # fmt: skip
    options_parser.add_argument(
        "--verify", nargs="+", type=Path, default=[], metavar="PATH",
        help="images, or folders of them, to verify the file on (default: data.test)",
    )  # fmt: skip
    options_parser.add_argument(
        "--images", type=whole_number(0), default=100, metavar="N",
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
        precision="fp16" if options.half else "int8" if options.int8 else "fp32",
        calibration=options.calibrate,
        max_loss=options.max_loss,
        images=options.verify,
        limit=options.images or None,
        changes=overrides(options),
    )
    print(result.summary())
    print(f"written: {printable(str(options.file))} ({options.file.stat().st_size / 1e6:.1f} MB)")
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
