"""Frames of files, cameras and streams: all of a file in order, the newest of a stream, which is opened again."""

from __future__ import annotations

import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

from backbones.common.errors import UserError
from detection import video as module
from detection.video import Video, is_video
from tests.detection.videos import BreakingCaptures, frame, write_video


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LONGEST_PAUSE", 0)


@pytest.mark.parametrize("ending", [".mp4", ".avi"])
@pytest.mark.parametrize("every", [1, 4])
def test_the_frames_of_a_file(ending: str, every: int, tmp_path: Path) -> None:
    images = [frame([(5 * n, 10, 5 * n + 30, 40, 1)]) for n in range(13)]
    video = Video(write_video(tmp_path / f"clip{ending}", images, 10.0), every=every)
    assert (video.rate, video.frames, video.is_live, video.stem) == (10.0, 13, False, "clip")
    frames = list(video)
    assert [one.index for one in frames] == list(range(0, 13, every))
    np.testing.assert_allclose([one.time for one in frames], [n / 10 for n in range(0, 13, every)], atol=1e-3)
    for one in frames:
        assert np.abs(one.image.astype(int) - images[one.index]).mean() < 6  # the codec's loss; RGB, not BGR


@pytest.mark.parametrize("kind", ["text", "empty", "missing", "folder", "unknown codec"])
def test_what_cannot_be_read_is_told_in_words(kind: str, tmp_path: Path) -> None:
    path, message = tmp_path / "clip.avi", "is no video, is damaged, or has a codec.*ffmpeg -i"
    if kind == "text":
        path.write_text("hello")
    elif kind == "empty":
        path.touch()
    elif kind == "missing":
        message = "no such file"
    elif kind == "folder":
        path.mkdir()
        message = "is a directory"
    else:
        write_video(path, [frame([])] * 3)
        path.write_bytes(path.read_bytes().replace(b"MJPG", b"QQQQ"))
        message = r"has a codec \(codec QQQQ\) that this OpenCV does not read|has a codec that"
    with pytest.raises(UserError, match=rf"clip\.avi:? {message}"):
        Video(path)


def test_a_file_that_is_cut_short_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = write_video(tmp_path / "clip.avi", [frame([(n, 10, n + 30, 40, 2)]) for n in range(60)])
    (tmp_path / "cut.avi").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    count = len(list(Video(tmp_path / "cut.avi")))
    assert 20 < count < 40
    assert f"cut.avi ends after {count} of the 60 frames that it states" in caplog.text


def test_a_stream_that_breaks_is_opened_again(caplog: pytest.LogCaptureFixture) -> None:
    captures = BreakingCaptures(5, None, 0, 4, None, None, None)
    video = Video("rtsp://user:secret@host/cam", tries=3, open_capture=captures)
    assert (video.is_live, video.frames, video.rate) == (True, None, 25.0)
    frames = list(video)
    assert frames[-1].index == 8  # 5 frames, then 4; those that were not taken in time are skipped
    assert [one.index for one in frames] == sorted({one.index for one in frames})
    assert video.broke
    assert captures.opened == 7
    assert caplog.text.count("rtsp://host/cam broke: opening it again") == 6
    assert "rtsp://host/cam goes on" in caplog.text
    assert "could not be opened again in 3 tries" in caplog.text
    assert "secret" not in caplog.text


def test_a_stream_that_is_closed_ends_and_leaves_no_thread() -> None:
    video = Video("http://host/stream", open_capture=BreakingCaptures(10**9))
    for number, _ in enumerate(video):
        if number == 3:
            break
    video.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "frames of a stream"]
    assert not video.broke


def test_a_stream_that_does_not_open() -> None:
    with pytest.raises(UserError, match="rtsp://host/cam: no stream can be opened there") as caught:
        Video("rtsp://user:secret@host/cam", open_capture=BreakingCaptures(None))
    assert "secret" not in str(caught.value)
    with pytest.raises(UserError, match="camera 7: there is no camera of this number"):
        Video("7", open_capture=BreakingCaptures(None))


def test_a_file_on_the_network_has_an_end(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", [frame([])] * 7)
    video = Video("http://host/clip.mp4", open_capture=lambda _: cv2.VideoCapture(str(path)))
    assert (video.is_live, video.frames, len(list(video))) == (False, 7, 7)


def test_what_names_a_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert all(map(is_video, ("clip.MP4", Path("a/b.mov"), "rtsp://host/1", "HTTPS://host/a", "0", 2)))
    assert not any(map(is_video, ("a.jpg", "folder", Path("a.gif"), "ftp://host/a", True, 1.0, ["clip.mp4"], "12345")))
    (tmp_path / "0").mkdir()
    (tmp_path / "shot.mp4").mkdir()
    assert not is_video("0")
    assert not is_video("shot.mp4")


@pytest.mark.parametrize(("options", "message"), [({"every": 0}, "multiple of 0"), ({"tries": -1}, "-1 tries")])
def test_options_out_of_range(options: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Video("0", **options, open_capture=BreakingCaptures(3))
