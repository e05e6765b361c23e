"""Per-image losses → means for the log, and an error when one of them, or a gradient, is not finite.

Legend: L loss terms, N images of a micro-batch.

Nothing here waits for the device until `check` or `means` is called. On an accelerator they are called only every few
steps; until then `bad` stays on the device, where the optimizer uses it to skip the update of a bad step (see loop.py).
The weights therefore stay finite, however late the host checks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

from backbones.common.errors import UserError
from detection.training.distributed import gather_numbers, gather_objects

_SHOWN = 20  # image ids that a message lists


class LossWatch:
    """Collects the losses of every micro-batch since the last check.

    Args:
        device: where the losses are.
        global_batch: images of one step over all ranks.
        last_good: returns a sentence about the last good checkpoint, for the error message.
        scaled: fp16 training, in which gradients may overflow: the gradient scaler skips those updates itself.
    """

    def __init__(
        self, device: torch.device, global_batch: int, *, last_good: Callable[[], str] = str, scaled: bool = False
    ) -> None:
        self.bad = torch.zeros((), device=device)  # 1.0 if the current step is not finite
        self._device = device
        self._global_batch = global_batch
        self._last_good = last_good
        self._scaled = scaled
        self._names: list[str] = []
        self._sums: Tensor | None = None  # (L,) over the images since `means`
        self._images = 0  # since `means`
        self._unchecked_images = 0
        self._steps: list[_Step] = []  # since `check`

    def step(self, number: int, done: Sequence[tuple[Tensor, Mapping[str, Tensor]]]) -> None:
        """Adds step `number` (from 1): for each of its micro-batches the image ids (N,) and the losses (N,) by name."""
        self.bad = torch.zeros((), device=self._device)
        step = _Step(number, self.bad)
        for image_ids, losses in done:
            self._names = list(losses)
            values = torch.stack([loss.float() for loss in losses.values()])  # (L, N)
            sums = values.sum(dim=1)
            self._sums = sums if self._sums is None else self._sums + sums
            self._images += len(image_ids)
            self._unchecked_images += len(image_ids)
            self.bad.logical_or_(~torch.isfinite(values).all())
            step.parts.append((image_ids, values))
        self._steps.append(step)

    def gradients(self, norm: Tensor) -> None:
        """Checks the norm () of the step's whole gradient; does not wait for the device."""
        if not self._scaled:
            self.bad.logical_or_(~torch.isfinite(norm))

    def check(self, signal: int) -> int:
        """Checks all steps since the last call, over all ranks. Waits for the device. Every rank calls this, at the
        same steps.

        Args:
            signal: the stop signal that this rank received, 0 if none.

        Returns:
            the stop signal that any rank received, so that all stop at the same step.

        Raises:
            UserError: on every rank, if on any rank a loss or a gradient was not finite (the message names the terms,
                the step and the image ids), or if the number of images does not match the global batch.
        """
        bad = torch.stack([step.bad for step in self._steps]).max()
        here = torch.stack(
            [bad, torch.tensor(float(signal)).to(bad), torch.tensor(float(self._unchecked_images)).to(bad)]
        )
        ranks = gather_numbers(here)
        if any(row[0] for row in ranks):
            self._stop()
        seen, expected = round(sum(row[2] for row in ranks)), self._global_batch * len(self._steps)
        if seen != expected:
            raise UserError(
                f"step {self._steps[-1].number}: {seen} images came in {len(self._steps)} step(s) where the global "
                f"batch asks for {expected}. Give the loader's batch plan and the training call the same global batch, "
                "accumulation and ranks."
            )
        self._steps.clear()
        self._unchecked_images = 0
        return int(max(row[1] for row in ranks))

    def means(self) -> dict[str, float]:
        """The mean of each loss over all images of all ranks since the last call, and "loss", their sum.

        Waits for the device. Every rank calls this.
        """
        assert self._sums is not None, "no micro-batch was added"
        ranks = gather_numbers(torch.cat([self._sums, self._sums.new_tensor([float(self._images)])]))
        totals = [sum(column) for column in zip(*ranks, strict=True)]
        means = {name: total / totals[-1] for name, total in zip(self._names, totals, strict=False)}
        self._sums, self._images = None, 0
        return {"loss": sum(means.values()), **means}

    def running_sums(self) -> dict[str, Any] | None:
        """This rank's sums that `means` would average now, as plain values and a CPU tensor; waits for the device."""
        if self._sums is None:
            return None
        return {"names": list(self._names), "sums": self._sums.cpu(), "images": self._images}

    def restore(self, sums: dict[str, Any] | None) -> None:
        """Continues from the result of `running_sums`, so that an average over steps before and after a break equals
        that of an uninterrupted run."""
        if sums is not None:
            self._names, self._images = list(sums["names"]), int(sums["images"])
            self._sums = sums["sums"].to(self._device)

    def _stop(self) -> NoReturn:
        findings = [step.findings(self._names) for step in self._steps if bool(step.bad)]
        everywhere = [finding for findings in gather_objects(findings) for finding in findings]
        first = min(step for step, _, _ in everywhere)
        terms: dict[str, set[int]] = {}
        for step, by_name, _ in everywhere:
            if step == first:
                for name, ids in by_name.items():
                    terms.setdefault(name, set()).update(ids)
        if terms:
            what = "; ".join(f"{name} of image {_listed(ids)}" for name, ids in terms.items())
            raise UserError(
                f"step {first}: the loss is not a finite number: {what}. It did not change the weights. "
                f"{self._last_good()}"
            )
        images = {image for step, _, ids in everywhere if step == first for image in ids}
        raise UserError(
            f"step {first}: every loss is finite, but the gradient is not. The step's images: {_listed(images)}. "
            f"It did not change the weights. {self._last_good()}"
        )


class _Step:
    """The losses of one step, kept until they are checked."""

    def __init__(self, number: int, bad: Tensor) -> None:
        self.number = number
        self.bad = bad
        self.parts: list[tuple[Tensor, Tensor]] = []  # image ids (N,), losses (L, N) of each micro-batch

    def findings(self, names: list[str]) -> tuple[int, dict[str, list[int]], list[int]]:
        """The step's number, the ids of images with a non-finite loss by term, the ids of all its images."""
        by_name: dict[str, list[int]] = {}
        all_ids: list[int] = []
        for image_ids, values in self.parts:
            ids = image_ids.cpu()
            all_ids += ids.tolist()
            for name, finite in zip(names, torch.isfinite(values).cpu(), strict=True):
                if not bool(finite.all()):
                    by_name.setdefault(name, []).extend(ids[~finite].tolist())
        return self.number, by_name, all_ids


def _listed(ids: set[int]) -> str:
    shown = sorted(ids)[:_SHOWN]
    return ", ".join(map(str, shown)) + (f" and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else "")
