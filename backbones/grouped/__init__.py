"""Grouped 3×3 convolutions, ResNeXt's main operator, computed by the fastest implementation on the current GPU.

fastest_grouped_convolutions(network)    in place: the fastest implementation computes each grouped 3×3 convolution

convolution.py        the layer, and its gradient
choice.py             chooses the implementation: by measurement, once for each shape
implementations.py    the library's (cuDNN), dense ones over merged groups, and Triton's
kernels.py            the Triton kernels
shapes.py             the convolution's numbers and output tensors, used by all
"""

from __future__ import annotations

from .convolution import GroupedConvolution, fastest_grouped_convolutions

__all__ = ["GroupedConvolution", "fastest_grouped_convolutions"]
