"""Datasets, batches and loaders: the same samples however they are spread, and errors that say what is wrong."""

from __future__ import annotations

import logging
import os
import pickle
import signal
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from backbones.common.errors import UserError
from detection.common.seeds import hash63
from detection.data.augmentation import Augmentation
from detection.data.batch_plan import BatchPlan
from detection.data.batches import Batch, Sample, collate
from detection.data.dataset import DetectionDataset
from detection.data.images import ImageError
from detection.data.index import DatasetIndex
from detection.data.loader import evaluation_parts, loaded_batches, training_batches
from detection.data.proposal_store import ProposalStore
from detection.data.proposal_writer import ProposalWriter

MakeIndex = Callable[..., DatasetIndex]
SIZES = [(20, 30), (24, 40), (40, 24), (30, 30), (50, 20), (20, 50), (33, 47)]


def dataset_of(index: DatasetIndex, **options: object) -> DetectionDataset:
    return DetectionDataset(index, Augmentation([24, 32], 60, horizontal_flip=0.5), seed=11, **options)  # type: ignore[arg-type]


def evaluated(
    dataset: DetectionDataset, *, workers: int = 0, size_divisor: int = 1, **options: object
) -> Iterator[Batch]:
    parts = evaluation_parts(dataset, size_divisor=size_divisor, **options)  # type: ignore[arg-type]
    return loaded_batches(dataset, parts, workers=workers, size_divisor=size_divisor)


def same(one: Batch, other: Batch) -> bool:
    return all(
        torch.equal(value, getattr(other, name)) if isinstance(value, torch.Tensor) else value == getattr(other, name)
        for name, value in vars(one).items()
    )


def test_sample_of_an_image(make_index: MakeIndex) -> None:
    index = make_index(SIZES)
    sample = dataset_of(index)[3, 1]
    assert sample.image.dtype == torch.uint8
    assert sample.image.shape[0] == 3
    assert (sample.image_id, sample.index, sample.original_size) == (101, 1, (24, 40))
    assert sample.seed == hash63(11, 3, 1)
    assert len(sample.boxes) == len(sample.labels) == len(sample.crowds) == 2
    again = dataset_of(index)[3, 1]
    assert torch.equal(sample.image, again.image)
    assert torch.equal(sample.boxes, again.boxes)
    drawn = {tuple(dataset_of(index)[epoch, 1].boxes.flatten().tolist()) for epoch in range(20)}
    assert len(drawn) == 4  # two sizes, flipped or not


def sample_of(height: int, width: int, boxes: int, proposals: int | None = None) -> Sample:
    random = np.random.default_rng(height * 1000 + width)
    return Sample(
        image=torch.from_numpy(random.integers(1, 256, (height, width, 3), dtype=np.uint8)).permute(2, 0, 1),
        image_id=height,
        index=0,
        original_size=(height * 2, width * 2),
        boxes=torch.rand(boxes, 4),
        labels=torch.ones(boxes, dtype=torch.int64),
        crowds=torch.ones(boxes, dtype=torch.bool),
        proposals=None if proposals is None else torch.rand(proposals, 4),
        seed=2**63 - 1 - height,
    )


def test_collate_pads_with_zeros() -> None:
    samples = [sample_of(20, 31, 3, 5), sample_of(24, 17, 0, 0), sample_of(3, 32, 1, 7)]
    batch = collate(samples, size_divisor=16)
    assert batch.images.shape == (3, 3, 32, 32)
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert batch.sizes.tolist() == [[20, 31], [24, 17], [3, 32]]
    assert batch.original_sizes.tolist() == [[40, 62], [48, 34], [6, 64]]
    assert batch.image_ids.tolist() == [20, 24, 3]
    assert batch.seeds.tolist() == [2**63 - 1 - height for height in (20, 24, 3)]
    assert (batch.boxes.shape, batch.labels.shape, batch.crowds.shape) == ((3, 3, 4), (3, 3), (3, 3))
    assert batch.labels.sum(dim=1).tolist() == [3, 0, 1]
    assert batch.proposals is not None
    assert batch.proposal_counts is not None
    assert batch.proposals.shape == (3, 7, 4)
    assert batch.proposal_counts.tolist() == [5, 0, 7]
    for i, sample in enumerate(samples):
        height, width = sample.image.shape[1:]
        assert torch.equal(batch.images[i, :, :height, :width], sample.image)
        assert batch.images[i].sum() == sample.image.sum()
        assert torch.equal(batch.boxes[i, : len(sample.boxes)], sample.boxes)
        assert batch.boxes[i, len(sample.boxes) :].sum() == 0
        assert torch.equal(batch.proposals[i, : batch.proposal_counts[i]], sample.proposals)
    assert len(batch) == 3


