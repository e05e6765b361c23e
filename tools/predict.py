"""Detects objects in images, videos and streams; writes annotated copies and the detections as JSON."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import Any

if not __package__:  # run as a file of a checkout, without installation
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from backbones.common.errors import UserError
from backbones.common.files import user_path
from backbones.common.text import printable
from detection.command_line import parser, run
from detection.video import TRIES, Video, is_video

_CHANGE = re.compile(r"(?:data|rpn|fast_rcnn|runtime)\.[a-z0-9_.]+=")

EPILOG = """examples:
  python tools/predict.py --weights runs/demo/detector.pt street.jpg
      one image (in a photograph, the demo's detector finds nothing: it knows only drawn shapes)
  python tools/predict.py --weights detector.pt images/ more/*.png --output found --min-score 0.7
  python tools/predict.py --weights runs/demo/detector.pt images/ --thresholds best
  python tools/predict.py --weights runs/demo/detector.pt aerial.tif --tile 800 --overlap 0.2
  python tools/predict.py --weights runs/demo/detector.pt aerial.tif fast_rcnn.detections=2000
  python tools/predict.py --weights detector.onnx clip.mp4 --every 2 --track
  python tools/predict.py --weights detector.onnx rtsp://user:password@host/stream
  python tools/predict.py --weights detector.onnx 0

detections.json is a list with one entry per image: {"file": …, "width": …, "height": …, "detections":
[{"category_id": …, "category": …, "score": …, "box": [x0, y0, x1, y1]}, …], "drawing": …}, boxes in pixels, "drawing"
the name of the annotated image. It lists every detection; the annotated images show those with a score of at least
--min-score, or that of their class (--thresholds). An image that cannot be read has "error" in place of "detections",
and so has one that was not reached when the tool was stopped. The exit status is 1 if an image could not be read.

A folder is searched, with its subfolders, for files with the extension of a readable image format. Hidden files (such
as macOS's ._a.jpg) are skipped. In the output folder, only annotated images and a detections.json of earlier calls are
replaced. A call that would overwrite another file, or an annotated image that was changed since (or drawn by an earlier
version, which did not mark its images), is refused. So is an output folder that another process of this tool is writing
to.

A video is a file with the ending of one, the address of a stream (rtsp, http and others), or the number of a camera. It
gives NAME.mp4, the frames with their detections drawn, without sound (MPEG-4; of an odd number of rows or columns the
last is left out), and NAME.jsonl, with a line for each frame in which was detected: {"frame": …, "time": …,
"detections": […]}, the frame's number from 0 on and its time in seconds. Until they are complete the files are called
.NAME.mp4.tmp.mp4 and .NAME.jsonl.tmp; the second can be read while it grows. After Ctrl-C they have the frames up to
then. Of a camera or stream, frames that arrive while the detector is busy are skipped. A stream that breaks is opened
again; where that fails --reconnect times, the exit status is 1.

--track gives each object a number that it keeps from frame to frame: "track" in the JSON lines, null before a second
frame confirms the object. It needs the package trackers (docs/use.md)."""


_OF_VIDEOS = {"every": 1, "batch_size": 1, "track": False, "video": True, "reconnect": TRIES}  # their defaults


def _parser() -> argparse.ArgumentParser:
    options_parser = parser(__doc__ or "", EPILOG)
    options_parser.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="images, folders of them, videos, addresses of streams, or cameras (0); also key.sub=value, which changes "
        "the detector's configuration, such as fast_rcnn.detections=2000",
    )
    options_parser.add_argument(
        "--weights",
        type=Path,
        required=True,
        metavar="FILE",
        help="detector.pt, or detector.onnx or detector.xml of tools/export.py, which are run without PyTorch",
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
    videos = options_parser.add_argument_group("videos and streams")
    videos.add_argument("--every", type=int, metavar="N", help="detect in every N-th frame only (default: 1)")
    videos.add_argument("--batch-size", type=int, metavar="N", help="frames of a file detected at once (default: 1)")
    videos.add_argument("--track", action="store_true", default=None, help="number objects from frame to frame")
    videos.add_argument(
        "--no-video", dest="video", action="store_false", default=None, help="write the JSON lines, no annotated video"
    )
    videos.add_argument(
        "--reconnect", type=int, metavar="N", help=f"tries to open a broken stream again (default: {TRIES})"
    )
    options_parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1 (default: auto)")
    options_parser.add_argument(
        "--precision",
        choices=("auto", "fp32", "bf16", "fp16"),
        help="auto: the faster of fp32 and bf16 on a CPU with instructions for bf16, measured once for a large network "
        "(default: auto on a CPU, that of the training on a GPU)",
    )
    return options_parser


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    if options.thresholds is not None and options.min_score is not None:
        raise UserError("--min-score and --thresholds exclude each other: give one of them")
    if options.overlap is not None and options.tile is None:
        raise UserError("--overlap is that of tiles; give --tile, too")
    changes = [text for text in options.paths if _CHANGE.match(text)]
    paths = [text for text in options.paths if text not in changes]
    if not paths:
        raise UserError("no image or video is given")
    videos_given = [path for path in paths if is_video(path)]
    images = [user_path(path) for path in paths if not is_video(path)]
    if options.batch_size is not None and options.tile is not None:
        raise UserError("--batch-size is for whole frames; with --tile, leave it out")
    for name, default in _OF_VIDEOS.items():
        if getattr(options, name) is None:
            setattr(options, name, default)
        elif not videos_given:
            spelled = "--no-video" if name == "video" else f"--{name.replace('_', '-')}"
            raise UserError(f"{spelled} is for videos and streams, and none is given")

    from detection.detector_file import load_detector_file, source_digest
    from detection.experiment import thresholds_file
    from detection.predict import predict
    from detection.predict_video import predict_videos

    sources = [Video(source, every=options.every, tries=options.reconnect) for source in videos_given]
    detector = load_detector_file(options.weights, options.device, precision=options.precision, changes=changes)
    least: float | list[float] = 0.5 if options.min_score is None else options.min_score
    if options.thresholds is not None:
        beside = options.weights.parent / "evaluation" / thresholds_file.NAME
        file = beside if options.thresholds == "best" else user_path(options.thresholds)
        least = thresholds_file.read_thresholds(
            file, options.weights, detector.categories.names, source_digest(options.weights, detector)
        )
    overlap = 0.2 if options.overlap is None else options.overlap
    shared: dict[str, Any] = {"min_score": least, "tile": options.tile, "overlap": overlap}
    drawn = f"of score {least:g} and above" if isinstance(least, float) else f"of at least the scores in {file}"
    status = 0
    if images:
        summary = predict(detector, images, options.output, **shared)
        unreadable = f" ({summary.unreadable} unreadable)" if summary.unreadable else ""
        print(f"{summary.images} images{unreadable}, {summary.detections} detections {drawn}")
        print(f"written: {printable(str(options.output))}")
        status = 1 if summary.unreadable else 0
    for video, found in predict_videos(
        detector,
        sources,
        options.output,
        **shared,
        batch_size=options.batch_size,
        track=options.track,
        draw=options.video,
    ):
        tracks = "" if found.tracks is None else f", {found.tracks} tracks"
        print(f"{video.name}: {found.frames} frames, {found.detections} detections {drawn}{tracks}")
        print(f"written: {', '.join(printable(str(path)) for path in found.files)}")
        status = 1 if found.broke else status
    return status


if __name__ == "__main__":
    sys.exit(run(main))
