from __future__ import annotations

import doctest
import time

from backbones.common import names
from backbones.common.names import did_you_mean, nearest_name


def test_the_worked_example_holds() -> None:
    assert doctest.testmod(names).failed == 0


def test_what_is_no_mistyped_name_has_no_nearest_one() -> None:
    assert nearest_name("resnext50_32x4", ["resnext50_32x4d", "resnet50"]) == "resnext50_32x4d"
    assert nearest_name("zebra", ["resnext50_32x4d", "resnet50"]) is None
    assert nearest_name(7, ["7"]) is None
    assert nearest_name(None, []) is None
    assert did_you_mean("x" * 64, ["x" * 63]) != ""
    assert did_you_mean("x" * 65, ["x" * 64]) == ""


def test_a_name_of_megabytes_takes_no_time() -> None:
    began = time.process_time()
    assert nearest_name("steps" * 1_000_000, ["steps", "size"] * 1000) is None
    assert time.process_time() - began < 1
