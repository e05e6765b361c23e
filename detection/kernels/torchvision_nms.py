"""torchvision's compiled NMS, without the import of torchvision.

`import torchvision` loads all its models and, through its RoIAlign, PyTorch's compiler, which takes longer than PyTorch
itself; a detector on a CPU needs none of it but NMS. Here the library with the compiled operators is loaded alone. Its
file has other names in other releases: if none is found, or it cannot be loaded, torchvision is imported.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import torch
from torch import Tensor

_LIBRARIES = ("_C_stable.so", "_C.so", "_C_stable.pyd", "_C.pyd")


def nms(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """`torchvision.ops.nms` of boxes (R, 4): positions of the kept boxes, in descending order of their scores (R,)."""
    if not hasattr(torch.ops.torchvision, "nms") or torch.compiler.is_compiling():
        _load()
    kept: Tensor = torch.ops.torchvision.nms(boxes, scores, threshold)
    return kept


def nms_by_group(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float) -> Tensor:
    """`torchvision.ops.batched_nms` on a CPU, to the bit: NMS of boxes (R, 4) within each group (R,).

    Up to 1,000 boxes, one NMS of boxes that are moved apart by group; of more, an NMS of each group is faster.
    """
    if len(boxes) > 1000:
        kept = torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
        for group in groups.unique():
            own = (groups == group).nonzero().squeeze(1)
            kept[own[nms(boxes[own], scores[own], threshold)]] = True
        positions = kept.nonzero().squeeze(1)
        return positions[scores[positions].argsort(descending=True)]
    if len(boxes) == 0:
        return torch.empty(0, dtype=torch.int64, device=boxes.device)
    return nms(boxes + (groups.to(boxes.dtype) * (boxes.max() + 1))[:, None], scores, threshold)


def _load() -> None:
    """Loads the operators; under a compiler or an export torchvision itself, which registers what these need."""
    specification = None if "torchvision" in sys.modules else importlib.util.find_spec("torchvision")
    if specification is not None and not torch.compiler.is_compiling():
        folders = [Path(folder) for folder in specification.submodule_search_locations or ()]
        for path in (folder / name for folder in folders for name in _LIBRARIES):
            try:
                if path.is_file():
                    torch.ops.load_library(path)
                    return
            except (OSError, RuntimeError):
                break
    import torchvision  # noqa: F401
