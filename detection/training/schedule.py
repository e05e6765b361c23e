"""The learning rate as a pure function of the step.

It has no state, so a resumed run needs none: the rate depends only on the step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from backbones.common.errors import UserError


@dataclass(frozen=True)
class Schedule:
    """Step → learning rate: a warm-up, then either a decrease at each milestone or a cosine to 0.

    The rate is `base_rate · warm-up · decay`. Steps count from 0: `schedule(0)` is the rate of the first update.

    - Warm-up rises linearly from `warmup_factor` at step 0 to 1 at step `warmup_steps`; `warmup_steps=0` disables it.
    - Decay: "multistep" multiplies the rate by `decay_factor` from each of the `milestones` on; "cosine" goes from 1 at
      the end of the warm-up to 0 at step `steps` along half a cosine (Loshchilov and Hutter, "SGDR", 2017, eq. 5).

    The paper's RPN (ResNeXt, appendix B) has 0.02 for 120 k iterations and 0.002 for the next 60 k:

    >>> paper = Schedule(base_rate=0.02, steps=180_000, milestones=(120_000,))
    >>> [round(paper(step), 6) for step in (0, 119_999, 120_000, 179_999)]
    [0.02, 0.02, 0.002, 0.002]

    With a warm-up over 500 iterations from a third (Detectron's recipe):

    >>> warm = Schedule(0.02, 90_000, milestones=(60_000, 80_000), warmup_steps=500, warmup_factor=1 / 3)
    >>> [round(warm(step), 6) for step in (0, 250, 500, 60_000, 80_000)]
    [0.006667, 0.013333, 0.02, 0.002, 0.0002]

    Raises:
        UserError: values out of range, or contradictory ones; all of them are named at once.
    """

    base_rate: float
    steps: int
    decay: str = "multistep"
    milestones: tuple[int, ...] = ()
    decay_factor: float = 0.1
    warmup_steps: int = 0
    warmup_factor: float = 1 / 3

    def __post_init__(self) -> None:
        problems = [
            (self.base_rate > 0 and math.isfinite(self.base_rate), f"base_rate must be above 0, not {self.base_rate}"),
            (self.steps > 0, f"steps must be above 0, not {self.steps}"),
            (self.decay in ("multistep", "cosine"), f'decay must be "multistep" or "cosine", not "{self.decay}"'),
            (self.warmup_steps >= 0, f"warmup_steps must not be negative, but is {self.warmup_steps}"),
            (0 <= self.warmup_factor <= 1, f"warmup_factor must lie in 0–1, but is {self.warmup_factor}"),
            (0 < self.decay_factor <= 1, f"decay_factor must lie in 0–1, but is {self.decay_factor}"),
            (list(self.milestones) == sorted(set(self.milestones)), f"milestones must rise, but are {self.milestones}"),
            (all(m > 0 for m in self.milestones), f"milestones must be above 0, but are {self.milestones}"),
            (
                self.decay != "cosine" or self.warmup_steps < self.steps,
                f"a cosine needs warmup_steps ({self.warmup_steps}) below steps ({self.steps})",
            ),
            (self.decay != "cosine" or not self.milestones, "a cosine has no milestones: leave one of the two out"),
        ]
        wrong = [message for is_right, message in problems if not is_right]
        if wrong:
            raise UserError("the learning-rate schedule cannot be used: " + "; ".join(wrong))

    def __call__(self, step: int) -> float:
        """The learning rate of update number `step` (0 … steps − 1)."""
        return self.base_rate * self._warmup(step) * self._decay(step)

    def _warmup(self, step: int) -> float:
        if step >= self.warmup_steps:
            return 1.0
        return self.warmup_factor + (1 - self.warmup_factor) * step / self.warmup_steps

    def _decay(self, step: int) -> float:
        if self.decay == "multistep":
            return self.decay_factor ** sum(step >= milestone for milestone in self.milestones)
        progress = max(step - self.warmup_steps, 0) / (self.steps - self.warmup_steps)
        return 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
