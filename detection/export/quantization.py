"""An ONNX model and calibration images → the model with its layers in int8, but for groups of layers that cost AP.

onnxruntime's static quantisation, in its form of QuantizeLinear and DequantizeLinear pairs: activations uint8 with the
range that they have in the calibration images, weights int8 with a scale for each output channel.

Weights are limited to 7 bits, ±64. x86 processors without VNNI add two products of uint8 and int8 in 16 bits with
saturation (VPMADDUBSW): 2 · 255 · 64 fits into them, 2 · 255 · 128 does not, and the file would detect something else
there than on the machine that verified it.

Source: onnxruntime's documentation, "Quantize ONNX models", on reduce_range and U8S8.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from backbones.common.errors import UserError
from detection.export.layers import layer_groups
from detection.export.onnx_program import errors_only
from detection.export.runtime import require_onnxruntime

if TYPE_CHECKING:
    import onnx

logger = logging.getLogger(__name__)

WEIGHT_BITS = 7
_OPERATORS = ("Conv", "Gemm", "MatMul", "Relu", "Add", "MaxPool")

# A model, and what it is in words → the AP that it loses.
Loss = Callable[["onnx.ModelProto", str], float]


@dataclass
class Quantization:
    """What was quantised.

    Attributes:
        calibration: number of images.
        groups: of layers, those in int8.
        left_out: groups that stay in fp32, in the order in which they were left out.
        losses: AP that each group loses if it alone is in int8; empty if all of them together lose little enough.
    """

    calibration: int = 0
    groups: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    losses: dict[str, float] = field(default_factory=dict)
    weight_bits: int = WEIGHT_BITS

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    def summary(self) -> str:
        """In words, of a line or more."""
        text = (
            f"int8: {len(self.groups)} of {len(self.groups) + len(self.left_out)} groups of layers, calibrated on "
            f"{self.calibration} images; weights of {self.weight_bits} bits, so that processors without VNNI compute "
            "the same"
        )
        if self.left_out:
            costs = ", ".join(f"{name} ({self.losses[name]:+.4f} AP alone)" for name in self.left_out)
            text += f"\nleft in fp32, for what they cost: {costs}"
        return text


def quantize(
    model: onnx.ModelProto, inputs: Iterable[Mapping[str, np.ndarray]], loss: Loss, max_loss: float
) -> tuple[onnx.ModelProto, Quantization]:
    """The model in int8, and what was quantised.

    If all groups of layers together lose more AP than allowed, each is measured alone, and they are left out in the
    order of their losses until the others together lose little enough.

    Args:
        inputs: the model's inputs for each calibration image.
        loss: measures the AP that a model loses.
        max_loss: of AP.

    Raises:
        UserError: there is no input, or each group alone loses more.
    """
    groups = _layers(model)
    with _quiet():
        ranges, count = _calibrated(model, inputs)
    result = Quantization(count, list(groups))

    def in_int8(names: Iterable[str], what: str) -> tuple[onnx.ModelProto, float]:
        with _quiet():
            candidate = _quantized(model, [node for name in names for node in groups[name]], ranges)
        return candidate, loss(candidate, what)

    candidate, lost = in_int8(result.groups, "all layers in int8")
    if not lost <= max_loss:
        result.losses = {name: in_int8([name], f"int8: {name}")[1] for name in groups}
        costly = sorted(groups, key=lambda name: -result.losses[name])
        while not lost <= max_loss:
            result.left_out.append(costly[len(result.left_out)])
            result.groups = [name for name in groups if name not in result.left_out]
            if not result.groups:
                raise UserError(
                    f"nothing is written: each group of layers alone loses more AP in int8 than {max_loss:g}; allow "
                    "more (--max-loss), calibrate on other images (--calibrate), or export with --half"
                )
            candidate, lost = in_int8(result.groups, f"int8 without {', '.join(result.left_out)}")
    return candidate, result


def _layers(model: onnx.ModelProto) -> dict[str, list[str]]:
    """The nodes of each group. An addition is one of the residual connections, not that of a normalisation's shift."""
    constants = {one.name for one in model.graph.initializer}
    shifts = {node.name for node in model.graph.node if node.op_type == "Add" and constants & set(node.input)}
    groups = layer_groups(model, _OPERATORS)
    return {name: [node for node in nodes if node not in shifts] for name, nodes in groups.items()}


def _calibrated(model: onnx.ModelProto, inputs: Iterable[Mapping[str, np.ndarray]]) -> tuple[Any, int]:
    """The range of each tensor that can be quantised, and the number of images."""
    require_onnxruntime()
    from onnxruntime.quantization import CalibrationMethod, create_calibrator

    reader = _Reader(inputs)
    with tempfile.TemporaryDirectory() as folder:
        import onnx

        path = Path(folder) / "model.onnx"
        onnx.save(model, path)
        calibrator = create_calibrator(
            path,
            list(_OPERATORS),
            augmented_model_path=str(Path(folder) / "augmented.onnx"),
            calibrate_method=CalibrationMethod.MinMax,
        )
        try:
            calibrator.collect_data(reader)
        except ValueError:
            if reader.count:
                raise
            raise UserError("there is no calibration image that can be read (--calibrate)") from None
        ranges = calibrator.compute_data()
        del calibrator  # it keeps a file of the folder open
    return ranges, reader.count


class _Reader:
    """Inputs as onnxruntime's calibration takes them."""

    def __init__(self, inputs: Iterable[Mapping[str, np.ndarray]]) -> None:
        self._inputs = iter(inputs)
        self.count = 0

    def get_next(self) -> Mapping[str, np.ndarray] | None:
        found = next(self._inputs, None)
        self.count += found is not None
        return found


def _quantized(model: onnx.ModelProto, nodes: list[str], ranges: Any) -> onnx.ModelProto:
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    quantizer = QDQQuantizer(
        copy.deepcopy(model),
        per_channel=True,
        reduce_range=True,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=ranges,
        nodes_to_quantize=nodes,
        nodes_to_exclude=[],
        op_types_to_quantize=list(_OPERATORS),
        extra_options={},
    )
    quantizer.quantize_model()
    found: onnx.ModelProto = quantizer.model.model
    return found


def _quiet() -> contextlib.AbstractContextManager[None]:
    """Context without onnxruntime's notes on the root logger."""
    return errors_only(None)
