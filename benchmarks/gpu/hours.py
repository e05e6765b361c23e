"""(f) The hours of the presets' schedules on 1 and on 8 devices, from the measured seconds of their steps.

A step of several micro-batches takes as many times the measured one. What several devices exchange is not in it: it
overlaps the backward pass, and one device cannot show what is left. Proposals are counted as the whole pair's
inference, which takes longer than the RPN's alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from benchmarks.common import OURS, ROOT
from detection.config_file import load_config
from detection.training.recipe import accumulation_steps

TRAIN_IMAGES = 118_287  # COCO's train2017
DEVICES = (1, 8)


def expected_hours(results: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of preset, backbone, precision, whether compiled, and for each number of devices the hours of the RPN's
    training, the proposals, the Fast R-CNN's training and their sum.

    results: those of the units of part b that were done.
    """
    rows = []
    for one in results:
        arguments = one["arguments"]
        seconds = {row["what"]: row["seconds"]["median"] for row in one["result"]["rows"] if row["who"] == OURS}
        rates = [row["images_per_second"] for row in one["result"]["rows"] if _is_our_inference(row)]
        config = load_config(ROOT / "configs" / arguments["preset"] / f"{arguments['backbone']}.yaml", [])
        hours = {}
        for devices in DEVICES:
            rpn, fast = (
                part.training.steps * accumulation_steps(part.training, devices) * seconds[what] / 3600
                for part, what in ((config.rpn, "RPN training step"), (config.fast_rcnn, "Fast R-CNN training step"))
            )
            proposals = TRAIN_IMAGES / max(rates) / devices / 3600
            hours[devices] = {"rpn": rpn, "proposals": proposals, "fast_rcnn": fast, "all": rpn + proposals + fast}
        rows.append({**arguments, "hours": hours})
    return rows


def _is_our_inference(row: Mapping[str, Any]) -> bool:
    return row["who"] == OURS and row["what"].startswith("inference")
