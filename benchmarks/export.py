"""Exported detectors: what each form of the file detects beside the `Detector`, its size, and its time for an image.

    python -m benchmarks.export --weights runs/demo/detector.pt runs/bccd/detector.pt --images 0
    python -m benchmarks.export --weights … --random paper modern --photographs ../shared/data/coco_small --images 16

Each detector is exported in each form by `detection.export.exporting`, verified on images of its own test split; int8
is calibrated on images of its training split. Detectors with random weights and real sizes are verified on photographs.
Then each image is detected in by each form, in turns in one process, with one thread and with two.

Files stay in --folder: a second call of the same detectors and number of images goes on with them. --only-files makes
them and measures no time, which then can be done on a machine that does nothing else. What torchvision's own Faster
R-CNN does is in `benchmarks.torchvision_export`.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import math
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from backbones.common.errors import UserError
from backbones.common.files import sha256_of, write_text
from benchmarks.common import RESULTS, ROOT, Timing, environment, interleaved, seconds, table, write_comparison
from benchmarks.scene import CLASSES, make_scene
from detection.command_line import run
from detection.common.categories import Categories
from detection.common.evenly_spread import evenly_spread
from detection.config_file import load_config
from detection.data.image_search import find_images
from detection.data.images import read_image
from detection.detector import Detector
from detection.experiment.datasets import open_split
from detection.experiment.model_files import Trained, TrainedDetector, load_detector, save_detector
from detection.experiment.stored_configuration import change_stored_config
from detection.export import exporting, runtime
from detection.export.exporting import Precision, export_detector

FORMS: dict[str, tuple[str, Precision]] = {
    "ONNX": ("detector.onnx", "fp32"),
    "ONNX fp16": ("half.onnx", "fp16"),
    "ONNX int8": ("int8.onnx", "int8"),
    "OpenVINO": ("detector.xml", "fp32"),
    "OpenVINO int8": ("int8.xml", "int8"),
}
THREADS = (1, 2)
_RANDOM = ("ONNX", "ONNX int8", "OpenVINO")  # of a preset with random weights
_RANDOM_IMAGES = 16  # that the last two of these are verified on, at most: each takes the large networks seconds
_CALIBRATION = 50  # images
_TIMED = 4  # images
_PYTORCH = "PyTorch"
_DIFFERENCES = ("detector", "form", "images", "detections", "box, px", "score", "alike", "AP: detector", "file", "MB")


@dataclasses.dataclass(frozen=True)
class Subject:
    """A detector to export, and its images.

    Attributes:
        images: to verify on; empty: those of its test split.
        calibration, timed: files of images.
        changes: to its configuration.
    """

    name: str
    weights: Path
    images: list[Path]
    calibration: list[Path]
    timed: list[Path]
    changes: list[str]
    forms: Sequence[str] = tuple(FORMS)


def main() -> int:
    options = _arguments().parse_args()
    folder = options.folder
    subjects = [trained_subject(path, options.set) for path in options.weights]
    if options.random:
        if options.photographs is None:
            raise UserError("detectors of random weights are verified on photographs: name a folder (--photographs)")
        subjects += [random_subject(preset, folder, options.photographs) for preset in options.random]
    if not subjects:
        raise UserError("name detectors (--weights), or presets (--random)")
    found = {}
    for one in subjects:
        with converted_once():
            found[one.name] = export_forms(one, folder, options.forms, options.images or None)
    if options.only_files:
        return 0
    times = {one.name: timings(one, found[one.name], folder, options.repeats) for one in subjects}
    tables = [differences_table(found), times_table(times)]
    packages = ("onnx", "onnxscript", "onnxruntime", "openvino")
    about = environment("export", packages=packages)
    write_comparison(options.output, "Exported detectors", about, tables, times, {"files": found})
    return 0


def trained_subject(weights: Path, changes: Sequence[str]) -> Subject:
    """A trained detector, with the images of its own data set."""
    trained = load_detector(weights)
    config = change_stored_config(trained.config, weights, changes)
    training, test = open_split(config.data, "train"), open_split(config.data, "test")
    calibration = [training.path(i) for i in evenly_spread(len(training), _CALIBRATION)]
    return Subject(
        config.name, weights, [], calibration, [test.path(i) for i in evenly_spread(len(test), _TIMED)], list(changes)
    )


def random_subject(preset: str, folder: Path, photographs: Path) -> Subject:
    """A ResNeXt-50 of a preset of `configs/` with random weights of a fixed seed, for 80 classes."""
    path = folder / f"{preset}.pt"
    config = load_config(ROOT / f"configs/{preset}/resnext50_32x4d.yaml")
    if not path.exists():
        scene = make_scene(config, (608, 800), torch.device("cpu"))
        names = Categories(tuple(range(1, CLASSES + 1)), tuple(f"class {number}" for number in range(1, CLASSES + 1)))
        save_detector(path, TrainedDetector(Trained(scene.rpn, config, names), Trained(scene.fast_rcnn, config, names)))
    images = find_images([photographs])
    calibration, timed = ([images[i] for i in evenly_spread(len(images), count)] for count in (4, 1))
    return Subject(f"{preset}, random weights", path, [photographs], calibration, timed, [], _RANDOM)


def export_forms(subject: Subject, folder: Path, forms: Sequence[str], limit: int | None) -> dict[str, dict[str, Any]]:
    """Each form of the detector: its file, bytes, verification and, of int8, what is quantised; or the "error"."""
    own = folder / subject.name.replace(", ", "_").replace(" ", "_")
    digest = sha256_of(subject.weights)
    found: dict[str, dict[str, Any]] = {}
    for form in [form for form in subject.forms if form in forms]:
        name, precision = FORMS[form]
        is_slow = subject.forms == _RANDOM and form != "ONNX"
        most = min(limit or _RANDOM_IMAGES, _RANDOM_IMAGES) if is_slow else limit
        source = {"sha256": digest, "limit": most}
        output, note = own / name, own / f"{name}.json"
        known = json.loads(note.read_text(encoding="utf-8")) if note.exists() else {}
        if known.get("source") != source:
            known = {"source": source, **_exported(subject, output, precision, most)}
            write_text(note, json.dumps(known))
        print(f"{subject.name}, {form}: {known.get('error', 'verified')}", flush=True)
        found[form] = known
    return found


@contextlib.contextmanager
def converted_once() -> Iterator[None]:
    """Context in which the forms of one detector share its conversions to ONNX, which take the most time."""
    convert, kept = exporting.onnx_model, {}

    def from_kept(module: Any) -> Any:
        own = module.batch_detector
        head = own.network.fast_rcnn.box_head
        key = next(own.network.parameters()).dtype, head.kernels.region_features, own.float64
        if key not in kept:
            kept[key] = convert(module)
        return kept[key]

    exporting.onnx_model = from_kept
    try:
        yield
    finally:
        exporting.onnx_model = convert


def _exported(subject: Subject, output: Path, precision: Precision, limit: int | None) -> dict[str, Any]:
    begin = time.perf_counter()
    try:
        export_detector(
            subject.weights,
            output,
            precision=precision,
            calibration=subject.calibration if precision == "int8" else (),
            max_loss=math.inf if subject.images and precision != "fp32" else None,
            images=subject.images,
            limit=limit,
            changes=subject.changes,
        )
    except UserError as error:
        return {"error": str(error)}
    metadata = runtime.Detector.load(output, "cpu").metadata
    parts = [output, *([output.with_suffix(".bin")] if output.suffix == ".xml" else [])]
    return {
        "file": f"{output.parent.name}/{output.name}",
        "bytes": sum(part.stat().st_size for part in parts),
        "verification": metadata["verification"],
        "quantization": metadata.get("quantization"),
        "seconds": time.perf_counter() - begin,
    }


def timings(subject: Subject, forms: dict[str, dict[str, Any]], folder: Path, repeats: int) -> dict[str, Timing]:
    """Seconds for an image, by "form, threads", measured in turns."""
    images = [read_image(path) for path in subject.timed]
    functions: dict[str, Callable[[], object]] = {}
    for threads in THREADS:
        reference = Detector.load(subject.weights, "cpu", changes=["runtime.precision=fp32", *subject.changes])
        functions[f"{_PYTORCH}, {threads}"] = lambda one=reference, number=threads: _with_threads(one, images, number)
        for form, known in forms.items():
            if "file" in known:
                detector = runtime.Detector.load(folder / known["file"], "cpu", threads=threads)
                functions[f"{form}, {threads}"] = lambda one=detector: one(images)
    taken = interleaved(functions, repeats)
    return {
        name: Timing(tuple(each / len(images) for each in timing.rounds), timing.first)
        for name, timing in taken.items()
    }


def _with_threads(detector: Detector, images: list[np.ndarray], number: int) -> object:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        return detector(images)
    finally:
        torch.set_num_threads(before)


def differences_table(found: dict[str, dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """A row for each file: how far its detections differ from the detector's."""
    rows = []
    for name, forms in found.items():
        for form, known in forms.items():
            if "error" in known:
                rows.append([name, form, re.split(r"; | \(", known["error"])[0], *[""] * (len(_DIFFERENCES) - 3)])
                continue
            one, left_out = known["verification"], (known["quantization"] or {}).get("left_out")
            rows.append(
                [
                    name,
                    f"{form}, without {', '.join(left_out)}" if left_out else form,
                    str(one["images"]) + (f" ({one['undecided']} undecided)" if one["undecided"] else ""),
                    str(one["detections"]),
                    f"{one['box_difference']:.2g}",
                    f"{one['score_difference']:.2g}",
                    "all" if one["matched"] is None else f"{one['matched']:.1%}",
                    *_average_precisions(one),
                    f"{known['bytes'] / 1e6:.1f}",
                ]
            )
    return table("What the files detect beside the detector", _DIFFERENCES, rows)


