"""`init_from`: the weights of a trained detector → the initial weights of a network, also for other classes or anchors.

Everything but the last layers must be of the same structure. Of the Fast R-CNN's two output layers, the rows of the
background and of the classes that both have, by name, are kept, and the others start anew. The RPN's output layers know
no classes; they are kept unless the number of anchors at a position differs.

Shapes: K classes, a anchors at a position.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from backbones.common.errors import UserError
from backbones.common.files import sha256_of, user_path
from detection import config as settings
from detection.experiment.agreement import BACKBONE_KEYS, differences
from detection.experiment.model_files import Categories, load_fast_rcnn, load_rpn
from detection.networks.fast_rcnn import FastRCNN
from detection.networks.rpn import RPN
from detection.training.distributed import on_main

logger = logging.getLogger(__name__)

_HEAD = tuple(
    f"fast_rcnn.{key}" for key in ("box_head", "box_head_width", "box_head_channels", "pooled_size", "cascade")
)
_ANCHORS = ("rpn.anchor_sizes", "rpn.anchor_ratios")
_RPN_OUTPUTS = ("head.objectness.weight", "head.objectness.bias", "head.box.weight", "head.box.bias")
_SHOWN = 12  # classes that the log lists


def initialise_rpn(network: RPN, config: settings.Config) -> None:
    """Gives the network the weights of the RPN in `config.init_from`, and logs which; nothing without that file.

    Raises:
        UserError: the file holds no RPN, or one of another structure; the keys that differ are named.
    """
    if config.init_from is None:
        return
    path = user_path(config.init_from)
    theirs = load_rpn(path)
    state = theirs.network.state_dict()
    is_alike = state[_RPN_OUTPUTS[0]].shape == network.head.objectness.weight.shape
    anew = "" if is_alike else "its output layers start anew"
    kept = {name: value for name, value in state.items() if not anew or name not in _RPN_OUTPUTS}
    _load(network, kept, _RPN_OUTPUTS if anew else (), theirs.config, config, (*BACKBONE_KEYS, "rpn.channels"), path)
    network.backbone.input_format = theirs.network.backbone.input_format
    _set_provenance(network.backbone.provenance, path)
    anchors = differences(theirs.config, config, _ANCHORS, "there", "now")
    lines = [part for part in (anew, f"its anchors were others: {anchors}" if anchors else "") if part]
    _log(path, "the RPN", "; ".join(lines) or "all weights are kept", config)


def initialise_fast_rcnn(network: FastRCNN, categories: Categories, config: settings.Config) -> None:
    """Gives the network, which has the classes `categories`, the weights of the Fast R-CNN in `config.init_from`, and
    logs which classes are kept; nothing without that file.

    Raises:
        UserError: the file holds no Fast R-CNN, or one of another structure; the keys that differ are named.
    """
    if config.init_from is None:
        return
    path = user_path(config.init_from)
    theirs = load_fast_rcnn(path)
    state = theirs.network.state_dict()
    outputs = [name for name in state if name.split(".")[-2] in ("class_logits", "box_targets")]
    kept = {name: value for name, value in state.items() if name not in outputs}
    _load(network, kept, outputs, theirs.config, config, (*BACKBONE_KEYS, *_HEAD), path)
    pairs = common_classes(categories.names, theirs.categories.names)
    copy_classes(network, theirs.network, pairs)
    network.trunk.input_format = theirs.network.trunk.input_format
    _set_provenance(network.trunk.provenance, path)
    own = [categories.names[mine] for mine, _ in pairs]
    new = [name for i, name in enumerate(categories.names) if i not in dict(pairs)]
    unused = [name for i, name in enumerate(theirs.categories.names) if i not in [there for _, there in pairs]]
    groups = (("kept", own), ("starting anew", new), ("not used", unused))
    _log(path, "the Fast R-CNN", "; ".join(f"classes {what}: {_listing(names)}" for what, names in groups), config)


def common_classes(ours: Collection[str], theirs: Collection[str]) -> list[tuple[int, int]]:
    """(position in `ours`, position in `theirs`) of the names that both have, each exactly once.

    >>> common_classes(["cat", "dog", "cow"], ["dog", "bird", "cat"])
    [(0, 2), (1, 0)]
    """
    counts = Counter(ours), Counter(theirs)
    place = {name: i for i, name in enumerate(theirs)}
    return [(i, place[name]) for i, name in enumerate(ours) if counts[0][name] == counts[1][name] == 1]


@torch.no_grad()
def copy_classes(network: FastRCNN, other: FastRCNN, pairs: Collection[tuple[int, int]]) -> None:
    """Copies the rows of the background and of the classes `pairs` (position here, position there, from 0) of the two
    output layers, of each stage of a cascade. Boxes of all classes together are copied whole. Box targets that were
    normalised otherwise there are converted, so that the boxes are the same."""
    rows = torch.tensor([(0, 0), *((mine + 1, theirs + 1) for mine, theirs in pairs)]).T
    for own, source in zip(network.stages(), other.stages(), strict=True):
        own.head.class_logits.weight[rows[0]] = source.head.class_logits.weight[rows[1]]
        own.head.class_logits.bias[rows[0]] = source.head.class_logits.bias[rows[1]]
        box_pairs = sorted(pairs) if network.boxes_of_class else [(0, 0)]
        if not box_pairs:
            continue
        mine, there = torch.tensor(box_pairs).T
        ours, theirs = own.coder, source.coder
        factor = torch.tensor(theirs.stds) / torch.tensor(ours.stds)
        shift = (torch.tensor(theirs.means) - torch.tensor(ours.means)) / torch.tensor(ours.stds)
        boxes, source_boxes = own.head.box_targets, source.head.box_targets
        boxes.weight.unflatten(0, (-1, 4))[mine] = source_boxes.weight.unflatten(0, (-1, 4))[there] * factor[:, None]
        boxes.bias.unflatten(0, (-1, 4))[mine] = source_boxes.bias.unflatten(0, (-1, 4))[there] * factor + shift


def _load(
    network: nn.Module,
    state: Mapping[str, Tensor],
    anew: Collection[str],
    theirs: settings.Config,
    ours: settings.Config,
    keys: Collection[str],
    path: Path,
) -> None:
    """Loads `state`, in which exactly the tensors `anew` may be missing, and counters that only one kind of batch
    normalisation has."""
    own = network.state_dict()
    fitting = {name: value for name, value in state.items() if name in own and value.shape == own[name].shape}
    left = {name for name in own.keys() | state.keys() if not name.endswith("num_batches_tracked")} - {*anew, *fitting}
    if left:
        different = differences(theirs, ours, tuple(keys), "in the file", "by the configuration")
        raise UserError(
            f"init_from: {path} holds a network of another structure, so its weights do not fit "
            f"({', '.join(sorted(left)[:3])}, … {len(left)} in all). {different or 'Its configuration is the same'}"
        )
    network.load_state_dict(fitting, strict=False)


def _set_provenance(provenance: dict[str, Any], path: Path) -> None:
    # The file's hash, by which a resumed run is compared; its name may change.
    provenance["weights"] = {"kind": "init_from", "sha256": sha256_of(path)}


def _log(path: Path, network: str, text: str, config: settings.Config) -> None:
    unused = config.backbone.weights
    note = "" if unused is None else f" (backbone.weights={unused} is not used)"
    on_main(lambda: logger.info("%s starts from %s: %s%s", network, path, text, note))


def _listing(names: Collection[str]) -> str:
    shown = list(names)[:_SHOWN]
    return ", ".join(shown) + (f", … ({len(names)})" if len(names) > _SHOWN else "") if names else "none"
