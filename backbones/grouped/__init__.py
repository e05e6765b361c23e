"""Grouped 3×3 convolutions, ResNeXt's own operator, by whatever computes them fastest on the GPU at hand.

fastest_grouped_convolutions(network)    in place: each grouped 3×3 of it is computed by the fastest implementation

convolution.py        the layer, and its gradient
choice.py             which implementation: by measurement, at each shape, once
implementations.py    cuDNN's, dense ones over merged groups, and ours
kernels.py            ours, in Triton
"""

from __future__ import annotations

from .convolution import GroupedConvolution, fastest_grouped_convolutions

__all__ = ["GroupedConvolution", "fastest_grouped_convolutions"]
