"""A kind, a version and plain data ↔ one of the project's `.pt` files, written atomically and validated on loading.

A file is a zip as `torch.save` writes it, holding one dict: `format`, `version`, `kind`, and the entries of that kind.
It holds tensors and plain values only, so that `torch.load(weights_only=True)` reads it and it cannot contain code.

The zip's comment, at the very end of the file, holds the SHA-256 of everything before it. The CRC-32 that a zip has for
each entry is not enough: it covers only the entries, and one flipped bit in a header makes `torch.load` return
uninitialised memory without an error.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import platform
import zipfile
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import IO, Any, cast

import torch

from backbones.common.errors import UserError
from backbones.common.files import atomic_write, require_plain_file, user_path
from backbones.weights import checksum
from backbones.weights.formats.torch_bounds import check_cost, is_zip

FORMAT = "resnext-detection"
VERSION = 1

_MOST_VALUES = 1_000_000  # of a file: tensors, names, numbers; a detector of a thousand classes has some ten thousand
_START = 4096  # bytes of a file that hold its format
_DEEPEST = 50  # containers within each other
_KEY_SHOWN = 200  # characters of a key, at most
_DTYPES = {torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.bool}
_DTYPES |= {torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8}

# Each kind of file in words, for the error about a file of the wrong kind.
KINDS: dict[str, str] = {
    "rpn": "a trained RPN (for tools/propose.py, tools/train_fastrcnn.py and tools/eval_coco.py)",
    "fastrcnn": "a trained Fast R-CNN without its RPN (half of a detector)",
    "detector": "a whole detector (for tools/predict.py, tools/eval_coco.py and Detector.load)",
    "classifier": "a trained classifier (for backbone.weights)",
    "checkpoint": "a checkpoint of a run (its training tool continues it with --resume; "
    "tools/checkpoint_to_detector.py writes its network)",
}


class DamagedFile(UserError):
    """The file is truncated, does not match its checksum, or holds numbers that are not finite."""


def save_artifact(path: str | os.PathLike[str], kind: str, **payload: Any) -> None:
    """Writes `payload` (tensors and plain values, nested to any depth) to `path`, atomically.

    The checksum is verified in the finished file before it gets its name.

    Raises:
        UserError: the file cannot be written (folder read-only, disk full) or is damaged when it is read back; an
            earlier file at `path` is unchanged.
    """
    content = {"format": FORMAT, "version": VERSION, "kind": kind, **payload}
    with atomic_write(path) as temporary:
        _write(content, temporary)
        _check_digest(temporary, str(path))


def load_artifact(path: str | os.PathLike[str], *kinds: str) -> dict[str, Any]:
    """The dict that `save_artifact` wrote, on the CPU.

    Raises:
        DamagedFile: it is truncated or damaged, or holds a NaN or infinite number; the message names its key.
        UserError: it is missing, not a file of this project, holds code, is not one of `kinds` (the message names its
            kind and the tools that take it), or was written by a newer release.
    """
    path = user_path(path)
    wanted = " or ".join(KINDS.get(kind, kind) for kind in kinds)
    _check_digest(path, str(path), f"Needed here: {wanted}.")
    try:
        if not is_zip(path):
            raise zipfile.BadZipFile("no zip")
        check_cost(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} is refused: it holds more than tensors and plain values, and to load that could run somebody's "
            "code. Save its state_dict alone, and name that file."
        ) from error
    except Exception as error:  # a forged file with a valid checksum: torch's reader may raise any exception
        raise UserError(f"{path} is not a file of this project: {error!r:.200}") from error

    try:
        tensors = _Contents(content).tensors
    except ValueError as error:
        raise UserError(f"{path} is refused: {error}.") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{path} was not written by this project. Needed here: {wanted}.")
    if not isinstance(content.get("version"), int) or content["version"] > VERSION:
        raise UserError(
            f"{path} is of version {content.get('version')}, written by a newer release; this one reads up to "
            f"{VERSION}. Update the project."
        )
    kind = content.get("kind")
    if not isinstance(kind, str) or kind not in kinds:
        known = KINDS.get(kind) if isinstance(kind, str) else None
        raise UserError(f"{path} is {known or f'of the unknown kind {kind!r:.100}'}. Needed here: {wanted}.")
    left = 4 * path.stat().st_size
    for key, tensor in tensors:
        left -= tensor.numel() * tensor.element_size()
        if not _is_plain(tensor) or left < 0:
            raise UserError(f"{path} is refused: {key} is no ordinary tensor with memory of its own.")
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise DamagedFile(
                f"{path} is refused: {key} holds NaN or infinite numbers. Take an earlier checkpoint or train again."
            )
        if key.endswith("running_var") and bool((tensor < 0).any()):
            raise DamagedFile(f"{path} is refused: {key} holds variances below 0. Train again.")
    return content


def resembles_artifact(path: str | os.PathLike[str]) -> bool:
    """Whether `save_artifact` wrote the file at `path`, which may be damaged."""
    try:
        require_plain_file(path)
        with open(path, "rb") as file:
            return FORMAT.encode() in file.read(_START)
    except (UserError, OSError):
        return False


def versions() -> dict[str, str]:
    """The versions of Python, torch and torchvision by name, for the provenance of a result."""
    try:
        torchvision = metadata.version("torchvision")  # without importing it, which not every stage needs
    except metadata.PackageNotFoundError:
        torchvision = "absent"
    return {"python": platform.python_version(), "torch": str(torch.__version__), "torchvision": torchvision}


class _Sink:
    """A file for torch.save that hashes what is written, and keeps the error of a failed write, which torch hides."""

    def __init__(self, file: IO[bytes]) -> None:
        self.digest = hashlib.sha256()
        self.error: OSError | None = None
        self._file = file

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self._file.flush()


def _write(content: dict[str, Any], path: Path) -> None:
    with open(path, "wb") as file:
        sink = _Sink(file)
        try:
            torch.save(content, cast("IO[bytes]", sink))
        except RuntimeError:
            if sink.error is not None:
                raise sink.error from None
            raise
        file.seek(-2, os.SEEK_END)  # a zip ends with the length of its comment in two bytes, 0 so far
        file.write(checksum.ending(sink.digest.hexdigest()))


def _check_digest(path: Path, name: str, needed: str = "") -> None:
    """Compares the whole file with the SHA-256 at its end. `name` is the file's name in error messages."""
    try:
        intact = checksum.is_intact(path)
    except OSError as error:
        raise UserError(f"{name} cannot be read: {error.strerror or error}") from error
    if intact is None:
        raise DamagedFile(f"{name} is cut short, or not a file of this project. {needed}")
    if not intact:
        raise DamagedFile(f"{name} is damaged: it does not match the checksum at its end")


