"""Videos, streams: annotated frames and JSON lines, whole however it ends, and no file of the user's overwritten."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backbones.common.errors import UserError
from backbones.common.files import CannotWrite
from detection import predict_video as module
from detection import video as video_module
from detection.predict_video import predict_video, predict_videos
from detection.report import video_file
from detection.video import Video
from tests.detection.videos import BreakingCaptures, SquareDetector, frame, read_frames, write_video


def moving(count: int, height: int = 120, width: int = 160) -> list[np.ndarray]:
    """Two boxes that cross the frames in opposite directions."""
    steps = [4 * number for number in range(count)]
    return [frame([(x, 10, x + 30, 40, 1), (width - 40 - x, 70, width - x, 110, 3)], height, width) for x in steps]


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_video(tmp_path / "clip.mp4", moving(13), 12.5)


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def left_behind(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize(("every", "batch_size", "tile"), [(1, 1, None), (1, 4, None), (3, 2, None), (1, 1, 100)])
def test_a_file_gives_an_annotated_video_and_json_lines(
    every: int, batch_size: int, tile: int | None, clip: Path, tmp_path: Path
) -> None:
    detector = SquareDetector()
    video = Video(clip, every=every)
    summary = predict_video(detector, video, tmp_path / "out" / "clip", batch_size=batch_size, tile=tile)
    indices = list(range(0, 13, every))
    assert (summary.frames, summary.tracks, summary.broke) == (len(indices), None, False)
    lines = lines_of(tmp_path / "out" / "clip.jsonl")
    assert [line["frame"] for line in lines] == indices
    np.testing.assert_allclose([line["time"] for line in lines], [index / 12.5 for index in indices], atol=1e-3)
    for line in lines:
        assert [one["category"] for one in line["detections"]] == ["red", "blue"]
        x = 4 * line["frame"]
        np.testing.assert_allclose(line["detections"][0]["box"], [x, 10, x + 30, 40], atol=4)  # the codec's edges
        assert set(line["detections"][0]) == {"category_id", "category", "score", "box"}
    assert summary.detections == 2 * len(indices)
    frames, rate = read_frames(tmp_path / "out" / "clip.mp4")
    assert len(frames) == len(indices)
    assert rate == pytest.approx(12.5 / every, abs=1e-3)
    assert {one.shape for one in frames} == {(120, 160, 3)}
    source = read_frames(clip)[0]
    assert np.abs(frames[1].astype(int) - source[indices[1]]).max() > 60  # something is drawn
    assert np.abs(frames[1].astype(int) - source[indices[1]]).mean() < 40  # on that frame
    if tile is None:
        assert max(detector.batches) == batch_size
    assert not left_behind(tmp_path / "out")


def test_frames_of_other_sizes_keep_theirs(tmp_path: Path) -> None:
    path = write_video(tmp_path / "large.avi", moving(3, 600, 801))
    predict_video(SquareDetector(), Video(path), tmp_path / "large_found")
    assert read_frames(tmp_path / "large_found.mp4")[0][0].shape == (600, 800, 3)  # an even number of columns


def test_without_a_video_there_are_lines_alone(clip: Path, tmp_path: Path) -> None:
    summary = predict_video(SquareDetector(), Video(clip), tmp_path / "out" / "clip", draw=False)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["clip.jsonl"]
    assert summary.files == [tmp_path / "out" / "clip.jsonl"]


def test_once_more_replaces_what_it_wrote(clip: Path, tmp_path: Path) -> None:
    for _ in range(2):
        (only,) = predict_videos(SquareDetector(), [Video(clip)], tmp_path / "out")
        assert only[1].frames == 13
    names = [path.name for path in (tmp_path / "out").iterdir()]
    assert sorted(names) == ["clip.jsonl", "clip.mp4"]


@pytest.mark.parametrize("case", ["input", "other video", "changed video", "other lines"])
def test_no_other_file_is_overwritten(case: str, clip: Path, tmp_path: Path) -> None:
    output, message = tmp_path / "out", "exists already"
    output.mkdir()
    if case == "input":
        output, message = tmp_path, "is the input, and would be overwritten"
    elif case == "other video":
        (output / "clip.mp4").write_bytes(clip.read_bytes())
    elif case == "changed video":
        predict_video(SquareDetector(), Video(clip), output / "clip")
        content = bytearray((output / "clip.mp4").read_bytes())
        content[len(content) // 2] ^= 1
        (output / "clip.mp4").write_bytes(content)
    else:
        (output / "clip.jsonl").write_text('{"frame": 1}\n')
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=message):
        predict_video(SquareDetector(), Video(clip), output / "clip")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("kind", [KeyboardInterrupt, UserError])
@pytest.mark.parametrize("live", [False, True])
def test_what_was_found_is_kept_however_it_ends(
    kind: type[BaseException], live: bool, clip: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    detector = SquareDetector()
    detector._batch = ending_after(5, kind, detector._batch)  # type: ignore[method-assign]
    video = Video("http://host/a", open_capture=BreakingCaptures(10**9)) if live else Video(clip)
    with pytest.raises(kind):
        predict_video(detector, video, tmp_path / "out" / "clip")
    assert len(lines_of(tmp_path / "out" / "clip.jsonl")) == 5
    frames = read_frames(tmp_path / "out" / "clip.mp4")[0]
    assert len(frames) >= 5 if live else len(frames) == 5
    assert "has the first 5 frames" in caplog.text
    assert not left_behind(tmp_path / "out")


def test_stopped_before_the_first_frame_nothing_is_written(clip: Path, tmp_path: Path) -> None:
    detector = SquareDetector()
    detector._batch = ending_after(0, KeyboardInterrupt, detector._batch)  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        predict_video(detector, Video(clip), tmp_path / "out" / "clip")
    assert list((tmp_path / "out").iterdir()) == []


def ending_after(count: int, kind: type[BaseException], batch: Callable[..., Any]) -> Callable[..., Any]:
    done = []

    def batch_or_end(images: list[np.ndarray]) -> Any:
        if len(done) == count:
            raise kind("the end")
        done.append(len(images))
        return batch(images)

    return batch_or_end


def test_of_a_video_that_could_not_be_completed_the_lines_are_kept(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Losing(video_file.VideoWriter):  # as OpenCV's where the disk is full: it tells nothing
        def finish(self) -> None:
            self.frames += 2
            super().finish()

    monkeypatch.setattr(video_file, "VideoWriter", Losing)
    with pytest.raises(CannotWrite, match=r"clip\.mp4: of 15 frames, 13 are in the file .* is the disk full"):
        predict_video(SquareDetector(), Video(clip), tmp_path / "out" / "clip")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["clip.jsonl"]
    assert len(lines_of(tmp_path / "out" / "clip.jsonl")) == 13


def test_a_stream_that_breaks_goes_on_in_the_same_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video_module, "_LONGEST_PAUSE", 0)
    video = Video("rtsp://host/cam", tries=1, open_capture=BreakingCaptures(3, 4))
    summary = predict_video(SquareDetector(), video, tmp_path / video.stem)
    assert summary.broke
    assert [path.name for path in summary.files] == ["host_cam.jsonl", "host_cam.mp4"]
    assert lines_of(summary.files[0])[-1]["frame"] == 6
    assert len(read_frames(summary.files[1])[0]) >= summary.frames


def test_the_video_of_a_stream_keeps_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    video = Video("rtsp://host/cam", open_capture=BreakingCaptures(3))
    frames = [video_module.Frame(number, time, frame([])) for number, time in enumerate((0.0, 1.0, 30.0))]
    monkeypatch.setattr(Video, "__iter__", lambda _: iter(frames))
    predict_video(SquareDetector(), video, tmp_path / "cam")
    assert len(read_frames(tmp_path / "cam.mp4")[0]) == 1 + 25 + 250  # at most 10 s of one frame
    assert [line["time"] for line in lines_of(tmp_path / "cam.jsonl")] == [0.0, 1.0, 30.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [({"tile": 4}, "a tile of 4"), ({"min_score": 2}, "least score"), ({"batch_size": 0}, "batch of 0 frames")],
)
def test_options_out_of_range_leave_no_folder(
    options: dict[str, Any], message: str, clip: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        predict_video(SquareDetector(), Video(clip), tmp_path / "out" / "clip", **options)
    assert not (tmp_path / "out").exists()


def test_a_detector_takes_a_video_as_a_stream(clip: Path) -> None:
    found = list(SquareDetector().stream(str(clip), batch_size=3))
    assert len(found) == 13
    assert {tuple(one.names) for one in found} == {("red", "blue")}


def test_tracks_are_on_the_video_and_in_the_lines(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Tracks:  # the numbers of the labels
        def __init__(self, rate: float, min_score: float) -> None:
            assert rate == 12.5

        def update(self, found: Any, time: float | None) -> np.ndarray:
            assert time is None
            return np.where(found.labels == 3, 17, -1)

    monkeypatch.setattr(module, "Tracker", Tracks)
    summary = predict_video(SquareDetector(), Video(clip), tmp_path / "tracked", track=True)
    assert summary.tracks == 1
    assert [one["track"] for one in lines_of(tmp_path / "tracked.jsonl")[3]["detections"]] == [None, 17]
