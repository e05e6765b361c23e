"""What a training step asks of its device, it does not wait for: the host can prepare the next one meanwhile.

The steps run on PyTorch's meta device, which has shapes and no numbers: whoever wants a number from it (`item`, a
`nonzero`, an index by a mask) fails. What goes the other way, numbers of the program copied to the device, makes the
host wait just as well, and is watched for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from detection.config import Config
from detection.config_file import load_config
from detection.data.batches import Batch
from detection.experiment.builders import build_fast_rcnn, build_rpn
from detection.kernels.choice import CUDA, use_kernels
from detection.training.loss_watch import LossWatch
from detection.training.recipe import optimizer_for
from detection.training.update import clipped_norm
from tests.detection.pipeline import REPOSITORY

META = torch.device("meta")
TINY = ["backbone.depths=[1,1,1,1]", "backbone.planes=8", "backbone.cardinality=2", "backbone.base_width=16"]
TINY += ["backbone.stem_width=8", "backbone.weights=null", "backbone.norm=group", "backbone.freeze=null"]


class CopiesFromTheHost(TorchDispatchMode):
    """Operators that take tensors of the host and give some on the device: on a GPU, each waits for a copy. A single
    number of the host may take part in arithmetic."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor) and one.device.type == "cpu"]
        is_copy = func in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
        on_device = any(isinstance(one, Tensor) and one.device == META for one in tree_leaves((args, kwargs, result)))
        if on_device and any(is_copy or one.ndim > 0 for one in given):
            self.seen.append(str(func))
        return result


class NumbersOfTheProgram(TorchFunctionMode):
    """Numbers of the program that become tensors, on a GPU by such a copy; on the meta device there is none."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func in (torch.tensor, torch.as_tensor, Tensor.new_tensor)
        if func in (Tensor.__getitem__, Tensor.__setitem__):
            made = any(isinstance(one, list) for one in (args[1] if isinstance(args[1], tuple) else args[1:2]))
        if made:
            self.seen.append(f"{func.__name__}{args}")
        return func(*args, **(kwargs or {}))


@pytest.fixture(params=["paper", "modern"])
def config(request: pytest.FixtureRequest) -> Config:
    """A preset around a tiny network."""
    return load_config(REPOSITORY / f"configs/{request.param}/resnext50_32x4d.yaml", TINY)


@pytest.fixture
def batch() -> Batch:
    """Two images with three objects each, and proposals."""
    return Batch(
        images=torch.empty(2, 3, 96, 128, dtype=torch.uint8, device=META),
        sizes=torch.empty(2, 2, dtype=torch.int64, device=META),
        original_sizes=torch.empty(2, 2, dtype=torch.int64, device=META),
        image_ids=torch.empty(2, dtype=torch.int64, device=META),
        seeds=torch.empty(2, dtype=torch.int64, device=META),
        boxes=torch.empty(2, 3, 4, device=META),
        labels=torch.empty(2, 3, dtype=torch.int64, device=META),
        crowds=torch.empty(2, 3, dtype=torch.bool, device=META),
        proposals=torch.empty(2, 200, 4, device=META),
        proposal_counts=torch.empty(2, dtype=torch.int64, device=META),
    )


@pytest.fixture(params=["rpn", "fast_rcnn"])
def step(request: pytest.FixtureRequest, config: Config, batch: Batch) -> Iterator[Callable[[], nn.Module]]:
    """One training step of either network, as the loop does it between two looks at its losses."""
    network = (build_rpn(config) if request.param == "rpn" else build_fast_rcnn(config, 80)).to(META).train()
    use_kernels(network, CUDA)
    training = getattr(config, request.param).training
    optimizer = optimizer_for(network, training)
    watch = LossWatch(META, 2)

    def one() -> nn.Module:
        losses = network(batch)
        torch.stack(list(losses.values())).sum().backward()
        watch.step(1, [(batch.image_ids, {name: loss.detach() for name, loss in losses.items()})])
        watch.gradients(clipped_norm(network, training.clip_norm or 10.0))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return network

    return one


def test_a_step_needs_no_number_from_its_device_and_copies_none_to_it(step: Callable[[], nn.Module]) -> None:
    step()  # numbers that are kept on the device go there once
    with CopiesFromTheHost() as copies, NumbersOfTheProgram() as numbers:
        step()
    assert copies.seen == []
    assert numbers.seen == []


def test_the_watch_would_notice() -> None:
    numbers = torch.empty(3, device=META)
    with NumbersOfTheProgram() as made:
        numbers - numbers.new_tensor([1.0, 2.0, 3.0])
        torch.tensor([1.0], device=META)
        numbers[[0, 2]]
        numbers[1:, None]
    assert len(made.seen) == 3
    copies: list[Callable[[], object]] = [
        lambda: torch.ones(3).to(META),
        lambda: torch.tensor(1.0).to(META),
        lambda: numbers[torch.arange(2)],
        lambda: numbers.copy_(torch.ones(3)),
        lambda: numbers.__setitem__(slice(None), torch.ones(3)),
    ]
    for copy in copies:
        with CopiesFromTheHost() as seen:
            copy()
        assert seen.seen
    with CopiesFromTheHost() as seen:
        numbers * 2.0 + torch.arange(3, device=META)
        numbers * torch.tensor(2.0)
    assert not seen.seen
    for ask in (Tensor.item, Tensor.tolist, Tensor.cpu, bool):
        with pytest.raises((RuntimeError, NotImplementedError)):
            ask(numbers.sum())  # type: ignore[operator]
    for ask in (Tensor.nonzero, lambda mask: numbers[mask]):
        with pytest.raises((RuntimeError, NotImplementedError)):
            ask(numbers > 0)
