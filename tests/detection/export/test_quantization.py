"""int8: which layers, which weights, and what is left out."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import pytest

from backbones.common.errors import UserError

onnx = pytest.importorskip("onnx", reason="ONNX MISSING: nothing was quantised")
onnxruntime = pytest.importorskip("onnxruntime", reason="ONNXRUNTIME MISSING: nothing was quantised")

from detection.export.layers import layer_groups, name_nodes  # noqa: E402
from detection.export.quantization import Quantization, quantize  # noqa: E402

GROUPS = {"rpn.backbone.stem": 2, "fast_rcnn.trunk.layer1": 3, "rpn.outputs": 1}


def model() -> onnx.ModelProto:
    """Image uint8 (H, W, 3) → a map: a stem, a residual layer, an output layer, and an addition outside of them."""
    random = np.random.default_rng(0)
    network, outside = "batch_detector.network", "batch_detector"

    def weight(name: str, *shape: int) -> onnx.TensorProto:
        return onnx.numpy_helper.from_array(random.normal(size=shape).astype(np.float32), name)

    def node(operator: str, inputs: list[str], output: str, module: str, **attributes: object) -> onnx.NodeProto:
        own = onnx.helper.make_node(operator, inputs, [output], name=f"node_{output}", **attributes)
        own.metadata_props.add(key="pkg.torch.onnx.name_scopes", value=str(["", outside, module, f"op_{output}"]))
        own.doc_string = "/home/somebody/secret.py"
        return own

    layer = f"{network}.fast_rcnn.trunk.layer1.0"
    nodes = [
        node("Cast", ["image"], "floats", outside, to=onnx.TensorProto.FLOAT),
        node("Transpose", ["floats"], "planes", outside, perm=[2, 0, 1]),
        node("Unsqueeze", ["planes", "zero"], "batch", outside),
        node("Conv", ["batch", f"{network}.rpn.backbone.conv1.weight"], "stem", outside),
        node("Relu", ["stem"], "positive", f"{network}.rpn.backbone"),
        node("Conv", ["positive", f"{layer}.conv1.weight"], "inner", outside),
        node("Add", ["inner", "positive"], "sum", layer),
        node("Relu", ["sum"], "block", layer),
        node("Conv", ["block", f"{network}.rpn.head.box.weight"], "box", outside),
        node("Add", ["box", "offset"], "result", f"{network}.rpn.anchors"),
    ]
    weights = [
        weight(f"{network}.rpn.backbone.conv1.weight", 8, 3, 1, 1),
        weight(f"{layer}.conv1.weight", 8, 8, 1, 1),
        weight(f"{network}.rpn.head.box.weight", 4, 8, 1, 1),
        weight("offset", 1),
        onnx.numpy_helper.from_array(np.array([0], np.int64), "zero"),
    ]
    image = onnx.helper.make_tensor_value_info("image", onnx.TensorProto.UINT8, ["height", "width", 3])
    result = onnx.helper.make_tensor_value_info("result", onnx.TensorProto.FLOAT, [1, 4, "height", "width"])
    graph = onnx.helper.make_graph(nodes, "detector", [image], [result], weights)
    own = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=9)
    name_nodes(own)
    return onnx.shape_inference.infer_shapes(own)


def inputs(count: int = 3) -> Iterator[dict[str, np.ndarray]]:
    random = np.random.default_rng(1)
    return ({"image": random.integers(0, 256, (5 + number, 6, 3), dtype=np.uint8)} for number in range(count))


def run(one: onnx.ModelProto) -> np.ndarray:
    session = onnxruntime.InferenceSession(one.SerializeToString(), providers=["CPUExecutionProvider"])
    found: np.ndarray = session.run(None, next(inputs()))[0]
    return found


def test_onnxruntime_reports_to_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    quantize(model(), inputs(), lambda one, what: 0.0, 0.01)
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"


def test_nodes_are_named_by_their_modules_and_keep_no_names_of_files() -> None:
    own = model()
    names = [node.name for node in own.graph.node]
    assert "rpn.backbone.conv1/Conv" in names
    assert "fast_rcnn.trunk.layer1.0/Add" in names
    assert len(set(names)) == len(names)
    assert b"secret" not in own.SerializeToString()
    groups = layer_groups(own, ("Conv", "Relu", "Add"))
    assert {name: len(nodes) for name, nodes in groups.items()} == GROUPS


def test_all_layers_are_in_int8_if_they_lose_little() -> None:
    trials = []

    def loss(one: onnx.ModelProto, what: str) -> float:
        trials.append(what)
        return 0.003

    found, done = quantize(model(), inputs(), loss, 0.01)
    assert trials == ["all layers in int8"]
    assert done == Quantization(3, list(GROUPS))
    assert "3 of 3 groups of layers, calibrated on 3 images" in done.summary()
    exact, rounded = run(model()), run(found)
    assert 0 < np.abs(rounded - exact).max() < 0.05 * np.abs(exact).max()
    outside = next(node for node in found.graph.node if node.name == "rpn.anchors/Add")
    assert outside.output[0] == "result"
    assert "offset" in outside.input


def test_weights_have_seven_bits_so_that_sums_of_two_products_fit_into_sixteen() -> None:
    """As x86 without VNNI adds them: uint8 times int8, twice, with saturation."""
    found, _ = quantize(model(), inputs(), lambda one, what: 0.0, 0.01)
    weights = [
        onnx.numpy_helper.to_array(one)
        for one in found.graph.initializer
        if one.data_type == onnx.TensorProto.INT8 and one.name.endswith("quantized")
    ]
    assert len(weights) == 3
    for one in weights:
        assert (np.abs(one.astype(int)).reshape(len(one), -1).max(axis=1) >= 63).all()  # a scale for each channel
        assert 2 * 255 * np.abs(one.astype(int)).max() <= 2**15 - 1


def in_int8(one: onnx.ModelProto) -> set[str]:
    """The groups whose convolutions have quantised weights."""
    quantised = {node.output[0] for node in one.graph.node if node.op_type == "DequantizeLinear"}
    groups = layer_groups(one, ("Conv",))
    nodes = {node.name: node for node in one.graph.node}
    return {name for name, own in groups.items() if all(nodes[each].input[1] in quantised for each in own)}


def test_groups_that_cost_are_left_out_in_the_order_of_their_losses() -> None:
    costs = {"rpn.outputs": 0.02, "fast_rcnn.trunk.layer1": 0.006, "rpn.backbone.stem": 0.005}
    found, done = quantize(model(), inputs(), lambda one, what: sum(costs[group] for group in in_int8(one)), 0.012)
    assert done.left_out == ["rpn.outputs"]
    assert done.groups == ["rpn.backbone.stem", "fast_rcnn.trunk.layer1"]
    assert done.losses == costs
    assert in_int8(found) == set(done.groups)
    assert "left in fp32, for what they cost: rpn.outputs (+0.0200 AP alone)" in done.summary()
    _, done = quantize(model(), inputs(), lambda one, what: sum(costs[group] for group in in_int8(one)), 0.0055)
    assert done.left_out == ["rpn.outputs", "fast_rcnn.trunk.layer1"]


def test_if_every_group_costs_too_much_it_says_what_to_do() -> None:
    with pytest.raises(UserError, match=r"each group of layers alone loses more AP in int8 than 0\.01; .*--half"):
        quantize(model(), inputs(), lambda one, what: 0.5, 0.01)


def test_without_an_image_to_calibrate_on_it_says_so() -> None:
    with pytest.raises(UserError, match="no calibration image that can be read"):
        quantize(model(), inputs(0), lambda one, what: 0.0, 0.01)
