"""convert_dataset.py, by the commands of its help; check_dataset.py on what it wrote."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.detection.data.readers.folders import draw, voc, write
from tests.detection.pipeline import tool
from tools.convert_dataset import EPILOG


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with all that the examples name: a set in one piece."""
    for i in range(5):
        draw(tmp_path / "images_and_labels" / f"{i}.jpg", seed=i)
        write(tmp_path / "images_and_labels" / f"{i}.xml", voc(f"{i}.jpg", ("cat", 1 + i, 1, 70, 20)))
    write(tmp_path / "mine.yaml", "data: {root: images_and_labels, split: {test: 0.2}}\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_examples_work(place: Path) -> None:
    commands = re.findall(r"python tools/convert_dataset\.py (.+)", EPILOG)
    said = [tool("convert_dataset", *shlex.split(arguments)).stdout for arguments in commands]
    assert said == [
        "written: as_coco\ntrain: 5 images, 5 objects\n",
        "written: divided\ntrain: 4 images, 4 objects\ntest: 1 images, 1 objects\n",
        "written: as_voc\ntrain: 4 images, 4 objects\ntest: 1 images, 1 objects\n",
        "written: as_shards\ntrain: 5 images, 5 objects\n",
    ]
    checked = tool("check_dataset", "--data", "as_voc").stdout
    assert checked.count("nothing to repair") == 2
    in_one_piece = tool("check_dataset", "--data", "as_coco").stdout
    assert "5 boxes that reach over the image's edge" in in_one_piece


def test_what_is_missing_or_in_the_way_is_one_message(place: Path) -> None:
    for arguments, said in (
        (["--data", "images_and_labels"], "error: --output DIR is needed: the new folder\n"),
        (["--output", "x"], "error: --data DIR or --config FILE is needed: the data set to convert\n"),
        (["--data", "gone", "--output", "x"], "error: gone: no such folder; name it with --data\n"),
        (["--data", "images_and_labels", "--output", "images_and_labels"],
         "error: images_and_labels: is there already; name a new folder (--output)\n"),
    ):  # fmt: skip
        failed = tool("convert_dataset", "--to", "coco", *arguments, check=False)
        assert (failed.returncode, failed.stderr) == (1, said)
