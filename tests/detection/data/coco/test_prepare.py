from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from backbones.common.errors import UserError
from detection.data.coco.layout import MINIVAL, TRAINVAL35K, resolve_split
from detection.data.coco.parts import LAYOUTS, Archive, Part
from detection.data.coco.prepare import DISK_RESERVE, Plan, carry_out, free_disk_space, make_plan

TRAIN2017_ZIP = "zips/train2017.zip"


def prepare(miniature, root: Path, base_url: str, layout: str = "auto", **options) -> Plan:
    plan = make_plan(root, layout, layouts=miniature.layouts, **options)
    carry_out(plan, base_url=base_url, expected=miniature.counts, progress=False)
    return plan


def tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def archive_names(root: Path) -> set[str]:
    return {name for name in tree(root) if name.endswith((".zip", ".partial"))}


@pytest.mark.parametrize("layout", ["2017", "2014"])
def test_everything_is_fetched_and_a_second_run_has_nothing_to_do(miniature, server, tmp_path, layout) -> None:
    prepare(miniature, tmp_path, server.url, layout)
    for split in ("trainval35k", "minival"):
        annotations, images = resolve_split(tmp_path, split)
        assert annotations.is_file()
        assert images == (tmp_path if layout == "2014" else tmp_path / annotations.stem.removeprefix("instances_"))
    names = set(tree(tmp_path))
    assert len([name for name in names if name.endswith(".jpg")]) == 8
    assert not [name for name in names if not name.endswith((".jpg", ".json"))]
    assert not [name for name in names if "captions" in name or "keypoints" in name]
    assert not (tmp_path / ".archives").exists()

    server.requests.clear()
    assert prepare(miniature, tmp_path, "http://127.0.0.1:9").is_done
    assert not server.requests
    assert set(tree(tmp_path)) == names


def test_both_layouts_give_the_same_splits(miniature, server, tmp_path) -> None:
    found = {}
    for layout in ("2017", "2014"):
        prepare(miniature, tmp_path / layout, server.url, layout)
        for split in ("trainval35k", "minival"):
            annotations, images = resolve_split(tmp_path / layout, split)
            data = json.loads(annotations.read_text())
            contents = {image["id"]: (images / image["file_name"]).read_bytes() for image in data["images"]}
            found[layout, split] = (contents, sorted(data["annotations"], key=lambda a: a["id"]), data["categories"])
    assert found["2017", "trainval35k"] == found["2014", "trainval35k"]
    assert found["2017", "minival"] == found["2014", "minival"]


@pytest.mark.parametrize("name", ["annotations/instances_minival.json", "annotations/instances_trainval35k.json"])
def test_no_other_split_is_overwritten(miniature, server, tmp_path, name) -> None:
    (tmp_path / "annotations").mkdir()
    (tmp_path / name).write_text("precious")
    with pytest.raises(UserError, match=rf"{name} is there already, and is not what is to be built"):
        prepare(miniature, tmp_path, server.url, "2014")
    assert (tmp_path / name).read_text() == "precious"
    assert len(list((tmp_path / "annotations").glob("*minival*"))) == (1 if "minival" in name else 0)
    (tmp_path / name).unlink()
    prepare(miniature, tmp_path, "http://127.0.0.1:9", "2014")
    (tmp_path / name).unlink()  # as if killed between the two: the other is what is to be built
    prepare(miniature, tmp_path, "http://127.0.0.1:9", "2014")


def test_only_what_is_missing_is_fetched(miniature, server, tmp_path) -> None:
    prepare(miniature, tmp_path, server.url, "2017")
    server.requests.clear()
    (tmp_path / "annotations/instances_train2017.json").unlink()
    (tmp_path / "annotations/instances_val2017.json").write_text("the user's own")
    next((tmp_path / "val2017").iterdir()).unlink()
    prepare(miniature, tmp_path, server.url)
    assert [path for path, _ in server.requests] == ["annotations/annotations_trainval2017.zip", "zips/val2017.zip"]
    assert (tmp_path / "annotations/instances_val2017.json").read_text() == "the user's own"
    assert len(list((tmp_path / "val2017").iterdir())) == 2


def test_the_2014_layout_needs_one_file_of_2017(miniature, server, tmp_path) -> None:
    prepare(miniature, tmp_path, server.url, "2014", only_annotations=True)
    assert set(tree(tmp_path)) == {
        *(
            f"annotations/instances_{name}.json"
            for name in ("train2014", "val2014", "val2017", "trainval35k", "minival")
        )
    }
    (tmp_path / TRAINVAL35K).unlink()
    server.requests.clear()
    prepare(miniature, tmp_path, server.url, "2014", only_annotations=True)
    assert (tmp_path / TRAINVAL35K).is_file()
    assert not server.requests


def test_the_layout_that_less_is_missing_of_is_recognised(miniature, server, tmp_path) -> None:
    def layout(**options) -> str:
        return make_plan(tmp_path, layouts=miniature.layouts, **options).layout

    assert layout() == make_plan(tmp_path / "absent").layout == "2017"
    (tmp_path / "val2014").mkdir()
    for i in range(4):
        (tmp_path / f"val2014/{i}.jpg").touch()
    assert layout() == layout(only_annotations=True) == "2014"
    prepare(miniature, tmp_path, server.url, "2017")
    assert layout() == "2017"


