"""The tool that looks at images and videos, as a process: both together, and Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import pytest

from tests.detection.videos import frame, read_frames, write_video

pytest.importorskip("onnxruntime", reason="ONNXRUNTIME MISSING: the tool was not run with an exported file")

EXPORTED = Path(__file__).parents[1] / "detection" / "export" / "files" / "detector.onnx"


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "tools/predict.py", "--weights", str(EXPORTED), *map(str, arguments)]


def test_images_and_videos_in_one_call(repository: Path, tmp_path: Path) -> None:
    write_video(tmp_path / "clip.mp4", [frame([])] * 5)
    write_video(tmp_path / "other.avi", [frame([])] * 4)
    cv2.imwrite(str(tmp_path / "image.png"), frame([]))
    paths = [tmp_path / name for name in ("clip.mp4", "image.png", "other.avi")]
    options = ["--output", tmp_path / "out", "--every", "2", "--batch-size", "2"]
    outcome = subprocess.run(command(*paths, *options), cwd=repository, capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stderr
    assert "clip.mp4: 3 frames, 0 detections of score 0.5 and above" in outcome.stdout
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"image.jpg", "detections.json", "clip.mp4", "clip.jsonl", "other.mp4", "other.jsonl"}
    assert len((tmp_path / "out" / "other.jsonl").read_text().splitlines()) == 2


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for one process")
def test_ctrl_c_leaves_whole_files_of_the_frames_up_to_then(repository: Path, tmp_path: Path) -> None:
    write_video(tmp_path / "clip.mp4", [frame([])] * 3000)
    output = tmp_path / "out"
    arguments = command(tmp_path / "clip.mp4", "--output", output)
    process = subprocess.Popen(arguments, cwd=repository, stderr=subprocess.PIPE, text=True)
    growing = output / ".clip.jsonl.tmp"
    until = time.monotonic() + 60
    while not (growing.exists() and growing.read_text().count("\n") > 3):
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130, said
    lines = [json.loads(line) for line in (output / "clip.jsonl").read_text().splitlines()]
    assert 3 < len(lines) < 3000
    assert len(read_frames(output / "clip.mp4")[0]) == len(lines)
    assert f"has the first {len(lines)} frames" in said
    assert sorted(path.name for path in output.iterdir()) == ["clip.jsonl", "clip.mp4"]


def test_arguments_that_do_not_go_together_are_refused(repository: Path) -> None:
    for arguments, message in (
        (["fast_rcnn.detections=3"], "no image or video is given"),
        (
            ["a.mp4", "--tile", "300", "--batch-size", "2"],
            "--batch-size is for whole frames; with --tile, leave it out",
        ),
    ):
        outcome = subprocess.run(command(*arguments), cwd=repository, capture_output=True, text=True)
        assert (outcome.returncode, outcome.stderr) == (1, f"error: {message}\n")


def test_options_of_videos_without_a_video_are_refused(repository: Path, tmp_path: Path) -> None:
    outcome = subprocess.run(command(tmp_path, "--no-video"), cwd=repository, capture_output=True, text=True)
    assert (outcome.returncode, outcome.stderr) == (
        1,
        "error: --no-video is for videos and streams, and none is given\n",
    )