def test_collate_without_any_box_or_with_mixed_proposals() -> None:
    batch = collate([sample_of(8, 8, 0), sample_of(9, 9, 0)])
    assert batch.boxes.shape == (2, 1, 4)  # one row of padding, so that the rows have a maximum
    assert batch.labels.tolist() == [[0], [0]]
    assert batch.proposals is None
    with pytest.raises(ValueError, match="some have none"):
        collate([sample_of(8, 8, 1), sample_of(8, 8, 1, 2)])


def test_halves_hold_each_image_once_with_the_same_padding() -> None:
    batch = collate([sample_of(8, 8, 1, 2), sample_of(16, 8, 3, 1), sample_of(8, 24, 0, 4)])
    first, second = batch.halves()
    assert (len(first), len(second)) == (2, 1)
    assert first.images.shape[1:] == second.images.shape[1:] == batch.images.shape[1:]
    assert torch.equal(torch.cat([first.image_ids, second.image_ids]), batch.image_ids)
    assert first.proposals is not None
    assert second.proposals is not None
    assert batch.proposals is not None
    assert torch.equal(torch.cat([first.proposals, second.proposals]), batch.proposals)


def test_batch_to_device_keeps_everything() -> None:
    batch = collate([sample_of(8, 8, 1, 2)])
    moved = batch.to("meta")
    assert moved.images.device.type == "meta"
    assert moved.proposals is not None
    assert moved.proposals.device.type == "meta"
    assert moved.problems == batch.problems
    assert same(pickle.loads(pickle.dumps(batch)), batch)


def test_workers_and_shares_change_nothing(make_index: MakeIndex) -> None:
    index = make_index(SIZES)
    plan = BatchPlan(index.aspect_ratios, 4, seed=11)
    dataset = dataset_of(index)
    options = {"first_step": 0, "last_step": 5, "size_divisor": 8}
    alone = list(training_batches(dataset, plan, **options))
    assert len(alone) == 5
    for workers in (2, 8):
        for mine, theirs in zip(training_batches(dataset, plan, workers=workers, **options), alone, strict=True):
            assert same(mine, theirs)
    spread = [list(training_batches(dataset, plan, rank=rank, world=2, accumulation=2, **options)) for rank in range(2)]
    assert [len(batches) for batches in spread] == [10, 10]
    for step, whole in enumerate(alone):
        parts = [batch for rank in range(2) for batch in spread[rank][2 * step : 2 * step + 2]]
        assert torch.cat([part.image_ids for part in parts]).tolist() == whole.image_ids.tolist()
        assert torch.cat([part.seeds for part in parts]).tolist() == whole.seeds.tolist()
        assert torch.cat([part.sizes for part in parts]).tolist() == whole.sizes.tolist()


def test_taking_up_in_the_middle(make_index: MakeIndex) -> None:
    index = make_index(SIZES)
    plan = BatchPlan(index.aspect_ratios, 3, seed=11)
    dataset = dataset_of(index)
    whole = list(training_batches(dataset, plan, first_step=0, last_step=8))
    read: list[int] = []
    original = dataset._read
    dataset._read = lambda i: (read.append(i), original(i))[1]  # type: ignore[method-assign,func-returns-value]
    rest = list(training_batches(dataset, plan, first_step=5, last_step=8))
    assert len(rest) == 3
    assert len(read) == 9  # no earlier image was read
    assert all(same(mine, theirs) for mine, theirs in zip(rest, whole[5:], strict=True))
    assert list(training_batches(dataset, plan, first_step=8, last_step=8)) == []


