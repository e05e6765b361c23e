"""The project's `.pt` files: a kind, a version and plain data → one file that is whole or absent, and back with every
doubt checked.

A file is a zip as `torch.save` writes it, holding one dict: `format`, `version`, `kind`, and whatever belongs to the
kind: tensors and plain values only, so that `torch.load(weights_only=True)` reads it and no code can hide in it.

The zip's comment, which stands at the very end of the file, holds the SHA-256 of all that comes before. The CRC-32 that
a zip has for each entry would not do: it covers the entries alone, and one flipped bit in a header makes `torch.load`
return memory that was never written, without a word.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import platform
import zipfile
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import IO, Any, cast

import torch

from backbones.common.errors import UserError
from backbones.common.files import atomic_write, user_path
from backbones.weights import checksum

FORMAT = "resnext-detection"
VERSION = 1

# What each kind of file is, in words for the one who gave the wrong one.
KINDS: dict[str, str] = {
    "rpn": "a trained RPN (for tools/propose.py, tools/train_fastrcnn.py and tools/eval_coco.py)",
    "fastrcnn": "a trained Fast R-CNN without its RPN (half of a detector)",
    "detector": "a whole detector (for tools/predict.py, tools/eval_coco.py and Detector.load)",
    "classifier": "a trained classifier (for backbone.weights)",
    "checkpoint": "a checkpoint of an unfinished run (its training tool continues it with --resume)",
}


class DamagedFile(UserError):
    """The file is not what was once written: cut short, at odds with its checksum, or with numbers not finite."""


def save_artifact(path: str | os.PathLike[str], kind: str, **payload: Any) -> None:
    """Writes `payload` (tensors and plain values, nested at will) to `path`, atomically.

    The checksum is verified in the finished file before it gets its name.

    Raises:
        UserError: the file cannot be written (folder read-only, disk full) or reads back damaged; what stood at `path`
            before is untouched.
    """
    content = {"format": FORMAT, "version": VERSION, "kind": kind, **payload}
    with atomic_write(path) as temporary:
        _write(content, temporary)
        _check_digest(temporary, str(path))


def load_artifact(path: str | os.PathLike[str], *kinds: str) -> dict[str, Any]:
    """The dict that `save_artifact` wrote, on the CPU.

    Raises:
        DamagedFile: it is cut short or damaged, or holds a NaN or infinite number (under which key).
        UserError: it is missing, not a file of ours, holds code, is of another kind than `kinds` (of which, and what
            takes it), or was written by a newer release.
    """
    path = user_path(path)
    wanted = " or ".join(KINDS.get(kind, kind) for kind in kinds)
    _check_digest(path, str(path), f"Needed here: {wanted}.")
    try:
        _check_entries(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} is refused: it holds more than tensors and plain values, and to load that could run somebody's "
            "code. Save its state_dict alone, and name that file."
        ) from error
    except Exception as error:  # a file made up to carry a right checksum: torch's reader stumbles in any way
        raise UserError(f"{path} is not a file of this project: {error!r:.200}") from error

    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{path} was not written by this project. Needed here: {wanted}.")
    if not isinstance(content.get("version"), int) or content["version"] > VERSION:
        raise UserError(
            f"{path} is of version {content.get('version')}, written by a newer release; this one reads up to "
            f"{VERSION}. Update the project."
        )
    kind = str(content.get("kind"))
    if kind not in kinds:
        raise UserError(f"{path} is {KINDS.get(kind, f'of the unknown kind {kind!r}')}. Needed here: {wanted}.")
    try:
        tensors = list(_tensors(content))
    except RecursionError:
        raise UserError(f"{path} is refused: what it holds is nested within itself or too deeply.") from None
    for key, tensor in tensors:
        if not _is_plain(tensor):
            raise UserError(f"{path} is refused: {key} is no ordinary tensor with memory of its own.")
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise DamagedFile(
                f"{path} is refused: {key} holds NaN or infinite numbers. Take an earlier checkpoint or train again."
            )
    return content


def versions() -> dict[str, str]:
    """What a result depends on besides its inputs, for its provenance."""
    try:
        torchvision = metadata.version("torchvision")  # without importing it, which not every stage needs
    except metadata.PackageNotFoundError:
        torchvision = "absent"
    return {"python": platform.python_version(), "torch": str(torch.__version__), "torchvision": torchvision}


class _Sink:
    """A file for torch.save that hashes what it gets, and remembers why a write failed, which torch does not say."""

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
    """Compares the whole file with the SHA-256 at its end. `name` is what messages call the file."""
    try:
        intact = checksum.is_intact(path)
    except OSError as error:
        raise UserError(f"{name} cannot be read: {error.strerror or error}") from error
    if intact is None:
        raise DamagedFile(f"{name} is cut short, or not a file of this project. {needed}")
    if not intact:
        raise DamagedFile(f"{name} is damaged: it does not match the checksum at its end")


def _check_entries(path: Path) -> None:
    """torch.save stores its entries as they are; a compressed one, made by somebody else, could unpack to any size."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size for entry in entries):
        raise zipfile.BadZipFile("it has compressed entries")


def _is_plain(tensor: torch.Tensor) -> bool:
    """Not so for a tensor of strides 0, say, that a few bytes of the file spread over any number of elements."""
    if tensor.layout != torch.strided or tensor.device.type != "cpu":
        return False
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


def _tensors(value: Any, key: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(value, torch.Tensor):
        yield key, value
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from _tensors(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            yield from _tensors(item, f"{key}[{number}]")
