"""Ranks that are not of one mind are refused before they work; a rank that fails ends the others with its message."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from backbones.common.errors import UserError
from detection.config import Config
from detection.config_file import change_config
from detection.training import consensus, distributed
from detection.training.consensus import require_agreement, require_same, require_same_weights, together
from detection.training.distributed import gather_objects
from tests.detection.ranks import by_ranks


@pytest.fixture(autouse=True)
def _soon() -> Iterator[None]:
    """Long before the time limit of a minute."""
    begin = time.monotonic()
    yield
    assert time.monotonic() - begin < 30.0


def config_of(rank: int, *changes: str) -> Config:
    base = ["backbone.weights=torchvision/IMAGENET1K_V2", "data.layout=coco"]
    return change_config(Config(), [*base, *(changes if rank == 1 else ())])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("rpn.training.learning_rate=0.01", "rpn.training.learning_rate is 0.02 on rank 0 and 0.01 on rank 1"),
        ("seed=5", "seed is 0 on rank 0 and 5 on rank 1"),
        ("rpn.training.clip_norm=3.0", "rpn.training.clip_norm is null on rank 0 and 3.0 on rank 1"),
        ("data.shorter_sides=[400]", "data.shorter_sides is [600] on rank 0 and [400] on rank 1"),
        ("rpn.training.evaluate_every=7", 'rpn.training.evaluate_every is "auto" on rank 0 and 7 on rank 1'),
        ("runtime.precision=bf16", 'runtime.precision is "fp32" on rank 0 and "bf16" on rank 1'),
    ],
)
def test_the_configurations_must_agree(change: str, said: str) -> None:
    told = by_ranks(2, lambda rank, _: require_agreement("train", config_of(rank, change)))
    assert told[0] == told[1]
    assert f"rank 1 and rank 0 disagree on what to do: {said}. Start every rank" in str(told[0])


def test_what_is_a_machines_own_may_differ() -> None:
    changes = ("data.root=/other", "output=/elsewhere", "runtime.workers=7", "runtime.device=cpu")
    assert by_ranks(2, lambda rank, _: require_agreement("train", config_of(rank, *changes))) == [None, None]


def test_so_must_the_work_and_the_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    def work(rank: int, _: object) -> None:
        if rank == 1:
            monkeypatch.setattr(consensus, "_source_digest", lambda: "another")
        require_agreement(("train", "measure")[rank], config_of(0), resume=rank == 1)

    told = by_ranks(2, work)
    assert told[0] == told[1]
    assert 'work is "train" on rank 0 and "measure" on rank 1' in str(told[0])
    assert "resume is false on rank 0 and true on rank 1" in str(told[0])
    assert 'version.this project is "' in str(told[0])
    assert 'on rank 0 and "another" on rank 1' in str(told[0])


def test_the_source_is_told_by_its_content() -> None:
    assert consensus._source_digest() == consensus._source_digest()
    assert len(consensus._source_digest()) == 16


def test_the_weights_must_agree() -> None:
    def work(rank: int, _: object) -> None:
        torch.manual_seed(0)
        network = nn.Conv2d(3, 4, 1)
        require_same_weights(network)
        with torch.no_grad():
            network.weight[0, 0] += rank
        require_same_weights(nn.ReLU(), network)

    told = by_ranks(2, work)
    assert "rank 1 and rank 0 disagree on the weights: SHA-256 is " in str(told[0])


def test_a_long_value_is_cut_and_a_missing_one_called_absent() -> None:
    told = by_ranks(2, lambda rank, _: require_same("it", {"a": "x" * 200} if rank else {"b": {"c": 1}}))
    assert 'a is absent on rank 0 and "' + "x" * 76 + "… on rank 1" in str(told[0])
    assert "b.c is 1 on rank 0 and absent on rank 1" in str(told[0])


@pytest.mark.parametrize("error", [UserError("no such disk"), KeyError("a mistake of ours")])
def test_a_rank_that_cannot_prepare_ends_the_others_with_its_message(error: Exception) -> None:
    def prepare(rank: int) -> int:
        if rank == 1:
            raise error
        return rank

    def work(rank: int, _: object) -> int | str:
        try:
            return together("reading", lambda: prepare(rank))
        except KeyError as own:
            return repr(own)

    told = by_ranks(3, work)
    assert told == [f"rank 1: {error}", repr(error) if isinstance(error, KeyError) else str(error), f"rank 1: {error}"]


def test_prepared_by_all_each_has_its_own() -> None:
    assert by_ranks(2, lambda rank, _: together("counting", lambda: rank * 10)) == [0, 10]


def test_a_rank_that_fails_while_others_wait_for_it_is_quoted() -> None:
    def work(rank: int, _: object) -> None:
        if rank == 1:
            raise UserError("images/7.jpg: it is empty")
        gather_objects(rank)

    first, second = by_ranks(2, work)
    assert second == "images/7.jpg: it is empty"
    assert "rank 0 of 2 on " in str(first)
    assert "ends because rank 1 has failed: images/7.jpg: it is empty" in str(first)


def test_a_rank_that_hangs_is_named_and_no_resume_is_offered_where_there_is_none() -> None:
    def work(rank: int, _: object) -> None:
        together("reading the annotations", lambda: time.sleep(4.0 if rank == 1 else 0.0))

    first, _ = by_ranks(2, work, time_limit=1.5)
    assert "Behind the others, or gone: rank 1. How far each rank had come: rank 0: gathering values" in str(first)
    assert "rank 1: reading the annotations." in str(first)
    assert "--resume" not in str(first)


def test_devices_of_two_kinds_are_refused() -> None:
    store = torch.distributed.HashStore()
    store.set("detection/device/1", "cuda")
    with pytest.raises(UserError, match=r"rank 0 computes on cpu and rank 1 on cuda.*runtime\.device=cpu"):
        distributed._require_one_kind_of_device(store, "cpu", 0, 2)


def test_alone_there_is_nobody_to_disagree_with() -> None:
    require_agreement("train", config_of(0))
    require_same("it", {"a": object()})
    assert together("reading", lambda: 5) == 5
    with pytest.raises(KeyError):
        together("reading", lambda: {}["a"])
