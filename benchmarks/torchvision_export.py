"""What torchvision's own Faster R-CNN does when it is exported: `fasterrcnn_resnet50_fpn`, by the ways PyTorch has.

    python -m benchmarks.torchvision_export

Its weights are random, of a fixed seed, and its input is one image in a list, as it is called. A file that is written
runs on images of other sizes than the one that it was traced with, beside the model itself. What fails is told in the
words of the error.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from benchmarks.common import RESULTS, environment, markdown, table, write_result
from detection.command_line import run
from detection.export.runtime import require_onnxruntime

TRACED = (240, 320)
OTHERS = ((320, 240), (200, 400), (97, 131))
_LIKE = (0.5, 1e-3)  # pixels and score of detections that count as the same

# An exported file: an image (3, H, W) → boxes, labels, scores.
Exported = Callable[[Tensor], Sequence[Tensor]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=RESULTS / "torchvision_export.json")
    options = parser.parse_args()
    found = table(f"torchvision {torchvision.__version__}'s fasterrcnn_resnet50_fpn", columns(), outcomes())
    print(markdown(found))
    about = environment("torchvision_export", packages=("onnx", "onnxscript", "onnxruntime"))
    write_result(options.output, {"title": "torchvision's exports", "environment": about, "tables": [found]})
    print(f"\n{options.output}")
    return 0


def columns() -> list[str]:
    """Of the table."""
    sizes = ", ".join("×".join(map(str, size)) for size in OTHERS)
    return ["way", "export", f"the image traced, {'×'.join(map(str, TRACED))}", f"other sizes: {sizes}"]


def outcomes() -> list[list[str]]:
    """A row for each way of exporting: what came of it."""
    torch.manual_seed(0)
    model = torchvision.models.detection.fasterrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, box_score_thresh=0.0, box_detections_per_img=20
    ).eval()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for what, export in WAYS.items():
            rows.append([what, *outcome(model, lambda one=export: one(model, Path(folder)))])  # type: ignore[misc]
    return rows


def outcome(model: nn.Module, export: Callable[[], Exported]) -> list[str]:
    """What came of an export, of the file with the image that was traced, and with images of other sizes."""
    with _quiet():
        try:
            exported = export()
        except Exception as error:  # what fails is the result
            return [_in_words(error), "—", "—"]
        return ["written", *(_same(model, exported, sizes) for sizes in ([TRACED], OTHERS))]


def _same(model: nn.Module, exported: Exported, sizes: Sequence[tuple[int, int]]) -> str:
    outcomes = []
    for size in sizes:
        image = _image(size)
        with torch.no_grad():
            (expected,) = model([image])
        try:
            boxes, _, scores = exported(image)
        except Exception as error:
            outcomes.append(_in_words(error))
            continue
        if len(scores) != len(expected["scores"]):
            outcomes.append(f"{len(scores)} detections instead of {len(expected['scores'])}")
            continue
        differences = (boxes - expected["boxes"]).abs().amax().item(), (scores - expected["scores"]).abs().max().item()
        same = all(difference <= limit for difference, limit in zip(differences, _LIKE, strict=True))
        outcomes.append("the same" if same else f"other boxes, by up to {differences[0]:.0f} px")
    return "; ".join(dict.fromkeys(outcomes))


def _image(size: tuple[int, int]) -> Tensor:
    return torch.rand((3, *size), generator=torch.Generator().manual_seed(sum(size)))


def _onnx(model: nn.Module, folder: Path, **options: Any) -> Exported:
    onnxruntime = require_onnxruntime()
    path = folder / "model.onnx"
    torch.onnx.export(model, ([_image(TRACED)],), path, input_names=["image"], **options)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda image: [torch.from_numpy(one) for one in session.run(None, {name: image.numpy()})]


def _pt2(model: nn.Module, folder: Path, **options: Any) -> Exported:
    path = folder / "model.pt2"
    torch.export.save(torch.export.export(model, ([_image(TRACED)],), **options), path)
    module = torch.export.load(path).module()

    def exported(image: Tensor) -> Sequence[Tensor]:
        (found,) = module([image])
        return found["boxes"], found["labels"], found["scores"]

    return exported


def _dynamic() -> Any:
    return (([{1: torch.export.Dim("height", min=64, max=1333), 2: torch.export.Dim("width", min=64, max=1333)}],),)


WAYS: dict[str, Callable[[nn.Module, Path], Exported]] = {
    "torch.onnx.export, dynamo=True": lambda model, folder: _onnx(model, folder, dynamo=True),
    "the same, sizes dynamic": lambda model, folder: _onnx(model, folder, dynamo=True, dynamic_shapes=_dynamic()[0]),
    "torch.onnx.export, dynamo=False (deprecated)": lambda model, folder: _onnx(
        model, folder, dynamo=False, opset_version=17, dynamic_axes={"image": {1: "height", 2: "width"}}
    ),
    "torch.export to .pt2": lambda model, folder: _pt2(model, folder, strict=False),
    "the same, dynamic sizes": lambda model, folder: _pt2(model, folder, strict=False, dynamic_shapes=_dynamic()[0]),
}


def _in_words(error: Exception) -> str:
    """The class of an error and its first line, and that of its cause."""
    causes = [error]
    while (cause := causes[-1].__cause__) is not None and isinstance(cause, Exception):
        causes.append(cause)
    deepest = causes[-1]
    line = next((line for line in str(deepest).splitlines() if line.strip()), "")
    return f"{type(deepest).__name__}: {line.strip()[:160]}".replace("|", "/")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


if __name__ == "__main__":
    sys.exit(run(main))
