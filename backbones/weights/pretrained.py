"""A source of weights → tensors under torchvision's names, the input format that they expect, and their provenance.

    resolve_weights("timm/gluon_in1k", "resnext101_32x4d")     a name of the table in `sources.py`
    resolve_weights("runs/classifier.pt", "resnext50_32x4d")   a file in any format of `formats/`
    resolve_weights("https://…/weights.pth#sha256=…", …)       a URL

Downloads are kept in ~/.cache/resnext_detection (or below XDG_CACHE_HOME); RESNEXT_CACHE names another folder, and
RESNEXT_OFFLINE=1 forbids connections.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import os
import re
import sys
import urllib.parse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ..cifar import CIFAR
from ..common.errors import UserError
from ..common.files import cache_folder, sha256_of, user_path
from ..common.progress import is_first_rank
from ..input_format import IMAGENET, InputFormat
from .download import WrongFileError, download, offline
from .formats import Checkpoint, read_checkpoint
from .sources import DETECTRON, DETECTRON2_RESNEXT, SHIPPED, SOURCES, Source, choices, find_source

logger = logging.getLogger(__name__)

# MODEL.PIXEL_MEAN and PIXEL_STD in detectron2/config/defaults.py; its configurations of ResNeXt set another PIXEL_STD.
DETECTRON2_RESNET = dataclasses.replace(DETECTRON2_RESNEXT, std=(1.0, 1.0, 1.0))
_HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.\w+$")  # as torch.hub names files: resnext50_32x4d-7cdf4587.pth


@dataclass(frozen=True)
class PretrainedWeights:
    """Weights, ready to be loaded.

    Attributes:
        state_dict: tensors by torchvision's names, of the whole network with its classifier, if the file has one;
            unchecked, for `load_backbone_state`.
        input_format: the input format that they expect.
        provenance: plain values for JSON: source, file, sha256, layout, licence, input_format …
        frozen_norm_only: their BN was fused into scale and bias; it loads as frozen BN and cannot be trained.
    """

    state_dict: dict[str, Tensor]
    input_format: InputFormat
    provenance: dict[str, Any]
    frozen_norm_only: bool


def resolve_weights(source: str | os.PathLike[str], variant_name: str) -> PretrainedWeights:
    """Finds, downloads if necessary, checks and reads weights for a network.

    Args:
        source: a name of the table, "default" for the network's first row there, the path of a file, or a URL (http,
            https, file). A URL of the table stands for its row. Another URL may end in #sha256=…; otherwise a checksum
            in the file's name is checked, as torch.hub does.
        variant_name: the network's name in the table of variants; of rows with the same name, this network's is taken.

    Raises:
        UserError: no such source for this network, no connection, a wrong checksum, an unreadable file.
    """
    source = os.fspath(source)
    row = find_source(source, variant_name)
    if row is not None:
        path = _fetch_row(row)
    elif "://" in source:
        path = _fetch_url(source)
    else:
        path = user_path(source)
        if not os.path.exists(path):  # unlike Path.exists, raises no error for a name that is too long
            raise UserError(
                f"weights {source!r}: neither a file here nor a known name. {choices(variant_name, source)}"
            )
    checkpoint = read_checkpoint(path)
    sha256 = sha256_of(path)
    row = row or _recognise(path, sha256, checkpoint)
    if checkpoint.left_out:
        logger.info("%s: left out, as no part of the network: %s", source, ", ".join(checkpoint.left_out))
    if row is None and checkpoint.layout.startswith("detectron") and variant_name.startswith("resnet"):
        logger.warning(
            "%s: if it is one of MSRA's ResNets, its stride sits in the first 1×1 and not, as here, in the 3×3", source
        )
    input_format, assumed = _input_format(checkpoint, row)
    if assumed:
        logger.warning(
            "%s does not say what input it expects: taken as %s. If that is wrong, put it into a file that says so: "
            "torch.save({'kind': 'classifier', 'network': state_dict, 'input_format': {…}}, path)",
            source, input_format.to_dict(),
        )  # fmt: skip
    provenance = {
        "source": row.name if row else source,
        "url": row.url if row else source if "://" in source else None,
        "file": path.name,
        "sha256": sha256,
        "layout": checkpoint.layout,
        "licence": row.licence if row else None,
        "input_format": input_format.to_dict(),
        "input_format_assumed": assumed,
        "left_out": list(checkpoint.left_out),
    }
    return PretrainedWeights(checkpoint.state_dict, input_format, provenance, checkpoint.frozen_norm_only)


def cached_path(source: Source) -> Path:
    """The path of a row's file in the cache, which need not exist."""
    return cache_folder() / source.name.partition("/")[0] / source.file_name


