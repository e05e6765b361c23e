"""Classes as files list them: what no class can be is refused by its place."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from backbones.common.errors import UserError
from detection.common.categories import checked_categories


def test_sound_ones_come_back() -> None:
    assert checked_categories([7, -3, 2**63 - 1], ["a", "", "ä" * 1000], "x.pt") == (
        (7, -3, 2**63 - 1),
        ("a", "", "ä" * 1000),
    )


@pytest.mark.parametrize(
    ("ids", "names", "reason"),
    [
        (["1"], ["a"], "the id of its class 1 is no whole number"),
        ([1, 2.0], ["a", "b"], "the id of its class 2 is no whole number"),
        ([float("nan")], ["a"], "no whole number of 64 bits"),
        ([True], ["a"], "no whole number of 64 bits"),
        ([2**63], ["a"], "no whole number of 64 bits"),
        ([torch.tensor(1)], ["a"], "no whole number of 64 bits"),
        ([1, 1], ["a", "b"], "the id 1 is that of two"),
        ([1], [2], "the name of its class 1 is no text"),
        ([1], ["x" * 10**6], "the name of its class 1 is no text of up to 1000 characters"),
        ([1, 2], ["a"], "2 ids and 1 names"),
        ([], [], "no list of 1 to"),
        ("12", "ab", "the ids of its classes are no list"),
        ({1: 2}, ["a"], "the ids of its classes are no list"),
        ([1], None, "the names of its classes are no list"),
        ([1] * 1_000_001, ["a"] * 1_000_001, "no list of 1 to 1000000"),
    ],
)
def test_what_no_class_can_be_is_refused(ids: Any, names: Any, reason: str) -> None:
    with pytest.raises(UserError, match=f"^x.pt: .*{reason}") as caught:
        checked_categories(ids, names, "x.pt")
    assert len(str(caught.value)) < 200
