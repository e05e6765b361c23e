"""Looking through a split: what does not fit into memory is told with sizes and what to lower."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from backbones.common.errors import UserError
from detection.config_file import load_config
from detection.data.demo import make_demo_dataset
from detection.experiment.datasets import open_split
from detection.experiment.inference import Inference, detect, propose
from tests.detection.pipeline import MINIATURE


class Greedy(nn.Module):
    """Asks for more memory than there is."""

    def __init__(self) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.zeros(()))

    def forward(self, *_: Any) -> Any:
        return torch.empty(1 << 58)

    def propose(self, *_: Any, **__: Any) -> Any:
        return torch.empty(1 << 58)


@pytest.mark.parametrize("look", ["detect", "propose"])
def test_out_of_memory_names_sizes_and_what_to_lower(look: str, tmp_path: Path) -> None:
    make_demo_dataset(tmp_path / "data", train=2, test=2)
    (tmp_path / "miniature.yaml").write_text(MINIATURE)
    config = load_config(tmp_path / "miniature.yaml", [f"data.root={tmp_path / 'data'}"])
    index = open_split(config.data, "test")
    inference: Any = Inference.configured(Greedy(), config)

    def run() -> object:
        if look == "detect":
            return detect(inference, index)
        return list(propose(inference, index, config.rpn.test_proposals))

    with pytest.raises(
        UserError, match=r"out of memory on .* 1 image\(s\) of 160 × 160 pixels .*Lower runtime\.test_batch"
    ):
        run()