@pytest.mark.parametrize("where", [".", "archives"])
def test_archives_of_the_user_are_used_and_left_alone(miniature, server, tmp_path, where) -> None:
    (tmp_path / where).mkdir(exist_ok=True)
    archive = tmp_path / where / "train2017.zip"
    shutil.copy(miniature.folder / TRAIN2017_ZIP, archive)
    plan = prepare(miniature, tmp_path, server.url, "2017")
    assert f"take {archive}" in plan.describe()
    assert TRAIN2017_ZIP not in [path for path, _ in server.requests]
    assert archive_names(tmp_path) == {str(archive.relative_to(tmp_path))}


def test_archives_are_kept_on_request(miniature, server, tmp_path) -> None:
    prepare(miniature, tmp_path, server.url, "2017", keep_archives=True)
    kept = {f"archives/{name}.zip" for name in ("annotations_trainval2017", "val2017", "train2017")}
    assert archive_names(tmp_path) == kept
    prepare(miniature, tmp_path, "http://127.0.0.1:9", "2017")
    assert archive_names(tmp_path) == kept
    assert not (tmp_path / ".archives").exists()


def test_no_other_file_is_overwritten_by_an_archive_that_is_kept(miniature, server, tmp_path) -> None:
    (tmp_path / "archives").mkdir()
    (tmp_path / "archives/train2017.zip").write_bytes(b"precious")
    with pytest.raises(UserError, match=r"archives/train2017\.zip is another file than .*, which is to be kept"):
        prepare(miniature, tmp_path, server.url, "2017", keep_archives=True)
    assert (tmp_path / "archives/train2017.zip").read_bytes() == b"precious"
    (tmp_path / "archives/train2017.zip").unlink()
    prepare(miniature, tmp_path, "http://127.0.0.1:9", "2017", keep_archives=True)
    assert "archives/train2017.zip" in archive_names(tmp_path)


@pytest.mark.parametrize("keep_archives", [False, True])
def test_an_archive_that_a_killed_run_did_not_put_away_is_put_away(miniature, server, tmp_path, keep_archives) -> None:
    prepare(miniature, tmp_path, server.url, "2017")
    (tmp_path / ".archives").mkdir()
    shutil.copy(miniature.folder / TRAIN2017_ZIP, tmp_path / ".archives")
    plan = prepare(miniature, tmp_path, "http://127.0.0.1:9", keep_archives=keep_archives)
    assert "put away .archives/train2017.zip" in plan.describe()
    assert archive_names(tmp_path) == ({"archives/train2017.zip"} if keep_archives else set())
    assert not (tmp_path / ".archives").exists()


def test_a_dropped_connection_is_resumed(miniature, server, tmp_path) -> None:
    server.drop_after[TRAIN2017_ZIP] = 100_000
    prepare(miniature, tmp_path, server.url, "2017")
    assert [asked for path, asked in server.requests if path == TRAIN2017_ZIP] == [None, "bytes=100000-"]
    assert len(list((tmp_path / "train2017").iterdir())) == 6


def test_a_server_without_ranges_is_asked_from_the_start(miniature, server, tmp_path) -> None:
    server.ranges = False
    server.drop_after[TRAIN2017_ZIP] = 100_000
    prepare(miniature, tmp_path, server.url, "2017")
    assert len(list((tmp_path / "train2017").iterdir())) == 6


def with_archive(layouts: dict[str, tuple[Part, ...]], path: str, **changes: object) -> dict[str, tuple[Part, ...]]:
    def changed(archive: Archive) -> Archive:
        return replace(archive, **changes) if archive.path == path else archive

    return {
        name: tuple(replace(part, archive=changed(part.archive)) for part in parts) for name, parts in layouts.items()
    }


def test_a_wrong_hash_is_refused_and_nothing_unpacked(miniature, server, tmp_path) -> None:
    layouts = with_archive(miniature.layouts, TRAIN2017_ZIP, sha256="0" * 64)
    with pytest.raises(UserError, match=r"train2017\.zip.* is not the expected file"):
        carry_out(make_plan(tmp_path, "2017", layouts=layouts), base_url=server.url, progress=False)
    assert not (tmp_path / "train2017").exists()
    assert not archive_names(tmp_path)


def test_an_archive_of_the_user_with_a_wrong_hash_is_refused_and_kept(miniature, server, tmp_path) -> None:
    content = bytearray((miniature.folder / TRAIN2017_ZIP).read_bytes())
    content[1000] ^= 1
    (tmp_path / "train2017.zip").write_bytes(content)
    with pytest.raises(UserError, match=r"train2017\.zip is not the file at .*Move or delete it"):
        prepare(miniature, tmp_path, server.url, "2017")
    assert (tmp_path / "train2017.zip").read_bytes() == content
    assert not (tmp_path / "train2017").exists()


