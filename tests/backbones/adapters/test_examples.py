"""The worked examples run: those in the adapters' docstrings, and every block of the guide, as they stand.

Names of pretrained weights stand for random numbers here, in the convention of the source; nothing is downloaded.
"""

from __future__ import annotations

import doctest
import functools
import importlib
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from backbones import create_classifier
from backbones.weights.pretrained import PretrainedWeights
from backbones.weights.sources import find_source

GUIDE = Path(__file__).resolve().parents[3] / "docs" / "backbones.md"
STAND_INS = ("detectron2_backbone", "mmdetection_backbone")
OPTIONAL = {"transformers_backbone": "transformers", "timm_features": "timm"}
ADAPTERS = ("torchvision_detection", "segmentation", *OPTIONAL, *STAND_INS)


def _blocks() -> list[pytest.param]:
    """Each fenced block of Python with the heading it stands under."""
    blocks, heading = [], ""
    for match in re.finditer(r"^#+ ([^\n]+)$|^```python\n(.*?)^```$", GUIDE.read_text(), re.M | re.S):
        if match[1]:
            heading, count = match[1], 0
        else:
            count += 1
            blocks.append(pytest.param(match[2], id=f"{heading} {count}"))
    return blocks


@functools.lru_cache
def _random_state(variant: str) -> dict[str, Tensor]:
    return create_classifier(variant).state_dict()


def _prepare(adapter: str, request: pytest.FixtureRequest) -> None:
    """Makes the adapter importable, by a stand-in if need be, or skips."""
    if adapter in STAND_INS:
        request.getfixturevalue(adapter)
    elif adapter in OPTIONAL:
        host = OPTIONAL[adapter]
        pytest.importorskip(host, reason=f"{host.upper()} MISSING: its example was not run; pip install {host}")


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_the_docstrings_example(adapter: str, request: pytest.FixtureRequest) -> None:
    _prepare(adapter, request)
    module = importlib.import_module(f"backbones.adapters.{adapter}")
    failed, attempted = doctest.testmod(module)
    assert attempted > 5
    assert not failed


@pytest.mark.parametrize("code", _blocks())
def test_the_guides_block(code: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve_weights(source: str, variant: str) -> PretrainedWeights:
        row = find_source(source, variant)
        assert row is not None, f"{source} is no name of the table for {variant}"
        state = _random_state(variant)
        return PretrainedWeights(state, row.input_format, {"source": row.name}, row.fused_norm)

    monkeypatch.setattr("backbones.weights.pretrained.resolve_weights", resolve_weights)
    for adapter in re.findall(r"backbones\.adapters\.(\w+)", code):
        _prepare(adapter, request)
    with torch.no_grad():
        exec(compile(code, str(GUIDE), "exec"), {})


def test_the_guide_is_read_whole() -> None:
    assert len(_blocks()) == GUIDE.read_text().count("```python\n")
    assert all(f"backbones.adapters.{adapter}" in GUIDE.read_text() for adapter in ADAPTERS)
