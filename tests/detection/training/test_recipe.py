"""What a recipe comes to on so many devices."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from backbones.common.errors import UserError
from detection.config import Training
from detection.config_file import load_config
from detection.data.batch_plan import share
from detection.training.recipe import accumulation_steps, batch_in_words
from tests.detection.pipeline import REPOSITORY


@pytest.mark.parametrize("preset", ["paper", "modern"])
@pytest.mark.parametrize("network", ["rpn", "fast_rcnn"])
def test_both_presets_train_on_any_number_of_devices_up_to_eight(preset: str, network: str) -> None:
    training: Training = getattr(load_config(REPOSITORY / f"configs/{preset}/resnet50.yaml"), network).training
    for world in range(1, 9):
        accumulation = accumulation_steps(training, world)
        parts = [
            part for rank in range(world) for part in share(np.arange(training.global_batch), rank, world, accumulation)
        ]
        sizes = [len(part) for part in parts]
        assert min(sizes) >= 1
        assert max(sizes) - min(sizes) <= 1
        assert np.concatenate(parts).tolist() == list(range(training.global_batch))
        words = batch_in_words(training, world)
        assert f"{world} process(es) × {accumulation} micro-batch(es) of up to {max(sizes)}" in words
        assert ("more than images_per_device" in words) == (max(sizes) > training.images_per_device)
        if training.global_batch % (world * training.images_per_device) == 0:
            assert max(sizes) == training.images_per_device


def test_a_device_takes_no_more_at_once_than_it_must() -> None:
    for batch in range(1, 33):
        for world in range(1, batch + 1):
            for at_once in range(1, 9):
                training = dataclasses.replace(Training(), global_batch=batch, images_per_device=at_once)
                accumulation = accumulation_steps(training, world)
                assert world * accumulation <= batch  # none is empty
                fits = -(-batch // (world * accumulation)) <= at_once
                assert fits or world * (accumulation + 1) > batch  # one more would leave one empty
                if accumulation > 1:  # one fewer would not fit
                    assert -(-batch // (world * (accumulation - 1))) > at_once


def test_more_devices_than_images_are_refused() -> None:
    training = dataclasses.replace(Training(), global_batch=8)
    with pytest.raises(UserError, match=r"global_batch is 8, fewer images than there are processes \(9\)"):
        accumulation_steps(training, 9)
