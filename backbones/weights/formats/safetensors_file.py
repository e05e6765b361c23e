"""Files in the safetensors format → tensors by name."""

from __future__ import annotations

import os
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ...common.errors import UserError


def load(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Reads every tensor onto the CPU.

    Raises:
        UserError: the file is damaged.
    """
    path = Path(path)
    try:
        return load_file(path)
    except SafetensorError as error:
        raise UserError(f"{path}: not a safetensors file, or a damaged one ({error})") from error