def _average_precisions(one: dict[str, Any]) -> list[str]:
    if one["average_precision"] is None or one["truth"] != "annotations":
        return ["—", "—"]
    return [f"{one['average_precision'][who]:.4f}" for who in ("detector", "file")]


def times_table(times: dict[str, dict[str, Timing]]) -> dict[str, Any]:
    """A row for each detector and number of threads."""
    columns = [_PYTORCH, *FORMS]
    rows = []
    for name, own in times.items():
        for threads in THREADS:
            base = own[f"{_PYTORCH}, {threads}"]
            cells = []
            for column in columns:
                timing = own.get(f"{column}, {threads}")
                ratio = "" if timing is None or timing is base else f" ({timing.ratio_to(base):.2f})"
                cells.append("—" if timing is None else seconds(timing.median) + ratio)
            rows.append([name, str(threads), *cells])
    return table("Time for an image (and its ratio to PyTorch's)", ["detector", "threads", *columns], rows)


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, nargs="+", default=[], metavar="FILE", help="detector.pt")
    parser.add_argument("--set", nargs="+", default=[], metavar="key.sub=value", help="changes to their configurations")
    parser.add_argument(
        "--random", nargs="+", default=[], metavar="PRESET", help="folders of configs/: paper, modern …"
    )
    parser.add_argument("--photographs", type=Path, metavar="DIR", help="images for the presets")
    parser.add_argument("--images", type=int, default=100, help="to verify on, at most; 0: all (default: 100)")
    parser.add_argument("--forms", nargs="+", choices=list(FORMS), default=list(FORMS), help="default: all")
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "export", help="of the files")
    parser.add_argument("--only-files", action="store_true", help="export, and measure no time")
    parser.add_argument("--repeats", type=int, default=5, help="rounds (default: 5)")
    parser.add_argument("--output", type=Path, default=RESULTS / "export.json")
    return parser


if __name__ == "__main__":
    sys.exit(run(main))
