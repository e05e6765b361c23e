"""Files of `torch.save` → tensors and plain containers, without running code from the file."""

from __future__ import annotations

import os
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch

from backbones.weights import checksum

from ...common.errors import UserError
from .torch_bounds import check_cost, is_zip


def load(path: str | os.PathLike[str]) -> Any:
    """Reads a file in the zip format or the one before it, onto the CPU.

    Raises:
        UserError: it is damaged or compressed, asks for more memory than its size justifies, or contains anything
            except tensors, numbers, strings and plain containers.
    """
    path = Path(path)
    try:
        check_cost(path)
        _check_sums(path)
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


def _check_sums(path: Path) -> None:
    """Raises BadZipFile for zip entries that do not match their CRC-32, which torch's reader does not check. The CRC-32
    do not cover the headers; the checksum of our own files does."""
    if not is_zip(path):
        return
    with zipfile.ZipFile(path) as archive:
        if damaged := archive.testzip():
            raise zipfile.BadZipFile(f"{damaged} does not match its checksum; fetch or write the file anew")
        comment = archive.comment
    if comment.startswith(checksum.PREFIX) and not checksum.is_intact(path):
        raise zipfile.BadZipFile("it does not match the checksum at its end; take a sound copy")
