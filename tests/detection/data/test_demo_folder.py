"""The demo's folder: completed where it lacks something; refused, and left alone, where somebody has touched it."""

from __future__ import annotations

import hashlib
import itertools
import json
import multiprocessing
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from backbones.common.errors import UserError
from detection.data.demo import make_demo_dataset
from detection.data.demo_drawing import draw_image
from tests.detection.data.test_demo import digest

fork = multiprocessing.get_context("fork")


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A demo of few images, whole."""
    make_demo_dataset(tmp_path / "small", **SMALL)
    return tmp_path / "small"


SMALL = {"train": 3, "test": 2}
TOUCHED: dict[str, Callable[[Path], object]] = {
    "train/holiday.jpg (not drawn)": lambda folder: (folder / "train" / "holiday.jpg").write_bytes(b"mine"),
    "train/000004.jpg (not drawn)": lambda folder: (folder / "train" / "000004.jpg").write_bytes(b"mine"),
    "train/deep/a.jpg (not drawn)": lambda folder: [
        (folder / "train" / "deep").mkdir(), (folder / "train" / "deep" / "a.jpg").write_bytes(b"mine")
    ],
    "notes.txt (not drawn)": lambda folder: (folder / "notes.txt").write_text("mine"),
    "train/000002.jpg (changed)": lambda folder: (folder / "train" / "000002.jpg").write_bytes(b"mine"),
    "annotations/instances_test.json (changed)": lambda folder: (folder / "annotations" / "instances_test.json")
    .write_text("{}"),
    "test/000001.jpg (changed)": lambda folder: [
        (folder / "test" / "000001.jpg").replace(folder.parent / "away.jpg"),
        (folder / "test" / "000001.jpg").symlink_to(folder.parent / "away.jpg"),
    ],
    "more (not drawn)": lambda folder: [
        (folder.parent / "m").mkdir(),
        (folder / "more").symlink_to(folder.parent / "m"),
    ],
    "demo.json (not drawn)": lambda folder: (folder / "demo.json").write_text("{"),
}  # fmt: skip


@pytest.mark.parametrize("numbers", [SMALL, {"train": 1, "test": 1}], ids=["the same demo", "a smaller one"])
@pytest.mark.parametrize("named", TOUCHED)
def test_a_demo_that_was_touched_is_refused_and_left_as_it_is(small: Path, named: str, numbers: dict[str, int]) -> None:
    TOUCHED[named](small)
    before = digest(small)
    with pytest.raises(UserError) as caught:
        make_demo_dataset(small, **numbers)
    assert f"{small}: is not as the demo drew it: {named}" in str(caught.value)
    assert "name another folder (--data)" in str(caught.value)
    assert digest(small) == before
    make_demo_dataset(small.parent / "elsewhere", **numbers)


def test_what_was_named_is_moved_away_and_the_demo_goes_on(small: Path, tmp_path: Path) -> None:
    whole = digest(small)
    (small / "train" / "000002.jpg").write_bytes(b"mine")
    with pytest.raises(UserError):
        make_demo_dataset(small, **SMALL)
    (small / "train" / "000002.jpg").rename(tmp_path / "mine.jpg")
    make_demo_dataset(small, **SMALL)
    assert digest(small) == whole


def test_what_desktops_leave_is_no_matter_and_stays(small: Path) -> None:
    for name in (".DS_Store", "train/._000001.jpg", "train/Thumbs.db"):
        (small / name).write_bytes(b"theirs")
    before = digest(small)
    make_demo_dataset(small, **SMALL)
    assert digest(small) == before
    make_demo_dataset(small, train=1, test=1)
    assert (small / "train" / "Thumbs.db").read_bytes() == b"theirs"


def test_a_strangers_list_gives_nothing_away(small: Path, tmp_path: Path) -> None:
    """It names files that the demo would never draw, as if it had."""
    for path in (small / "thesis.txt", tmp_path / "precious.jpg"):
        path.write_bytes(b"mine")
    marker = json.loads((small / "demo.json").read_text())
    mine = hashlib.sha256(b"mine").hexdigest()
    marker["files"] |= {"thesis.txt": mine, "../precious.jpg": mine}
    (small / "demo.json").write_text(json.dumps(marker))
    with pytest.raises(UserError, match=r"thesis\.txt \(not drawn\)"):
        make_demo_dataset(small, train=1, test=1)
    (small / "thesis.txt").rename(tmp_path / "thesis.txt")
    make_demo_dataset(small, train=1, test=1)
    assert (tmp_path / "precious.jpg").read_bytes() == b"mine"


def test_a_file_that_comes_while_it_is_drawn_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import detection.data.demo as module

    mine = tmp_path / "a" / "train" / "000002.jpg"

    def draw_and_interfere(random: np.random.Generator) -> object:
        if mine.parent.exists():
            mine.write_bytes(b"mine")
        return draw_image(random)

    monkeypatch.setattr(module, "draw_image", draw_and_interfere)
    with pytest.raises(UserError, match=r"000002\.jpg came while the demo was drawn"):
        make_demo_dataset(tmp_path / "a", **SMALL)
    assert mine.read_bytes() == b"mine"


def write_marker_of_earlier_releases(folder: Path) -> None:
    content = json.loads((folder / "demo.json").read_text())
    joint = hashlib.sha256()
    for name in sorted(content.pop("files")):
        joint.update(f"{name} {(folder / name).stat().st_size}\n".encode() + (folder / name).read_bytes())
    (folder / "demo.json").write_text(json.dumps({**content, "digest": joint.hexdigest()}, indent=2))
    (folder / "demo.lock").unlink()


def test_a_demo_of_an_earlier_release_is_known(small: Path) -> None:
    write_marker_of_earlier_releases(small)
    before = digest(small)
    make_demo_dataset(small, **SMALL)
    assert digest(small) == before
    make_demo_dataset(small, train=1, test=1)
    assert len(list((small / "train").iterdir())) == 1


def test_a_touched_demo_of_an_earlier_release_is_refused(small: Path) -> None:
    write_marker_of_earlier_releases(small)
    (small / "train" / "holiday.jpg").write_bytes(b"mine")
    before = digest(small)
    with pytest.raises(UserError, match="is not as the demo drew it"):
        make_demo_dataset(small, **SMALL)
    assert digest(small) == before


def test_killed_at_any_instant_and_completed(tmp_path: Path) -> None:
    """The kill -9 falls between any two of the steps that leave something on the disk."""
    make_demo_dataset(tmp_path / "whole", **SMALL)
    make_demo_dataset(tmp_path / "other", train=1, test=3)  # some of it is replaced, some goes
    for steps in itertools.count(1):
        folder = tmp_path / f"killed_{steps}"
        shutil.copytree(tmp_path / "other", folder)
        process = fork.Process(target=draw_until_killed, args=(folder, steps))
        process.start()
        process.join(60)
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        make_demo_dataset(folder, **SMALL)
        assert digest(folder) == digest(tmp_path / "whole")
        assert {path.name for path in folder.iterdir()} == {"annotations", "train", "test", "demo.json", "demo.lock"}
        assert len(list(folder.rglob("*"))) == 5 + 3 + 2 + 2
    assert steps > 20


def draw_until_killed(folder: Path, steps: int) -> None:
    """Kills itself before the `steps`th time that it changes anything on the disk."""
    left = steps

    def count(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal left
        is_write = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if is_write or event in ("os.rename", "os.remove", "os.mkdir"):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    make_demo_dataset(folder, **SMALL)


def test_several_that_draw_at_once_all_come_out_whole(tmp_path: Path) -> None:
    make_demo_dataset(tmp_path / "whole", **SMALL)
    processes = [fork.Process(target=make_demo_dataset, args=(tmp_path / "shared",), kwargs=SMALL) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4
    assert digest(tmp_path / "shared") == digest(tmp_path / "whole")


def test_a_folder_with_other_files_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(
        UserError, match=r"holds files that are no demo data set.* a configuration that names them \(--config\)"
    ) as caught:
        make_demo_dataset(tmp_path, train=1, test=1)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    assert "empty" not in str(caught.value)  # no advice to delete one's data
