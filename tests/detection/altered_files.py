"""Files of trained networks with other contents and a right checksum, as a stranger may send one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from detection.training.artifacts import load_artifact, save_artifact

Change = Callable[[dict[str, Any]], Any]

# Values of a backbone's structure at which its weights, or the number of its operations, have no bounds: 200,000 planes
# are terabytes, and so are the largest numbers that are in range.
HUGE: list[dict[str, int]] = [
    {"planes": 10**9},
    {"planes": 200_000},
    {"stem_width": 10**7},
    {"base_width": 10**18},
    {"planes": 4096, "cardinality": 4096, "base_width": 4096},
    {"planes": 4096, "base_width": 4096},
    {"planes": 4096},
]
HUGE_IS_REFUSED = r"cannot be built|do not fit|out of range: from 1 to 4096|more than 1048576"


def altered(file: Path, path: Path, change: Change) -> Path:
    """A copy of `file` at `path` whose contents `change` was called with."""
    content = load_artifact(file, "rpn", "detector", "classifier")
    change(content)
    content.pop("format"), content.pop("version")
    path.parent.mkdir(parents=True, exist_ok=True)
    save_artifact(path, content.pop("kind"), **content)
    return path
