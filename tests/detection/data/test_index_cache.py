"""The cache of indices: what is opened from it, and when it is made anew."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detection.data import index_cache
from detection.data.findings import Purpose
from detection.data.index import DatasetIndex, load_index
from detection.data.index_cache import is_kept, keep, open_kept
from detection.data.watched_files import watch

FACTS = {"set": "one"}
Keep = Callable[..., DatasetIndex]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache that keeps the smallest index of files that have just been written."""
    monkeypatch.setenv("RESNEXT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(index_cache, "LEAST", 0)
    monkeypatch.setattr(index_cache, "SETTLED", -1e12)
    return tmp_path / "cache" / "indices"


@pytest.fixture
def read_and_keep(tmp_path: Path, sound: dict[str, Any]) -> Keep:
    """Reads the labels, written before, and keeps the index."""
    sound["annotations"][0]["bbox"] = [1, 2, 100, 20]  # over the edge: a repair
    sound["annotations"].append({**sound["annotations"][2], "id": 4, "bbox": [1, 1, 0, 5]})
    (tmp_path / "images").mkdir()
    for entry in sound["images"]:
        (tmp_path / "images" / entry["file_name"]).write_bytes(b"an image")
    (tmp_path / "labels.json").write_text(json.dumps(sound))

    def read(purpose: Purpose = "training", since: float = 0.0) -> DatasetIndex:
        labels, images = tmp_path / "labels.json", tmp_path / "images"
        index = load_index(labels, images, name="test", purpose=purpose, check="present")
        keep(FACTS, index, roots=[labels, images], labels=labels, images=False, since=since, said=["found"])
        return index

    return read


def same(one: Any, other: Any) -> None:
    """Asserts that two indices, or their stated objects, are equal in all fields."""
    for field in dataclasses.fields(one):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if isinstance(a, np.ndarray):
            assert a.dtype == b.dtype, field.name
            assert np.array_equal(a, b), field.name
        elif field.name == "findings":
            assert (a.purpose, a.summary()) == (b.purpose, b.summary())
            examples = [[(e, e.image, e.box) for f in x.by_kind.values() for e in f.examples] for x in (a, b)]
            assert examples[0] == examples[1]
        elif field.name == "stated" and a is not None:
            same(a, b)
        else:
            assert a == b, field.name


@pytest.mark.parametrize("purpose", ["training", "evaluation"])
def test_what_is_opened_is_what_was_kept(read_and_keep: Keep, purpose: Purpose) -> None:
    index = read_and_keep(purpose)
    kept = open_kept(FACTS)
    assert kept is not None
    same(index, kept.index)
    assert index.findings.summary() != ""
    assert kept.said == ["found"]
    same(index.non_empty(), kept.index.non_empty())
    unpickled = pickle.loads(pickle.dumps(kept.index))
    same(index, unpickled)
    assert isinstance(unpickled.boxes.base, np.memmap)  # not copied to each worker
    same(index.subset([1]), pickle.loads(pickle.dumps(kept.index.subset([1]))))
    kept.index.boxes[0] = 7  # in this process only
    again = open_kept(FACTS)
    assert again is not None
    same(index, again.index)


def test_another_set_is_not_opened(read_and_keep: Keep) -> None:
    read_and_keep()
    assert is_kept(FACTS)
    assert open_kept({"set": "another"}) is None
    assert not is_kept({"set": "another"})


def test_changed_labels_are_noticed(read_and_keep: Keep, tmp_path: Path) -> None:
    read_and_keep()
    labels = tmp_path / "labels.json"
    status, text = labels.stat(), labels.read_text()
    labels.write_text(text.replace("twenty", "eighty"))  # as long as before
    assert labels.stat().st_size == status.st_size
    assert not is_kept(FACTS)
    assert open_kept(FACTS) is None


def test_labels_of_another_time_with_the_same_content_are_the_same(read_and_keep: Keep, tmp_path: Path) -> None:
    index = read_and_keep()
    labels = tmp_path / "labels.json"
    copy = tmp_path / "copy.json"
    copy.write_bytes(labels.read_bytes())
    copy.replace(labels)
    os.utime(labels, (1, 1))
    assert not is_kept(FACTS)
    kept = open_kept(FACTS)
    assert kept is not None
    same(index, kept.index)
    assert is_kept(FACTS)  # the new time is known from here on


@pytest.mark.parametrize("change", ["removed", "added", "renamed"])
def test_changed_image_folders_are_noticed(read_and_keep: Keep, tmp_path: Path, change: str) -> None:
    read_and_keep()
    folder = tmp_path / "images"
    os.utime(folder, ns=(1, 1))
    read_and_keep()
    assert is_kept(FACTS)
    if change == "removed":
        (folder / "a.png").unlink()
    elif change == "added":
        (folder / "c.png").touch()
    else:
        (folder / "a.png").rename(folder / "A.png")
    assert open_kept(FACTS) is None


@pytest.mark.parametrize("place", [0, 20, 0.5, -1])
def test_a_damaged_file_is_made_anew(read_and_keep: Keep, cache: Path, place: float) -> None:
    index = read_and_keep()
    (path,) = cache.glob("*.index")
    data = bytearray(path.read_bytes())
    data[place if isinstance(place, int) else int(len(data) * place)] ^= 1
    path.write_bytes(data)
    assert open_kept(FACTS) is None
    read_and_keep()
    kept = open_kept(FACTS)
    assert kept is not None
    same(index, kept.index)


@pytest.mark.parametrize("size", [0, 7, 100, -1])
def test_a_file_that_was_cut_short_is_made_anew(read_and_keep: Keep, cache: Path, size: int) -> None:
    read_and_keep()
    (path,) = cache.glob("*.index")
    path.write_bytes(path.read_bytes()[:size])
    assert open_kept(FACTS) is None


def test_another_version_reads_for_itself(read_and_keep: Keep, monkeypatch: pytest.MonkeyPatch) -> None:
    read_and_keep()
    monkeypatch.setattr(index_cache, "_made_by", lambda: "another version")
    assert open_kept(FACTS) is None


def test_what_has_just_changed_is_not_kept(
    read_and_keep: Keep, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_cache, "SETTLED", 2.0)
    written = (tmp_path / "labels.json").stat().st_mtime
    read_and_keep(since=written + 1)
    assert not list(cache.glob("*"))
    read_and_keep(since=written + 1000)
    assert is_kept(FACTS)


def test_a_small_index_is_not_kept(read_and_keep: Keep, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_cache, "LEAST", 50_000)
    read_and_keep()
    assert not cache.exists()


def test_a_cache_that_cannot_be_written_stops_nothing(
    read_and_keep: Keep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("RESNEXT_CACHE", str(tmp_path / "file"))
    read_and_keep()
    assert open_kept(FACTS) is None


def test_several_at_once(read_and_keep: Keep) -> None:
    index = read_and_keep()
    faults: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(5):
                read_and_keep()
                kept = open_kept(FACTS)
                assert kept is not None
                same(index, kept.index)
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults


def test_what_no_start_has_used_for_months_is_removed(read_and_keep: Keep, cache: Path) -> None:
    read_and_keep()
    (path,) = cache.glob("*.index")
    other = cache / "other.index"
    other.touch()
    os.utime(other, (1, 1))
    read_and_keep()
    assert list(cache.glob("*.index")) == [path]


def test_links_are_watched_by_their_targets_and_cycles_end(tmp_path: Path) -> None:
    folder = tmp_path / "watched"
    folder.mkdir()
    (tmp_path / "target.png").touch()
    try:
        (folder / "link.png").symlink_to(tmp_path / "target.png")
        (folder / "above").symlink_to(tmp_path)
    except OSError:
        pytest.skip("no links here")
    (folder / "image.png").touch()
    found, _ = watch([folder], images=False)
    assert str(folder / "link.png") in found.paths
    assert str(folder / "image.png") not in found.paths
    assert found.changed() == []
    (tmp_path / "target.png").unlink()
    assert str(folder / "link.png") in found.changed()
    assert str(folder / "image.png") in watch([folder / "image.png"], images=False)[0].paths
