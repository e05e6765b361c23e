"""Damaged images on the way of a whole experiment: a training stops at them, or goes on and counts them."""

from __future__ import annotations

from pathlib import Path

import pytest

from detection.data.demo import demo_files, make_demo_dataset
from detection.data.index import load_index
from detection.data.proposal_store import ProposalStore
from tests.detection.pipeline import arguments_for, tool


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set with one damaged image in each split, both images that have objects."""
    folder = tmp_path_factory.mktemp("data")
    make_demo_dataset(folder, train=6, test=4)
    for split in ("train", "test"):
        image = load_index(*demo_files(folder, split), name="").non_empty().path(0)
        image.write_bytes(image.read_bytes()[: image.stat().st_size * 2 // 3])
    return folder


def test_a_run_stops_at_a_damaged_image_or_goes_on_if_told_so(damaged: Path, config: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    stopped = tool("train_rpn", *arguments_for(config, damaged, output), check=False)
    assert stopped.returncode == 1
    assert "the JPEG is cut short or damaged" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    # Permission may be given on the way: it is no part of what a resumed run must share with the earlier one.
    changes = ["data.skip_unreadable=true", "rpn.training.evaluate_every=null"]  # data.test has a damaged image, too
    arguments = arguments_for(config, damaged, output, changes)
    said = tool("train_rpn", *arguments, "--resume").stderr
    assert said.count("the JPEG is cut short or damaged") == 1
    assert "1 image(s) could not be read, asked for " in said
    assert "other images replaced them" in said

    tool("propose", "--weights", output / "rpn.pt", "--store", tmp_path / "train.st")
    index = load_index(damaged / "annotations/instances_train.json", damaged / "train", name="").non_empty()
    store = ProposalStore(tmp_path / "train.st")
    counts = [len(store.boxes(image_id)) for image_id in index.image_ids.tolist()]
    assert counts[0] == 0
    assert min(counts[1:]) > 0

    evaluated = tool("eval_coco", "--weights", output / "rpn.pt")
    assert "1 image(s) could not be read, asked for 1 time(s): nothing is found in them" in evaluated.stderr


def test_the_checker_names_them_all_beforehand(damaged: Path, config: Path) -> None:
    checked = tool("check_dataset", "--config", config, "--data", damaged, check=False)
    assert checked.returncode == 1
    for split in ("train", "test"):
        lines = [line for line in checked.stderr.splitlines() if f"/{split}/" in line and "cut short" in line]
        assert len(lines) == 1
        assert lines[0].startswith("1 images that cannot be read, or are of another size: replace them")


def test_the_checker_tells_what_a_sound_data_set_holds(config: Path, tmp_path: Path) -> None:
    make_demo_dataset(tmp_path / "sound", train=12, test=14)  # enough for an object of each class
    result = tool("check_dataset", "--config", config, "--data", tmp_path / "sound")
    told = result.stdout.splitlines()
    assert len(told) == 2
    assert result.stderr.count(": looking at every image of ") == 2  # before minutes of silence
    for line, split, images in zip(told, ("train", "test"), (12, 14), strict=True):
        assert line.startswith(f"data.{split}: ")
        assert f": {images} images" in line
        assert line.endswith("6 classes; nothing to repair")
