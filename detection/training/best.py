"""Figures of the evaluations → which evaluation was the best, and whether it is too long ago to go on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from backbones.common.errors import UserError


@dataclass
class Best:
    """The best evaluation so far, by one figure of which more is better.

    Attributes:
        figure: its name; None keeps no best.
        patience: the training stops after this many evaluations in a row without a better one; None: never.
        value: the highest value so far; None before the first.
        step: the step that had it; 0 before the first.
        since: evaluations since then.
    """

    figure: str | None = None
    patience: int | None = None
    value: float | None = None
    step: int = 0
    since: int = 0

    def update(self, step: int, figures: Mapping[str, float]) -> bool:
        """Adds an evaluation, and returns whether it is the best so far. A value that is not a number never is.

        Raises:
            UserError: the evaluation has no such figure; those that it has are named.
        """
        if self.figure is None:
            return False
        if self.figure not in figures:
            raise UserError(
                f'the evaluation has no figure "{self.figure}" to keep the best by: it has {", ".join(figures)}. '
                "Name one of them as training.keep_best"
            )
        value = figures[self.figure]
        if value > (float("-inf") if self.value is None else self.value):
            self.value, self.step, self.since = value, step, 0
            return True
        self.since += 1
        return False

    @property
    def is_exhausted(self) -> bool:
        """Whether `patience` evaluations in a row were not better."""
        return self.patience is not None and self.since >= self.patience

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"figure": self.figure, "value": self.value, "step": self.step, "since": self.since}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from the result of `state_dict`. The best by another figure is forgotten, as is that of a
        checkpoint of an earlier version, which had none.

        Raises:
            TypeError: it holds something else.
        """
        if "figure" not in state:
            return
        value, counts = state["value"], (state["step"], state["since"])
        if not (value is None or isinstance(value, float)) or not all(isinstance(n, int) and n >= 0 for n in counts):
            raise TypeError(f"the best evaluation is {dict(state)!r:.80}")
        if state["figure"] == self.figure:
            self.value, (self.step, self.since) = value, counts

    def __str__(self) -> str:
        return f"the best by {self.figure} ({self.value:.4f})" if self.value is not None else "the last"
