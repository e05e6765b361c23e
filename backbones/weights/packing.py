"""A network's weights from any source → one small safetensors file, as the weights that ship with the project."""

from __future__ import annotations

import json
import os

import torch
from safetensors.torch import save_file

from ..common.errors import UserError
from ..common.files import atomic_write, user_path
from ..common.text import first_of
from ..factory import create_classifier
from .loading import load_backbone_state
from .pretrained import resolve_weights


def pack(weights: str | os.PathLike[str], network: str, output: str | os.PathLike[str]) -> int:
    """Writes the weights in half precision; those of normalisation, whose range is larger, in single precision.

    Args:
        weights: a name of the table of sources, a URL or a file, a `classifier.pt` for example.
        network: the variant that they are for.
        output: the file to write. Tensors have torchvision's names; its metadata states the network and its input.

    Returns:
        The size of the file in bytes.

    Raises:
        UserError: the weights cannot be read, do not fit the network, have fused BN, or the file exists or cannot be
            written.
    """
    output = user_path(output)
    if output.exists():
        raise UserError(f"{output} exists; name another file, or remove it first")
    found = resolve_weights(weights, network)
    if found.frozen_norm_only:
        raise UserError(f"{weights}: its BN is fused into scale and bias; only the original file can be used")
    classifier = found.state_dict.get("fc.bias")
    model = create_classifier(network, 1 if classifier is None else len(classifier))
    load_backbone_state(model, found.state_dict, source=os.fspath(weights), input_format=found.input_format)
    packed = {
        name: tensor.half() if tensor.dim() > 1 or name == "fc.bias" else tensor
        for name, tensor in model.state_dict().items()
        if classifier is not None or not name.startswith("fc.")
    }
    if lost := [name for name, tensor in packed.items() if not bool(torch.isfinite(tensor).all())]:
        raise UserError(f"{weights}: values beyond half precision in {first_of(lost)}")
    about = {"network": network, "input_format": json.dumps(found.input_format.to_dict())}
    with atomic_write(output) as temporary:
        save_file(packed, temporary, metadata=about)
    return output.stat().st_size
