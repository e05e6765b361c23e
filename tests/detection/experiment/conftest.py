"""The data and the runs that the tests of experiments share."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from detection.data.demo import make_demo_dataset


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    make_demo_dataset(folder, train=12, test=2)
    return folder


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    """The module's finished run in a folder that a test may change."""
    return Path(shutil.copytree(run, tmp_path / "copy"))
