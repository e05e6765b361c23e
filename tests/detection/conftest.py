"""The experiment in miniature (`pipeline.py`) as fixtures; each module draws the images that it needs, as `data`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.detection.pipeline import arguments_for, tool


@pytest.fixture(scope="module")
def run(config: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both networks trained once, by the tools."""
    output = tmp_path_factory.mktemp("run") / "it"
    tool("train_rpn", *arguments_for(config, data, output))
    tool("train_fastrcnn", *arguments_for(config, data, output))
    return output
