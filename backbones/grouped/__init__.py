"""Grouped 3×3 convolutions, ResNeXt's own operator, computed by the fastest implementation on the GPU at hand.

fastest_grouped_convolutions(network)    in place: each grouped 3×3 of it is computed by the fastest implementation

convolution.py        the layer, and its gradient
choice.py             chooses the implementation: by measurement, once for each shape
implementations.py    the library's (cuDNN), dense ones over merged groups, and Triton's
kernels.py            the Triton kernels
shapes.py             what they have in common
"""

from __future__ import annotations

from .convolution import GroupedConvolution, fastest_grouped_convolutions

__all__ = ["GroupedConvolution", "fastest_grouped_convolutions"]
