"""The data pipelines that are compared do the same, and a difference is noticed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from backbones.common.errors import UserError
from benchmarks import data_pipeline, loader_runs
from benchmarks.common import OURS, PEER
from benchmarks.data_peers import Detectron, Ours, Torchvision, Work
from benchmarks.data_pipeline import MAPPER, STEPS, agreements, parts, wholes
from benchmarks.jpeg_decoding import decoders_table, reduced_row
from benchmarks.photographs import photographs


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    return Work(photographs(tmp_path_factory.mktemp("photographs"), 3, (96, 128)), shorter=120, longer=200)


def test_the_pipelines_agree(work: Work) -> None:
    assert agreements(work)["images compared"] == 6


def test_a_pipeline_that_does_something_else_is_refused(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    right = Detectron.resize
    monkeypatch.setattr(Detectron, "resize", lambda self, image: np.roll(right(self, image), 1, axis=1))
    with pytest.raises(UserError, match="differ"):
        agreements(work)
    monkeypatch.setattr(Detectron, "resize", lambda self, image: right(self, image)[:, 1:])
    with pytest.raises(UserError, match="same size"):
        agreements(work)


def test_boxes_that_do_not_follow_the_flip_are_refused(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    right = Torchvision.__init__

    def init(self: Torchvision, own: Work) -> None:
        right(self, own)
        flip = self.flip_at_random
        self.flip_at_random = lambda image, target: (flip(image), target)

    monkeypatch.setattr(Torchvision, "__init__", init)
    with pytest.raises(UserError, match="boxes"):
        agreements(work)


def test_half_the_images_are_flipped(work: Work) -> None:
    many = Work(work.index.subset(np.resize(np.arange(3), 60)), 120, 200)
    unflipped = Work(many.index, 120, 200, flip=0.0)
    for kind in (Ours, Torchvision, Detectron):
        torch.manual_seed(0)
        plain, own = kind(unflipped)(range(60)), kind(many)(range(60))
        same = sum(torch.equal(one, other) for one, other in zip(plain.images, own.images, strict=True))
        assert 15 < same < 45


def test_every_step_of_every_pipeline_runs(work: Work) -> None:
    steps = parts(work, 2)
    assert list(steps) == list(STEPS)
    for functions in (*steps.values(), wholes(work, 2)):
        for function in functions.values():
            function()
    assert all(set(functions) == {OURS, PEER, MAPPER} for functions in steps.values())


def test_decoding_at_a_reduced_size_is_compared_with_the_mean_over_areas() -> None:
    row = reduced_row((96, 128), 24, 1)
    assert row[:2] == ["128 × 96 → 32 × 24", "1/4"]
    assert all(float(cell.removesuffix(" dB")) > 15 for cell in row[-2:])


def test_all_decoders_give_the_same_pixels(tmp_path: Path) -> None:
    photographs(tmp_path, 2, (96, 128))
    content = decoders_table(sorted(tmp_path.rglob("*.jpg")), 1)
    assert [row[0] for row in content["rows"]][:3] == ["ours, which checks the file", "OpenCV", "Pillow"]
    assert all(int(row[-1]) <= 1 for row in content["rows"])


@pytest.mark.slow
def test_the_benchmark_writes_its_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "data_pipeline.json"
    monkeypatch.setattr("sys.argv", ["data_pipeline", "--quick", "--output", str(output)])
    assert data_pipeline.main() == 0
    wholes_rows, steps, decoders, *others = (len(one["rows"]) for one in json.loads(output.read_text())["tables"])
    assert (wholes_rows, steps, others) == (3, 3, [4, 4, 1])
    assert decoders >= 3  # more where further decoders are installed


@pytest.mark.slow
def test_workers_are_timed_in_a_process_of_their_own(tmp_path: Path) -> None:
    photographs(tmp_path, 8, (96, 128))
    runs = loader_runs.measured(tmp_path, (0, 2), batches=6, repeats=1, side=100)
    assert all(run.first_batch > 0 and run.per_image > 0 for run in runs.values())
    assert runs[0].worker_mb == 0
    assert runs[2].worker_mb > 1
