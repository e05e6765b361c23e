"""What the tools' tests work on: a few drawn images, and networks that were never trained."""

from __future__ import annotations

from pathlib import Path

import pytest

from detection.data.demo import make_demo_dataset
from tests.detection.pipeline import save_untrained_networks


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    make_demo_dataset(folder, train=3, test=4)
    return folder


@pytest.fixture(scope="session")
def networks(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with rpn.pt, detector.pt and the miniature.yaml that they are of."""
    folder = tmp_path_factory.mktemp("networks")
    save_untrained_networks(folder, data)
    return folder