def test_the_global_generator_is_left_alone(make_index: MakeIndex) -> None:
    index = make_index(SIZES)
    before = torch.get_rng_state()
    for workers in (0, 1):
        list(evaluated(dataset_of(index), workers=workers))
    assert torch.equal(torch.get_rng_state(), before)


def test_more_parts_than_images_is_refused_at_once(make_index: MakeIndex) -> None:
    index = make_index(SIZES)
    plan = BatchPlan(index.aspect_ratios, 3, seed=11)
    with pytest.raises(ValueError, match="cannot be split"):
        training_batches(dataset_of(index), plan, first_step=0, last_step=1, world=2, accumulation=2)


@pytest.mark.parametrize("workers", [0, 1])
def test_evaluation_sees_each_image_once(make_index: MakeIndex, workers: int) -> None:
    index = make_index(SIZES)
    dataset = DetectionDataset(index, Augmentation([24], 60))
    seen = []
    for rank in range(3):
        for batch in evaluated(dataset, rank=rank, world=3, batch_size=2, workers=workers, size_divisor=8):
            assert len(batch) <= 2
            seen += batch.image_ids.tolist()
    assert sorted(seen) == index.image_ids.tolist()
    assert list(evaluated(dataset, rank=9, world=10)) == []


def test_at_evaluation_an_image_is_padded_as_if_it_were_alone(make_index: MakeIndex) -> None:
    """Whatever the batch size and the number of ranks."""
    index = make_index([*SIZES, *SIZES])
    dataset = DetectionDataset(index, Augmentation([24], 60))
    alone = {int(b.image_ids): b for b in evaluated(dataset, batch_size=1, size_divisor=8)}
    sizes = []
    for world in (1, 2):
        for rank in range(world):
            for batch in evaluated(dataset, rank=rank, world=world, batch_size=4, size_divisor=8):
                sizes.append(len(batch))
                for image_id, image in zip(batch.image_ids.tolist(), batch.images, strict=True):
                    assert torch.equal(image, alone[image_id].images[0])
    assert sum(sizes) == 2 * len(index)
    assert max(sizes) > 1


def test_which_images_share_a_batch_depends_neither_on_ranks_nor_on_what_is_left(make_index: MakeIndex) -> None:
    index = make_index([*SIZES, *SIZES, *SIZES])
    dataset = DetectionDataset(index, Augmentation([24], 60))
    alone = evaluation_parts(dataset, batch_size=2, size_divisor=8)
    assert max(map(len, alone)) == 2
    for world in (2, 3, 50):
        shares = [
            evaluation_parts(dataset, batch_size=2, size_divisor=8, rank=rank, world=world) for rank in range(world)
        ]
        assert sorted(part for share in shares for part in share) == sorted(alone)
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
    left = {3, 8, 20}
    some = evaluation_parts(dataset, batch_size=2, size_divisor=8, only=left)
    assert some == [part for part in alone if left & {i for _, i in part}]
    assert 2 <= len(some) <= 3


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_image_stops_with_its_message_alone(make_index: MakeIndex, workers: int) -> None:
    index = make_index(SIZES)
    index.path(4).write_bytes(b"<html>")
    plan = BatchPlan(index.aspect_ratios, 7, seed=0)
    with pytest.raises(UserError) as caught:
        list(training_batches(dataset_of(index), plan, first_step=0, last_step=1, workers=workers))
    assert isinstance(caught.value, ImageError)
    expected = "is no image of a kind that can be read: it is a web page; was it the answer to a failed download?"
    assert str(caught.value) == f"{index.path(4)}: {expected}"


def test_a_bad_image_is_replaced_where_that_is_allowed(make_index: MakeIndex, caplog: pytest.LogCaptureFixture) -> None:
    index = make_index(SIZES)
    index.path(4).unlink()
    plan = BatchPlan(index.aspect_ratios, 7, seed=0)
    dataset = dataset_of(index, unreadable="replace")
    with caplog.at_level(logging.WARNING):
        batches = [
            list(training_batches(dataset, plan, first_step=0, last_step=2, workers=workers)) for workers in (0, 1)
        ]
    for alone, other in zip(*batches, strict=True):
        assert same(alone, other)
        assert len(alone) == 7
        ((image_id, problem),) = alone.problems
        assert image_id != 104
        assert 104 not in alone.image_ids.tolist()
        assert f"{index.path(4)}: no such image" in problem
    assert caplog.text.count("no such image") == 2  # once for each of the two loaders, not for each epoch
    assert caplog.text.count("1 image(s) could not be read, asked for 2 time(s): other images replaced them") == 2


