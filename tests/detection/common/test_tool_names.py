"""The tools' names in messages, as the tools are called where the messages appear."""

from __future__ import annotations

import sys

import pytest

from detection.command_line import parser
from detection.common.tool_names import as_called_here

TEXT = """python tools/eval_coco.py --weights x, then (tools/predict.py)
torchrun --nproc-per-node 8 tools/train_rpn.py --config x
/home/me/tools/train.py, mytools/train.py"""


def test_in_a_checkout_they_are_left() -> None:
    assert as_called_here(TEXT) == TEXT


def test_of_the_installed_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["resnext-detect eval-coco"])
    assert as_called_here(TEXT) == (
        "resnext-detect eval-coco --weights x, then (resnext-detect predict)\n"
        "torchrun --nproc-per-node 8 -m detection.tools.train_rpn --config x\n"
        "/home/me/tools/train.py, mytools/train.py"
    )
    text = parser("", "next: python tools/predict.py").format_help()
    assert text.startswith("usage: resnext-detect eval-coco [-h]")
    assert text.endswith("next: resnext-detect predict\n")
