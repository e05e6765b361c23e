"""A data set in tar files, by the tools: the bits of the same set as files, with workers, after a kill."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from detection.config_file import load_config
from detection.data import index_cache
from detection.data.demo import make_demo_dataset
from detection.data.images import read_image
from detection.data.shards import MemberPath
from detection.experiment.datasets import load_split, open_split
from detection.experiment.shared_images import compare_with_train, images_also_in_train, training_source
from tests.detection.machines import Place, agent_arguments, two_namespaces
from tests.detection.pipeline import (
    MINIATURE,
    REPOSITORY,
    arguments_for,
    assert_same_weights,
    environment,
    kill_before_second_checkpoint,
    tool,
    torchrun,
)
from tests.detection.training.toy_processes import free_port

FILES = ["data.train.images=images/train", "data.test.images=images/test"]
SHARDS = ["data.train.images=images/train/train-{000000..000002}.tar", "data.test.images=images/test"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's images as files, in `files`, and in tar files, in `shards`, with equal labels."""
    folder = tmp_path_factory.mktemp("sets")
    make_demo_dataset(folder / "demo", train=8, test=4)
    (folder / "miniature.yaml").write_text(MINIATURE)
    tool("convert_dataset", "--data", folder / "demo", "--to", "coco", "--output", folder / "files")
    tool("convert_dataset", "--data", folder / "files", "--to", "coco", "--output", folder / "shards", "--shards", 3)
    return folder


def test_the_converter_writes_tar_files_that_all_tools_find(folder: Path, tmp_path: Path) -> None:
    root = folder / "shards"
    assert sorted(path.name for path in (root / "images/train").iterdir()) == [f"train-{i:06d}.tar" for i in range(3)]
    with tarfile.open(root / "images/train/train-000001.tar") as tar:
        assert [member.name for member in tar] == sorted(member.name for member in tar)
        assert len(tar.getmembers()) == 3
    said = [
        tool("check_dataset", "--data", folder / name, "--output", tmp_path / "page.html").stdout
        for name in ("files", "shards")  # the latter are found without being named
    ]
    assert said[0].replace("/files/", "/shards/") == said[1]
    assert "8 images, 25 objects" in said[1]
    back = tmp_path / "back"
    tool("convert_dataset", "--data", root, "--to", "coco", "--output", back, "--link")
    for split in ("train", "test"):
        for path in (folder / "files/images" / split).iterdir():
            assert (back / "images" / split / path.name).read_bytes() == path.read_bytes()
    refused = tool("convert_dataset", "--data", root, "--to", "yolo", "--shards", 2, "--output", back, check=False)
    assert "needs --to coco" in refused.stderr


def test_test_images_that_are_also_in_the_training_tar_files_are_found(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "shards", tmp_path / "set")
    shutil.copy(folder / "shards/annotations/instances_train.json", tmp_path / "set/annotations/instances_test.json")
    shutil.rmtree(tmp_path / "set/images/test")
    shutil.copytree(folder / "files/images/train", tmp_path / "set/images/test")
    config = load_config(folder / "miniature.yaml", [f"data.root={tmp_path / 'set'}", *SHARDS])
    source, test = training_source(config.data), open_split(config.data, "test")
    assert source is not None
    train = open_split(config.data, "train")
    assert isinstance(train.path(0), MemberPath)
    listed = load_split(config.data, "train", source, "listed")
    for one in (train, listed):
        assert len(images_also_in_train(source, one, test)) == len(test) == 8
    (tmp_path / "set/images/train/train-000001.tar").write_bytes(b"")
    assert compare_with_train(config.data, source, test) == (None, [])  # an evaluation goes on without