def test_what_was_replaced_is_counted_where_a_training_stops_taking_batches(
    make_index: MakeIndex, caplog: pytest.LogCaptureFixture
) -> None:
    index = make_index(SIZES)
    index.path(4).unlink()
    plan = BatchPlan(index.aspect_ratios, 7, seed=0)
    batches = iter(training_batches(dataset_of(index, unreadable="replace"), plan, first_step=0, last_step=9))
    for _ in range(3):
        next(batches)
    del batches
    assert "asked for 3 time(s)" in caplog.text


def test_nothing_left_to_replace_with(make_index: MakeIndex) -> None:
    index = make_index(SIZES[:2])
    for i in range(2):
        index.path(i).unlink()
    with pytest.raises(ImageError, match="no such image"):
        dataset_of(index, unreadable="replace")[0, 0]


def test_a_bad_image_is_blank_at_evaluation(make_index: MakeIndex, caplog: pytest.LogCaptureFixture) -> None:
    index = make_index(SIZES)
    index.path(2).write_bytes(b"")
    dataset = dataset_of(index, unreadable="blank")
    with caplog.at_level(logging.WARNING):
        batches = list(evaluated(dataset, batch_size=3))
    assert "1 image(s) could not be read, asked for 1 time(s): nothing is found in them" in caplog.text
    problems = [problem for batch in batches for problem in batch.problems]
    assert [image_id for image_id, _ in problems] == [102]
    assert "it is empty" in problems[0][1]
    assert sorted(i for batch in batches for i in batch.image_ids.tolist()) == index.image_ids.tolist()


def test_a_stand_in_is_no_larger_than_what_the_network_sees(make_index: MakeIndex) -> None:
    """Whatever size the annotations state of a file that cannot be read: 50,000 × 50,000 pixels would take 7.6 GB."""
    index = make_index(SIZES)
    index.path(2).write_bytes(b"")
    index.path(3).unlink()
    index.heights[2], index.widths[2] = 50_000, 50_000
    index.heights[3], index.widths[3] = 1, 2_000_000_000
    dataset = dataset_of(index, unreadable="blank")
    for i in (2, 3):
        tracemalloc.start()
        sample = dataset[0, i]
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 10_000_000
        assert sample.image.shape == (3, *dataset.size((0, i)))
        assert sample.image.numel() < 3 * 200 * 200
        assert sample.original_size == (index.heights[i], index.widths[i])
        assert sample.problem is not None
        assert sample.boxes.shape == (0, 4)
        assert len(sample.labels) == len(sample.crowds) == 0


@pytest.mark.parametrize(
    "transforms",
    [
        [{"name": "RandomRotate90", "p": 0.5}],
        [{"name": "RandomCrop", "height": 18, "width": 20, "p": 0.5}],
        [{"name": "RandomSizedBBoxSafeCrop", "height": 31, "width": 47, "p": 0.5}, {"name": "RandomScale", "p": 0.5}],
        [{"name": "BBoxSafeRandomCrop", "p": 1.0}, {"name": "RandomBrightnessContrast", "p": 0.5}],
        [{"name": "RandomBrightnessContrast", "p": 0.5}],
    ],
    ids=lambda transforms: transforms[0]["name"],
)
def test_sizes_are_those_that_a_pipeline_leaves(transforms: list[dict[str, Any]], make_index: MakeIndex) -> None:
    index = make_index(SIZES)
    augmentation = Augmentation((40, 60), 120, 0.5, albumentations=transforms)
    dataset = DetectionDataset(index, augmentation, seed=3, unreadable="blank")
    keys = [(epoch, i) for epoch in range(4) for i in range(len(index))]
    expected = {key: dataset[key].image.shape for key in keys}
    moved = [key for key in keys if expected[key] != (3, *resized(augmentation, index, dataset, key))]
    assert bool(moved) == (transforms[0]["name"] != "RandomBrightnessContrast")
    for i in range(len(index)):
        index.path(i).write_bytes(b"")
    for key in keys:
        assert (3, *dataset.size(key)) == dataset[key].image.shape == expected[key]
        assert dataset[key].problem is not None