def test_an_archive_that_lacks_images_is_refused(miniature, server, tmp_path) -> None:
    parts = tuple(replace(part, images=part.images and part.images + 1) for part in miniature.layouts["2017"])
    plan = make_plan(tmp_path, "2017", layouts={"2017": parts})
    with pytest.raises(UserError, match=r"does not hold all of val2017/ \(3 images\)"):
        carry_out(plan, base_url=server.url, progress=False)


def test_a_disk_that_is_too_small_is_told_before_anything_is_fetched(miniature, server, tmp_path) -> None:
    plan = make_plan(tmp_path / "coco", "2017", layouts=miniature.layouts)
    needed = plan.disk_use()[0] + DISK_RESERVE
    with pytest.raises(UserError, match=r"too small: 20\d\.\d MB are needed, 20\d\.\d MB free"):
        carry_out(plan, base_url=server.url, free=lambda folder: needed - 1, progress=False)
    assert not server.requests
    assert not (tmp_path / "coco").exists()
    carry_out(plan, base_url=server.url, free=lambda folder: needed, progress=False)
    assert free_disk_space(tmp_path / "not/yet/there") == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.05)


def test_the_disk_needed_for_the_official_archives(tmp_path) -> None:
    """Archives go one by one: the most is needed while the largest lies beside what is unpacked from it."""
    plan = make_plan(tmp_path, "2017")
    unpacked = 490_000_000 + 815_585_330 + 19_336_861_798 + (118_287 + 5_000) * 4096
    assert plan.to_fetch == 252_907_541 + 815_585_330 + 19_336_861_798
    assert plan.disk_use() == (unpacked + 19_336_861_798, unpacked)
    kept = make_plan(tmp_path, "2017", keep_archives=True)
    assert kept.disk_use() == (unpacked + kept.to_fetch, unpacked + kept.to_fetch)
    annotations = make_plan(tmp_path, "2014", only_annotations=True)
    assert annotations.to_fetch == 252_907_541 + 252_872_794
    assert annotations.splits_size == pytest.approx(500e6, rel=0.1)


def test_the_table_of_archives_is_complete() -> None:
    archives = {part.archive for parts in LAYOUTS.values() for part in parts}
    assert {archive.path: archive.size for archive in archives} == {
        "zips/train2017.zip": 19_336_861_798,
        "zips/val2017.zip": 815_585_330,
        "annotations/annotations_trainval2017.zip": 252_907_541,
        "zips/train2014.zip": 13_510_573_713,
        "zips/val2014.zip": 6_645_013_297,
        "annotations/annotations_trainval2014.zip": 252_872_794,
    }
    assert all(len(bytes.fromhex(archive.sha256)) == 32 for archive in archives)


def in_a_process(work: Callable[[], object]) -> int:
    """Runs `work` in a process of its own and returns its exit status: -9 if it was killed."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def die_at_step(step: int, root: Path) -> None:
    """`kill -9` of this process when it opens, makes, renames or removes something below `root` for the n-th time."""
    steps = 0

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal steps
        if event in ("open", "os.rename", "os.remove", "os.mkdir") and str(arguments[0]).startswith(str(root)):
            steps += 1
            if steps == step:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def test_killed_at_any_instant_it_ends_in_the_same_state(miniature, tmp_path) -> None:
    url = miniature.folder.as_uri()
    prepare(miniature, tmp_path / "reference", url, "2014")
    reference = tree(tmp_path / "reference")
    kills = 0
    for step in range(1, 1000, 5):
        root = tmp_path / "killed"

        def work(root: Path = root, step: int = step) -> None:
            die_at_step(step, root)
            prepare(miniature, root, url, "2014")

        status = in_a_process(work)
        assert status in (0, -signal.SIGKILL)
        if status == 0:
            break
        kills += 1
        for name, content in tree(root).items():  # half a file never has the name of a whole one
            assert name not in reference or content == reference[name]
        assert in_a_process(lambda root=root: prepare(miniature, root, url, "2014")) == 0
        assert tree(root) == reference, f"after a kill at step {step}"
        assert not (root / ".archives").exists()
        shutil.rmtree(root)
    assert kills > 15


def test_killed_while_fetching_it_goes_on_from_there(miniature, server, tmp_path) -> None:
    server.stall_after[TRAIN2017_ZIP] = 1_400_000
    child = os.fork()
    if child == 0:
        prepare(miniature, tmp_path, server.url, "2017")
        os._exit(0)
    partial = tmp_path / ".archives/train2017.zip.partial"
    until = time.monotonic() + 30
    while not (partial.is_file() and partial.stat().st_size) and time.monotonic() < until:
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    fetched = partial.stat().st_size
    assert 0 < fetched <= 1_400_000

    server.stall_after.clear()
    server.requests.clear()
    plan = make_plan(tmp_path, "2017", layouts=miniature.layouts)
    assert plan.to_fetch == plan.jobs[0].archive.size - fetched
    prepare(miniature, tmp_path, server.url)
    assert server.requests == [(TRAIN2017_ZIP, f"bytes={fetched}-")]
    assert len(list((tmp_path / "train2017").iterdir())) == 6
    assert not (tmp_path / MINIVAL).exists()
