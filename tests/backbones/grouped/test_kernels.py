"""Triton's kernels: right in its interpreter, on a CPU; and what they are made into for GPUs compiles without one."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

import backbones.grouped
from backbones.grouped.shapes import Geometry

pytest.importorskip("triton", reason="TRITON MISSING: its kernels were not tried; it comes with PyTorch's CUDA builds")


@pytest.fixture(scope="module")
def kernels() -> Iterator[ModuleType]:
    """The module whose kernels Triton interprets: which they are is settled when it is imported."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        patch.delitem(sys.modules, "backbones.grouped.kernels", raising=False)
        module = importlib.import_module("backbones.grouped.kernels")
    yield module
    sys.modules.pop("backbones.grouped.kernels", None)
    delattr(backbones.grouped, "kernels")


def case(channels: int, geometry: Geometry, *, order: torch.memory_format, dtype: torch.dtype) -> list[Tensor]:
    """x, weight, bias and the gradient of y."""
    generator = torch.Generator().manual_seed(0)

    def random(*size: int) -> Tensor:
        return torch.randn(size, generator=generator).to(dtype)

    x = random(2, channels, 9, 12).contiguous(memory_format=order)
    weight = random(channels, channels // geometry.groups, 3, 3).contiguous(memory_format=order)
    y = torch.nn.functional.conv2d(x.float(), weight.float(), None, *geometry)
    gradient = random(*y.shape).contiguous(memory_format=order)
    return [x, weight, random(channels), gradient]


CASES = {
    "four channels a group": (48, Geometry(1, 1, 1, 12), 16),
    "four channels a group, stride 2": (64, Geometry(2, 1, 1, 16), 32),
    "eight, dilated": (32, Geometry(1, 2, 2, 4), 16),
    "sixteen, stride 2, dilated": (32, Geometry(2, 2, 2, 2), 16),
    "no power of two": (36, Geometry(1, 1, 1, 3), 16),
    "groups that do not fill the last tile": (40, Geometry(2, 1, 1, 5), 32),
    "another padding": (16, Geometry(1, 0, 1, 2), 16),
}


# The memory order goes into the strides alone: three cases are enough with channels first.
FIRST = ("four channels a group, stride 2", "eight, dilated", "groups that do not fill the last tile")


@pytest.mark.parametrize(
    ("name", "order"),
    [*((name, torch.channels_last) for name in CASES), *((name, torch.contiguous_format) for name in FIRST)],
)
def test_the_three_directions_equal_autograd(
    kernels: ModuleType, name: str, order: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    channels, geometry, tile = CASES[name]
    monkeypatch.setattr(kernels, "_PROGRAMS", 40)  # so few go through several blocks of positions each
    x, weight, bias, gradient = case(channels, geometry, order=order, dtype=torch.float32)
    leaves = [tensor.double().requires_grad_() for tensor in (x, weight, bias)]
    y = torch.nn.functional.conv2d(*leaves, *geometry)
    of_x, of_weight, _ = torch.autograd.grad(y, leaves, gradient.double())

    for got, expected in (
        (kernels.forward(x, weight, bias, geometry, tile), y),
        (kernels.input_gradient(gradient, weight, tuple(x.shape), geometry, tile), of_x),
        (kernels.weight_gradient(gradient, x, weight, geometry, tile), of_weight),
    ):
        assert got.dtype == torch.float32
        torch.testing.assert_close(got.double(), expected.detach(), atol=2e-5, rtol=1e-5)


def test_low_precision_is_summed_in_float32(kernels: ModuleType) -> None:
    """float16: what comes out is the exact sum of rounded inputs, rounded once."""
    geometry = Geometry(1, 1, 1, 8)
    x, weight, _, gradient = case(32, geometry, order=torch.channels_last, dtype=torch.float16)
    y = torch.nn.functional.conv2d(x.double(), weight.double(), None, *geometry)
    of_weight = torch.nn.grad.conv2d_weight(x.double(), weight.shape, gradient.double(), *geometry)
    for got, expected in (
        (kernels.forward(x, weight, None, geometry, 16), y),
        (kernels.weight_gradient(gradient, x, weight, geometry, 16), of_weight),
    ):
        assert got.dtype == torch.float16
        torch.testing.assert_close(got, expected.half(), atol=1e-6, rtol=1e-3)


def test_results_keep_the_memory_order_of_what_they_come_from(kernels: ModuleType) -> None:
    geometry = Geometry(1, 1, 1, 2)
    x, weight, _, _ = case(16, geometry, order=torch.channels_last, dtype=torch.float32)
    assert kernels.forward(x, weight, None, geometry, 16).is_contiguous(memory_format=torch.channels_last)
    assert kernels.forward(x.contiguous(), weight, None, geometry, 16).is_contiguous()


COMPILE = """
import json, sys, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from backbones.grouped import kernels

def compiled(ELEMENT, TILE, PRECISION, CAPABILITY):
    # As a launch with channels last has them: channels lie side by side, everything else is aligned.
    common = dict(USED=TILE, STRIDE=1, PADDING=1, DILATION=1, PRECISION=PRECISION, ROWS=64, TILE=TILE)
    common |= dict(source_c=1)
    kinds = [
        (kernels.convolution_kernel, dict(common, result_c=1, GROUP=4, TRANSPOSED=transposed, HAS_BIAS=not transposed))
        for transposed in (False, True)
    ] + [(kernels.weight_gradient_kernel, dict(common, gradient_c=1))]
    for kernel, constants in kinds:
        pointers = {"source", "weight", "bias", "result", "gradient"}
        signature = {
            name: "constexpr" if name in constants else "*fp32" if name == "partial"
            else "*" + ELEMENT if name in pointers else "i32"
            for name in kernel.arg_names
        }
        numbers = {name: number for number, name in enumerate(kernel.arg_names)}
        fixed = {*constants, *kernels._SIZES, "ROUNDS", "channels", "weight_out", "weight_in", "weight_y", "weight_x"}
        attributes = {(numbers[name],): [["tt.divisibility", 16]] for name in signature if name not in fixed}
        source = ASTSource(kernel, signature, {(numbers[n],): value for n, value in constants.items()}, attributes)
        made = triton.compile(source, target=GPUTarget("cuda", CAPABILITY, 32))
        yield len(made.asm["cubin"]), made.metadata.shared, "mma" in made.asm["ptx"]

print(json.dumps([list(compiled(*case)) for case in json.loads(sys.argv[1])]))
"""
# Element, tile, precision, compute capability: 8.0 of an A100, 9.0 of an H100.
COMPILED = [("bf16", 16, "ieee", 90), ("bf16", 128, "ieee", 80), ("fp32", 64, "tf32", 80), ("fp32", 32, "ieee", 90)]


def test_it_compiles_for_gpus(tmp_path: Path) -> None:
    """To machine code, by matrix units but where float32 is to be exact."""
    command = [sys.executable, "-c", COMPILE, json.dumps(COMPILED)]
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    for (element, _, precision, _), made in zip(COMPILED, json.loads(done.stdout), strict=True):
        assert len(made) == 3
        for size, shared, by_matrix_units in made:
            assert size > 1000
            assert shared <= 163 << 10  # what a block may have on an A100; 227 KiB on an H100
            assert by_matrix_units == (precision != "ieee" or element == "bf16")
