"""What the tools' tests work on: a few drawn images, and networks that were never trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from detection.config_file import load_config
from detection.data.demo import make_demo_dataset
from detection.data.demo_drawing import CLASSES
from detection.experiment.builders import build_fast_rcnn, build_rpn
from detection.experiment.model_files import Categories, Trained, TrainedDetector, save_detector, save_rpn
from tests.detection.pipeline import MINIATURE
from tests.detection.tiny_networks import spread


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    make_demo_dataset(folder, train=3, test=4)
    return folder


@pytest.fixture(scope="session")
def networks(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with rpn.pt, detector.pt and the miniature.yaml that they are of."""
    folder = tmp_path_factory.mktemp("networks")
    (folder / "miniature.yaml").write_text(MINIATURE)
    config = load_config(folder / "miniature.yaml", [f"data.root={data}", f"output={folder}"])
    torch.manual_seed(0)
    rpn, fast_rcnn = build_rpn(config), build_fast_rcnn(config, len(CLASSES))
    spread(rpn)
    spread(fast_rcnn)
    categories = Categories(tuple(range(1, len(CLASSES) + 1)), CLASSES)
    trained = TrainedDetector(Trained(rpn, config, categories), Trained(fast_rcnn, config, categories))
    save_rpn(folder / "rpn.pt", trained.rpn)
    save_detector(folder / "detector.pt", trained)
    return folder