def _is_plain(tensor: torch.Tensor) -> bool:
    """Whether a tensor is dense and of a known type, with memory for all its elements (an expanded one has less)."""
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.dtype not in _DTYPES:
        return False
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


class _Contents:
    """The tensors in the content of a file. An object that occurs in several places is visited once.

    Attributes:
        tensors: (key, tensor) for each of them.

    Raises:
        ValueError: it is nested within itself or too deeply, or expands to very many values: lists that share their
            elements need only a few bytes for that, and to print, copy or compare them would take for ever.
    """

    def __init__(self, content: Any) -> None:
        self.tensors: list[tuple[str, torch.Tensor]] = []
        self._unfolded: dict[int, int] = {}  # by the object's id; 0 while it is being counted
        self._count(content, "", 0)

    def _count(self, value: Any, key: str, depth: int) -> int:
        if isinstance(value, torch.Tensor):
            self.tensors.append((key, value))
            return 1
        if isinstance(value, Mapping):
            parts = [(f"{key}.{name}" if key else str(name), item) for name, item in value.items()]
        elif isinstance(value, (list, tuple, set)):
            parts = [(f"{key}[{number}]", item) for number, item in enumerate(value)]
        else:
            return 1
        if depth > _DEEPEST or self._unfolded.get(id(value)) == 0:
            raise ValueError("what it holds is nested within itself or too deeply")
        if id(value) not in self._unfolded:
            self._unfolded[id(value)] = 0
            count = 1
            for name, item in parts:
                count += self._count(item, name[-_KEY_SHOWN:], depth + 1)
                if count > _MOST_VALUES:
                    raise ValueError(f"what it holds unfolds to more than {_MOST_VALUES} values")
            self._unfolded[id(value)] = count
        return self._unfolded[id(value)]
