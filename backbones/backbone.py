"""What detectors ask of a backbone, whatever its family."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from torch import nn

from .input_format import InputFormat


class Backbone(Protocol):
    """Images → feature maps by level, finest first; an `nn.Module`.

    A network of another family becomes a backbone by having these attributes; `ResNeXtBackbone` is the one that this
    package builds. Called with images (N, 3, H, W), normalised by `input_format`, it returns a dict of maps
    (N, channels[level], ceil(H / strides[level]), …).
    """

    input_format: InputFormat  # what numbers it expects at its input
    __call__: Callable[..., Any]

    @property
    def provenance(self) -> dict[str, Any]:
        """Plain values for JSON that say what it is and where its weights come from."""
        ...

    @property
    def channels(self) -> Mapping[str, int]:
        """Channels of each level's map, finest first."""
        ...

    @property
    def strides(self) -> Mapping[str, int]:
        """Pixels of the image a cell of each level's map, finest first."""
        ...

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """As every module's."""
        ...
