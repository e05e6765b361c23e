"""The interface of a backbone that detectors need, for any family of networks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from torch import nn

from .input_format import InputFormat


class Backbone(Protocol):
    """Images → feature maps by level, finest first; an `nn.Module`.

    Any network with these attributes is a backbone; `ResNeXtBackbone` is the one of this package. Called with images
    (N, 3, H, W), normalised by `input_format`, it returns a dict of maps
    (N, channels[level], ceil(H / strides[level]), …).
    """

    input_format: InputFormat  # the format of its input
    __call__: Callable[..., Any]

    @property
    def provenance(self) -> dict[str, Any]:
        """The network and the source of its weights, as plain values for JSON."""
        ...

    @property
    def channels(self) -> Mapping[str, int]:
        """Channels of each level's map, finest first."""
        ...

    @property
    def strides(self) -> Mapping[str, int]:
        """Image pixels per cell of each level's map, finest first."""
        ...

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """As every module's."""
        ...
