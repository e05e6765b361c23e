"""The nodes of an exported ONNX model → the networks' layers among them, by the module that each comes from.

The exporter notes with each node the modules that it was computed in. `name_nodes` makes them the node's name, such as
"fast_rcnn.trunk.layer2.0.conv3/Conv", which graph viewers show and which the reduced forms choose layers by. All else
(resize, anchors, decoding, suppression, pooling of regions) has names, but belongs to no group.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

_SCOPES = "pkg.torch.onnx.name_scopes"
_NETWORK = "network."  # the attribute of the exported modules that has both networks

_GROUPS = (  # the module, as a pattern → the name of its group
    (r"(rpn\.backbone|fast_rcnn\.trunk)(?:\.backbone)?\.(layer\d)\b.*", r"\1.\2"),
    (r"(rpn\.backbone|fast_rcnn\.trunk)(?:\.backbone)?(?:\.(?:conv1|bn1|relu|maxpool|stem)\b.*)?", r"\1.stem"),
    (r"(rpn\.backbone|fast_rcnn\.trunk)\..*", r"\1.pyramid"),
    (r"rpn\.head\.(?:objectness|box)", "rpn.outputs"),
    (r"rpn\.head.*", "rpn.head"),
    (r"fast_rcnn\.box_head\..*", "fast_rcnn.box_head"),
    (r"fast_rcnn\.(?:class_logits|box_targets)", "fast_rcnn.outputs"),
)


def name_nodes(model: onnx.ModelProto) -> None:
    """Gives each node the name of its module and operator, numbered where several have the same, and takes away the
    exporter's notes, which have names of this machine's files."""
    weights = {one.name for one in model.graph.initializer}
    names: Counter[str] = Counter()
    for node in model.graph.node:
        name = f"{_module_of(node, weights)}/{node.op_type}"
        names[name] += 1
        node.name = name if names[name] == 1 else f"{name}_{names[name]}"
        del node.metadata_props[:]
        node.doc_string = ""


def layer_groups(model: onnx.ModelProto, operators: Collection[str]) -> dict[str, list[str]]:
    """The names of the nodes of these operators in each group of layers: the stem and each stage of both backbones,
    their pyramids, the heads, and the output layers. Groups are in the order of the graph."""
    groups: dict[str, list[str]] = {}
    for node in model.graph.node:
        module = node.name.partition("/")[0]
        group = next(
            (re.sub(pattern, name, module) for pattern, name in _GROUPS if re.fullmatch(pattern, module)), None
        )
        if group is not None and node.op_type in operators:
            groups.setdefault(group, []).append(node.name)
    return groups


def _module_of(node: onnx.NodeProto, weights: Collection[str]) -> str:
    """The module within the networks, such as "rpn.head.conv"; "" outside of them. Layers with weights are known by
    these: the exporter's notes are lost where it merges two nodes."""
    own = [name.rpartition(".")[0] for name in node.input if name in weights]
    noted = [note.value for note in node.metadata_props if note.key == _SCOPES]
    places = [*own, *(scope for scopes in noted for scope in reversed(ast.literal_eval(scopes)[:-1]))]
    return next((place.partition(_NETWORK)[2] for place in places if _NETWORK in place), "")