def resized(
    augmentation: Augmentation, index: DatasetIndex, dataset: DetectionDataset, key: tuple[int, int]
) -> tuple[int, int]:
    """The size without the pipeline."""
    epoch, i = key
    return augmentation.target_size(int(index.heights[i]), int(index.widths[i]), hash63(dataset.seed, epoch, i))


def test_an_image_that_a_pipeline_fails_on_keeps_the_size_without_it(make_index: MakeIndex) -> None:
    index = make_index(SIZES)
    crop = {"name": "RandomCrop", "height": 600, "width": 600, "p": 1.0}
    dataset = DetectionDataset(index, Augmentation((40,), 120, albumentations=[crop]), unreadable="blank")
    plain = DetectionDataset(index, Augmentation((40,), 120))
    for i in range(len(index)):
        assert dataset.size((0, i)) == plain.size((0, i)) == dataset[0, i].image.shape[1:]


def test_proposals_move_with_the_image(make_index: MakeIndex, tmp_path: Path) -> None:
    index = make_index(SIZES)
    writer = ProposalWriter(tmp_path / "p", {"dataset_fingerprint": index.fingerprint}, index.image_ids)
    for i, image_id in enumerate(index.image_ids.tolist()):
        boxes = index.objects(i)[0]
        writer.add(
            image_id, np.concatenate([boxes, [[0, 0, index.widths[i], index.heights[i]]]]), -np.arange(len(boxes) + 1)
        )
    writer.finish()
    dataset = dataset_of(index, proposals=ProposalStore(tmp_path / "p"))
    plan = BatchPlan(index.aspect_ratios, 7, seed=0)
    for workers in (0, 1):
        (batch,) = training_batches(dataset, plan, first_step=0, last_step=1, workers=workers)
        assert batch.proposals is not None
        assert batch.proposal_counts is not None
        for i in range(7):
            count = int(batch.proposal_counts[i]) - 1
            assert torch.equal(batch.proposals[i, :count], batch.boxes[i, :count])
            height, width = batch.sizes[i].tolist()
            assert batch.proposals[i, count].tolist() == [0, 0, width, height]
    limited = dataset_of(index, proposals=ProposalStore(tmp_path / "p"), proposal_limit=1)[0, 1]
    assert limited.proposals is not None
    assert len(limited.proposals) == 1


def test_workers_started_afresh(make_index: MakeIndex) -> None:
    """Everything that goes to a worker survives pickling, as under the spawn start method."""
    index = make_index(SIZES)
    dataset = pickle.loads(pickle.dumps(dataset_of(index)))
    assert torch.equal(dataset[2, 3].image, dataset_of(index)[2, 3].image)


def children() -> set[str]:
    """The ids of this process's children."""
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


def test_workers_outlive_signals_to_the_group(make_index: MakeIndex) -> None:
    index = make_index(SIZES)
    plan = BatchPlan(index.aspect_ratios, 2, seed=0)
    before = children()
    batches = iter(training_batches(dataset_of(index), plan, first_step=0, last_step=40, workers=2))
    for _ in range(2):  # one of each worker: both are past their preparation
        next(batches)
    workers = children() - before
    assert len(workers) == 2
    for child in map(int, workers):
        os.kill(child, signal.SIGINT)
        os.kill(child, signal.SIGTERM)
    assert sum(1 for _ in batches) == 38


def test_leaving_early_ends_the_workers(make_index: MakeIndex) -> None:
    index = make_index(SIZES)
    plan = BatchPlan(index.aspect_ratios, 2, seed=0)
    before = children()
    batches = iter(training_batches(dataset_of(index), plan, first_step=0, last_step=4000, workers=2))
    next(batches)
    begin = time.monotonic()
    del batches
    assert children() <= before
    assert time.monotonic() - begin < 20
