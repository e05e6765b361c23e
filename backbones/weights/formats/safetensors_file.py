"""Files in the safetensors format → tensors by name."""

from __future__ import annotations

import os
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ...common.errors import UserError

LARGEST_HEADER = 1 << 24  # bytes: 150,000 tensors; each of them takes some ten times as much as an object


def load(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Reads every tensor onto the CPU.

    Raises:
        UserError: the file is damaged, or lists more tensors than any network has.
    """
    path = Path(path)
    with path.open("rb") as file:
        header = int.from_bytes(file.read(8), "little")
    if header > LARGEST_HEADER:
        raise UserError(f"{path}: a safetensors file with a header of {header} bytes, more than {LARGEST_HEADER}")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise UserError(f"{path}: not a safetensors file, or a damaged one ({error})") from error
