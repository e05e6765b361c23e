"""A checkpoint of a run of fewer steps → accepted as one of this run, so that a finished run goes on with more steps.

With a step schedule the result is that of a run that had the larger number from the beginning, to the bit: the rates of
the steps that were done are the same. A cosine ends at 0 with the last step, so that those rates were others: the rate
rises again to what the longer cosine has there, a warm restart (Loshchilov and Hutter, "SGDR", 2017).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from detection import config as settings
from detection.training.recipe import schedule_for


class MoreSteps:
    """Compares the recipe of a checkpoint with that of this run.

    Args:
        training: this run's recipe.
        keys: where the recipe is in the provenance of a checkpoint, ("config", "rpn", "training").

    Attributes:
        before: the number of steps of the run that is continued; None if it is this run's.
    """

    def __init__(self, training: settings.Training, keys: Sequence[str]) -> None:
        self._training = training
        self._keys = keys
        self.before: int | None = None

    def accept(self, provenance: dict[str, Any], done: int) -> dict[str, Any]:
        """The provenance of a checkpoint after `done` steps, with this run's number of steps and milestones if the
        checkpoint's differ only in what is still to come: fewer steps in all, and other milestones above `done`."""
        recipe = _at(provenance, self._keys)
        steps, milestones = recipe.get("steps"), recipe.get("milestones")
        ours = self._training
        if not isinstance(steps, int) or not isinstance(milestones, list) or steps >= ours.steps:
            return provenance
        if [m for m in milestones if m < done] != [m for m in ours.milestones if m < done]:
            return provenance
        self.before = steps
        provenance = copy.deepcopy(provenance)
        _at(provenance, self._keys).update(steps=ours.steps, milestones=list(ours.milestones))
        return provenance

    def restart(self, done: int) -> dict[str, int] | None:
        """What the provenance of the weights says of a cosine that was restarted after `done` steps; None with a step
        schedule or without additional steps."""
        if self.before is None or self._training.schedule != "cosine":
            return None
        return {"after": done, "cosine_over": self.before}

    def remark(self, done: int) -> str | None:
        """What it means that the run goes on with more steps, for the log; None if it does not."""
        ours = self._training
        if self.before is None:
            return None
        text = f"this run had {self.before} steps and goes on after {done} to {ours.steps}"
        if ours.schedule == "step":
            return f"{text}: the result is that of {ours.steps} steps from the beginning"
        rate = schedule_for(ours)(done)
        return (
            f"{text}: its cosine was over {self.before} steps; the learning rate rises again to {rate:g}, that of a "
            f"cosine over {ours.steps} steps, and falls to 0 with it. The result is not that of {ours.steps} steps "
            "from the beginning"
        )


def _at(provenance: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    found: Any = provenance
    for key in keys:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found if isinstance(found, dict) else {}
