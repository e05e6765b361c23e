"""The examples that `--help` gives, run as they stand."""

from __future__ import annotations

import glob
import importlib
import importlib.util
import re
import shlex
import shutil
from pathlib import Path

import pytest
from PIL import Image

from tests.detection.pipeline import tool
from tests.detection.videos import frame, write_video


@pytest.fixture
def place(networks: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with all that the examples name."""
    run = tmp_path / "runs" / "demo"
    run.mkdir(parents=True)
    for name in ("rpn.pt", "detector.pt"):
        shutil.copy(networks / name, run)
    shutil.copy(run / "detector.pt", tmp_path)
    (tmp_path / "mine.yaml").write_text((networks / "miniature.yaml").read_text() + f"\noutput: {run}\n")
    images = sorted((data / "test").iterdir())
    shutil.copy(images[0], tmp_path / "street.jpg")
    Image.open(images[0]).save(tmp_path / "aerial.tif")
    write_video(tmp_path / "clip.mp4", [frame([(x, 10, x + 30, 40, 1)]) for x in range(4)])
    shutil.copytree(data / "train", tmp_path / "images")
    (tmp_path / "more").mkdir()
    shutil.copy(images[1], tmp_path / "more" / "other.png")
    shutil.copy(data / "annotations" / "instances_test.json", tmp_path / "instances_val2017.json")
    monkeypatch.chdir(tmp_path)
    tool("propose", "--weights", "runs/demo/rpn.pt", "--output", "runs/demo")
    tool("eval_coco", "--weights", "runs/demo/detector.pt")
    shutil.copy("runs/demo/evaluation/results.json", "results.json")
    return tmp_path


@pytest.mark.parametrize("name", ["predict", "propose", "eval_coco", "check_dataset"])
def test_the_examples_work(name: str, place: Path, data: Path) -> None:
    epilog = importlib.import_module(f"tools.{name}").EPILOG
    commands = re.findall(r"python tools/(\w+)\.py (.+)", epilog)
    assert len(commands) >= 2
    for command, arguments in commands:
        if "rtsp:" in arguments or arguments.endswith(" 0"):  # there is no stream and no camera here
            continue
        if "--track" in arguments and importlib.util.find_spec("trackers") is None:
            continue
        arguments = arguments.replace("detector.onnx", "detector.pt")  # an export takes long
        arguments = re.sub(r"/path/to/coco|/other/disk", str(data), arguments)
        if command == "check_dataset" and str(data) not in arguments:
            arguments += f" --data {data}"  # for the sample's relative data.root
        tool(command, *[found for word in shlex.split(arguments) for found in glob.glob(word) or [word]])
