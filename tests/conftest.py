"""Fixtures that several rooms' tests share."""

from __future__ import annotations

import os
from pathlib import Path

import hypothesis
import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: bits depend on the number of threads
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # importing albumentations must not reach for the network
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # nor importing onnxruntime

hypothesis.settings.register_profile("untimed", deadline=None)  # a busy machine is no fault
hypothesis.settings.load_profile("untimed")

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real images and annotations kept beside the repository (`../shared/data`); tests that need them skip where they
    are missing."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"REAL DATA MISSING: {folder} is not there, so nothing was tried on real images")
    return folder


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configuration's file of the experiment in miniature."""
    from tests.detection.pipeline import MINIATURE

    path = tmp_path_factory.mktemp("config") / "miniature.yaml"
    path.write_text(MINIATURE)
    return path


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few drawn images in a folder named shapes."""
    from detection.data.demo import make_demo_dataset

    folder = tmp_path_factory.mktemp("shapes") / "shapes"
    make_demo_dataset(folder, train=6, test=2)
    return folder
