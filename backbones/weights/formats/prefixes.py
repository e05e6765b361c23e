"""Networks inside networks: parameters called module.conv1.weight or backbone.body.conv1.weight → conv1.weight.

Wrappers (DistributedDataParallel, a detector, a self-supervised trainer) put a prefix before every name. It is found by
means of two names that every network has, without a list of prefixes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from ...common.errors import UserError

_NAMED, _SHOWN = 30, 100  # names in a message, and characters of each
_CLASSIFIER = "head.fc."  # its prefix in OpenMMLab's classifiers, beside "backbone."


def find_prefix(names: Mapping[str, Tensor], anchors: tuple[str, str], path: Path) -> str | None:
    """The prefix of both anchors; "" if they have none, None if they are missing.

    Raises:
        UserError: there are several networks.
    """
    first, second = anchors
    found = [
        name.removesuffix(first)
        for name in names
        if name.endswith(first) and name.removesuffix(first) + second in names
    ]
    found = [prefix for prefix in found if prefix == "" or prefix.endswith(".")]
    if len(found) > 1:
        prefixes = ", ".join(prefix[:_SHOWN] for prefix in sorted(found)[:_NAMED])
        raise UserError(f"{path}: several networks in it ({prefixes}); save the one you want by itself")
    return found[0] if found else None


def under_prefix(tensors: Mapping[str, Tensor], prefix: str) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The tensors under a prefix, without it, and the first parts of the names that were left out."""
    inside = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    outside = {name: tensor for name, tensor in tensors.items() if not name.startswith(prefix)}
    if "fc.weight" not in inside:
        classifier = prefix.removesuffix("backbone.") + _CLASSIFIER
        for name in [name for name in outside if name.startswith(classifier)]:
            inside["fc." + name.removeprefix(classifier)] = outside.pop(name)
    return inside, tuple(sorted({name.split(".")[0][:_SHOWN] for name in outside})[:_NAMED])
