"""The detector as a module → an ONNX model of standard operators, and the same with metadata as the bytes of a file.

Two operators of torchvision need a translation of ours: NMS of several sets at once (`detection.export.suppression`),
and RoI max-pooling, whose translation in onnxscript has other arguments than the operator.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch

from backbones.common.errors import UserError
from detection.export.layers import name_nodes
from detection.export.network import BatchDetector, ImageDetector
from detection.export.runtime import seal

if TYPE_CHECKING:
    import onnx

OPSET = 20  # of ONNX 1.15, which onnxruntime reads from 1.17 on; the translations below are in its operators
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
LONGEST_SIDE = 32_768  # pixels of an image

_OUTPUTS = {ImageDetector: ("boxes", "scores", "labels"), BatchDetector: ("boxes", "scores", "labels", "counts")}


def require_packages() -> None:
    """Raises a UserError, with the command that installs them, if packages that the export needs are missing."""
    missing = []
    for name in PACKAGES:
        try:
            importlib.import_module(name)
        except ImportError:
            missing.append(name)
    if missing:
        raise UserError(
            f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed, which the export to ONNX "
            f"needs; run: pip install {' '.join(PACKAGES)}"
        )


def exported_program(module: ImageDetector | BatchDetector) -> torch.export.ExportedProgram:
    """The module as torch.export's program, for images of any size."""
    sides = {axis: torch.export.Dim(name, min=1, max=LONGEST_SIDE) for axis, name in enumerate(("height", "width"))}
    image = torch.zeros((200, 300, 3), dtype=torch.uint8)
    arguments: tuple[torch.Tensor, ...]
    if isinstance(module, ImageDetector):
        arguments, shapes = (image,), ({0: sides[0], 1: sides[1]},)
    else:
        number = torch.export.Dim("images", min=1, max=65_536)
        arguments = torch.stack([image] * 2), torch.tensor([[200, 300], [150, 200]])
        shapes = ({0: number, 1: sides[0], 2: sides[1]}, {0: number})  # type: ignore[assignment]
    with torch.no_grad(), _quiet():
        return torch.export.export(module.eval(), arguments, dynamic_shapes=shapes, strict=False)


def onnx_model(module: ImageDetector | BatchDetector) -> onnx.ModelProto:
    """The module, whose form of NMS must be `onnx_nms`, as an ONNX model.

    Raises:
        UserError: a package is missing.
    """
    require_packages()
    program = exported_program(module)
    with torch.no_grad(), _quiet():
        exported = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            input_names=["image"] if isinstance(module, ImageDetector) else ["images", "sizes"],
            output_names=list(_OUTPUTS[type(module)]),
            custom_translation_table=_translations(),
            verbose=False,
        )
    assert exported is not None
    model = exported.model_proto
    _require_standard_operators(model)
    name_nodes(model)
    return model


def onnx_file(model: onnx.ModelProto, metadata: Mapping[str, str]) -> bytes:
    """The model with this metadata as the bytes of a file, the last of which are a checksum of the others."""
    import onnx

    del model.metadata_props[:]
    onnx.helper.set_model_props(model, dict(metadata))
    return seal(model.SerializeToString())


def _translations() -> dict[Any, Any]:
    import onnxscript

    op: Any = onnxscript.opset20

    def nms(boxes: Any, scores: Any, iou: float, min_score: float, limit: int) -> Any:
        one_class = op.Unsqueeze(scores, op.Constant(value_ints=[1]))
        selected = op.NonMaxSuppression(
            boxes,
            one_class,
            op.Constant(value_int=limit),
            op.Constant(value_float=iou),
            op.Constant(value_float=min_score),
        )
        return op.Gather(selected, op.Constant(value_ints=[0, 2]), axis=1)  # set, class, box

    def roi_pool(features: Any, rois: Any, spatial_scale: float, pooled_height: int, pooled_width: int) -> Any:
        pooled = op.MaxRoiPool(features, rois, pooled_shape=(pooled_height, pooled_width), spatial_scale=spatial_scale)
        return pooled, pooled  # the second is for the gradient, and not used

    return {torch.ops.resnext_detection.nms.default: nms, torch.ops.torchvision.roi_pool.default: roi_pool}


def _require_standard_operators(model: onnx.ModelProto) -> None:
    others = {f"{node.domain}.{node.op_type}" for node in model.graph.node if node.domain not in ("", "ai.onnx")}
    if others or model.functions:
        raise RuntimeError(f"the exporter left operators that are not ONNX's own: {sorted(others)}")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Context without the exporter's notes, none of which is for the user of this project."""
    notes = errors_only("torch.onnx", "torch.export", "onnxscript", "onnx_ir")
    with notes, warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def errors_only(*names: str | None) -> Iterator[None]:
    """Context in which these loggers (None: the root) tell errors only."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