def test_the_kept_index_holds_the_places_until_a_tar_file_changes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RESNEXT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(index_cache, "LEAST", 0)
    monkeypatch.setattr(index_cache, "SETTLED", -1e12)
    root = Path(shutil.copytree(folder / "shards", tmp_path / "set"))
    data = load_config(folder / "miniature.yaml", [f"data.root={root}", *SHARDS]).data
    pixels = [read_image(open_split(data, "train").path(i)) for i in range(8)]
    kept = open_split(data, "train")
    assert isinstance(kept.boxes.base, np.memmap)  # it comes from the cache
    assert all(np.array_equal(read_image(kept.path(i)), own) for i, own in enumerate(pixels))
    tar = root / "images/train/train-000000.tar"
    with tarfile.open(tar) as opened:
        contents = [(member, opened.extractfile(member).read()) for member in opened]  # type: ignore[union-attr]
    with tarfile.open(tar, "w") as opened:  # the images in another order
        for member, content in reversed(contents):
            opened.addfile(member, io.BytesIO(content))
    again = open_split(data, "train")
    assert not isinstance(again.boxes.base, np.memmap)
    assert all(np.array_equal(read_image(again.path(i)), own) for i, own in enumerate(pixels))


def test_a_training_gives_the_bits_of_files(folder: Path, tmp_path: Path) -> None:
    for name, changes in (("files", FILES), ("shards", [*SHARDS, "runtime.workers=2"])):
        steps = ["rpn.training.steps=2", "rpn.training.milestones=[]"]
        tool("train_rpn", *arguments_for(folder / "miniature.yaml", folder / name, tmp_path / name, changes + steps))
    assert_same_weights(tmp_path / "files/rpn.pt", tmp_path / "shards/rpn.pt")


@pytest.mark.slow
def test_both_trainings_and_the_evaluation_give_the_bits_of_files(folder: Path, tmp_path: Path) -> None:
    """Of the tar files, workers read, and each training is killed once and resumed."""
    for name, changes in (("files", FILES), ("shards", [*SHARDS, "runtime.workers=2"])):
        options = arguments_for(folder / "miniature.yaml", folder / name, tmp_path / name, changes)
        for stage in ("train_rpn", "train_fastrcnn"):
            if name == "shards":
                kill_before_second_checkpoint(stage, *options)
                tool(stage, *options, "--resume")
            else:
                tool(stage, *options)
        tool("eval_coco", "--weights", tmp_path / name / "detector.pt", "--images", 2)
    assert_same_weights(tmp_path / "files/rpn.pt", tmp_path / "shards/rpn.pt")
    assert_same_weights(tmp_path / "files/detector.pt", tmp_path / "shards/detector.pt")
    figures = [(tmp_path / name / "evaluation/results.json").read_bytes() for name in ("files", "shards")]
    assert figures[0] == figures[1]


@pytest.mark.slow
def test_two_machines_train_the_bits_of_one(folder: Path, tmp_path: Path) -> None:
    """Two processes on one machine, from files; one on each of two machines, from a folder that both see, and from tar
    files. The machines are network namespaces, and all are joined by gloo."""
    stages = ("train_rpn", "train_fastrcnn")
    options = arguments_for(folder / "miniature.yaml", folder / "files", tmp_path / "one", FILES)
    for stage in stages:
        torchrun(stage, *options, processes=2)
    with two_namespaces() as places:
        for name, changes in (("files", FILES), ("shards", SHARDS)):
            options = arguments_for(folder / "miniature.yaml", folder / name, tmp_path / name, changes)
            for stage in stages:
                on_two_machines(places, stage, *options)
    for name in ("files", "shards"):
        assert_same_weights(tmp_path / "one/rpn.pt", tmp_path / name / "rpn.pt")
        assert_same_weights(tmp_path / "one/detector.pt", tmp_path / name / "detector.pt")


def on_two_machines(places: list[Place], name: str, *arguments: object) -> None:
    """Runs a tool by an agent of torchrun on each machine."""
    port, agents = free_port(), []
    for number, place in enumerate(places):
        command = [
            *place.command,
            sys.executable,
            "-m",
            "torch.distributed.run",
            *agent_arguments(places, number, port),
        ]
        command += [f"tools/{name}.py", *map(str, arguments)]
        own = environment() | {"GLOO_SOCKET_IFNAME": place.interface}
        agents.append(subprocess.Popen(command, cwd=REPOSITORY, env=own, stderr=subprocess.PIPE, text=True))
    said = [agent.communicate(timeout=200)[1] for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], said[0][-2000:] + said[1][-2000:]
