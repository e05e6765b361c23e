"""Files of `torch.save` → tensors and plain containers, without running code from the file."""

from __future__ import annotations

import os
import pickle
import re
from pathlib import Path
from typing import Any

import torch

from ..errors import UserError


def load(path: str | os.PathLike[str]) -> Any:
    """Reads a file in the zip format or the one before it, onto the CPU.

    Raises:
        UserError: it is damaged, or holds anything but tensors, numbers, strings and plain containers.
    """
    path = Path(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        refused = re.search(r"GLOBAL (\S+)", str(error))
        if refused is None:
            raise UserError(f"{path}: a damaged torch file ({str(error).splitlines()[0]})") from error
        raise UserError(
            f"{path}: it names {refused[1]}, so it holds more than weights. It was not loaded, because that may run "
            "any code. Where it comes from, save the state dict alone: torch.save(model.state_dict(), …)"
        ) from error
    except OSError:
        raise
    except Exception as error:  # zip errors, truncated storages, unknown encodings …
        raise UserError(f"{path}: not a torch file, or a damaged one ({type(error).__name__}: {error})") from error