def _fetch_row(row: Source) -> Path:
    if row.url is None:
        return SHIPPED / row.file_name
    destination = cached_path(row)
    if not destination.exists() and not offline() and is_first_rank():
        print(row.describe(), file=sys.stderr)  # the licence, before the download
    return _fetch(row.url, destination, row.sha256)


def _fetch_url(source: str) -> Path:
    url, _, fragment = source.partition("#")
    name = urllib.parse.unquote(urllib.parse.urlsplit(url).path).rpartition("/")[2] or "weights"
    stated = re.fullmatch(r"sha256=([0-9a-fA-F]{8,64})", fragment)
    if fragment and not stated:
        raise UserError(f"weights {source!r}: after # only sha256= and 8 to 64 hexadecimal digits can stand")
    expected = stated or _HASH_IN_NAME.search(name)
    folder = hashlib.sha256(url.encode()).hexdigest()[:16]  # two sites may use the same name
    try:
        return _fetch(url, cache_folder() / "url" / folder / name, expected[1] if expected else None)
    except WrongFileError as error:
        if stated:
            raise
        raise UserError(
            f"{error}. If {expected[1] if expected else ''} in its name is no checksum, append #sha256=… to the URL"
        ) from error


def _fetch(url: str, destination: Path, sha256: str | None) -> Path:
    if not destination.exists() and not offline():
        try:
            destination.parent.mkdir(parents=True, exist_ok=True)
            writable = os.access(destination.parent, os.W_OK)
        except OSError:
            writable = False
        if not writable:
            raise UserError(f"cannot write to the cache {destination.parent}; name another folder in RESNEXT_CACHE")
    return download(url, destination, sha256=sha256)


def _recognise(path: Path, sha256: str, checkpoint: Checkpoint) -> Source | None:
    """The table's row of a file from any source: found by its checksum, else by its name."""
    for row in SOURCES:
        if row.sha256 is not None and sha256.startswith(row.sha256):
            return row
    for row in SOURCES:
        # Detectron and detectron2 have files of the same name; only the latter's BN is not fused.
        if row.sha256 is None and path.name == row.file_name and row.fused_norm == checkpoint.frozen_norm_only:
            return row
    return None


def _input_format(checkpoint: Checkpoint, row: Source | None) -> tuple[InputFormat, bool]:
    """(the input format that the weights expect, whether it is only assumed because nothing states it)."""
    if checkpoint.input_format is not None:
        return checkpoint.input_format, False
    if row is not None:
        return row.input_format, False
    if checkpoint.layout == "detectron":
        return DETECTRON, False
    if checkpoint.layout == "torch7":
        return (CIFAR if checkpoint.state_dict["conv1.weight"].shape[-1] == 3 else IMAGENET), False
    if checkpoint.layout == "detectron2":  # as its configurations set it for either family
        return (DETECTRON2_RESNEXT if _is_grouped(checkpoint) else DETECTRON2_RESNET), True
    return IMAGENET, True


def _is_grouped(checkpoint: Checkpoint) -> bool:
    """Whether the 3×3 convolutions are grouped, as in ResNeXt."""
    weight = checkpoint.state_dict.get("layer1.0.conv2.weight")
    return weight is not None and weight.dim() == 4 and weight.shape[1] < weight.shape[0]
