"""Determinism: torch's switches are set and put back, and what has no deterministic form is named."""

from __future__ import annotations

import dataclasses
import logging
import warnings

import pytest
import torch

from detection.config import Runtime
from detection.training.determinism import determinism, without_deterministic_form
from tests.detection.tiny_networks import tiny_fast_rcnn, tiny_rpn

ON = dataclasses.replace(Runtime(), deterministic=True)


def test_the_switches_are_set_and_put_back() -> None:
    torch.backends.cudnn.benchmark = True
    try:
        with determinism(ON):
            assert torch.are_deterministic_algorithms_enabled()
            assert torch.is_deterministic_algorithms_warn_only_enabled()
            assert not torch.backends.cudnn.benchmark
        assert not torch.are_deterministic_algorithms_enabled()
        assert torch.backends.cudnn.benchmark
        with determinism(Runtime()):
            assert not torch.are_deterministic_algorithms_enabled()
    finally:
        torch.backends.cudnn.benchmark = False


def test_an_operator_without_a_deterministic_form_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """`put_` without accumulation has none on any device."""
    shown = warnings.showwarning
    with warnings.catch_warnings(record=True) as others, caplog.at_level(logging.WARNING):
        warnings.simplefilter("always")
        with determinism(ON):
            for _ in range(2):
                torch.zeros(3).put_(torch.tensor([0]), torch.ones(1))
            warnings.warn("something else", stacklevel=1)
    assert [record.message for record in caplog.records] == [
        "runtime.deterministic: put_ has no deterministic form here"
    ]
    assert [str(other.message) for other in others] == ["something else"]
    assert warnings.showwarning is shown


def test_the_pooling_without_a_deterministic_gradient_is_named() -> None:
    gpu = torch.device("cuda")
    paper = tiny_fast_rcnn(pooling="max")
    [named] = without_deterministic_form(paper, gpu)
    assert "roi_pool" in named
    assert "fast_rcnn.pooling=align" in named
    assert without_deterministic_form(paper, torch.device("cpu")) == []
    assert without_deterministic_form(tiny_rpn(), gpu) == []
    paper.trunk.requires_grad_(False)
    assert without_deterministic_form(paper, gpu) == []


@pytest.mark.parametrize(("triton", "count"), [(True, 0), (False, 1)])
def test_roi_align_has_a_deterministic_gradient_by_triton(
    monkeypatch: pytest.MonkeyPatch, triton: bool, count: int
) -> None:
    monkeypatch.setattr("torch.utils._triton.has_triton", lambda: triton)
    assert len(without_deterministic_form(tiny_fast_rcnn(pooling="align"), torch.device("cuda"))) == count
