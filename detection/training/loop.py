"""Network + batches + optimizer → trained network: the training loop of every stage.

Legend: N images of a micro-batch, W ranks, B the global batch (images of one step over all ranks).

The network returns a dict of **per-image** losses (N,). A step's loss is `sum over terms and images / B`, so that its
gradient does not depend on how the images are spread over ranks and micro-batches. (DDP averages gradients over the
ranks; a factor W turns that into the sum.)

    one GPU:       python tools/train_rpn.py …
    eight GPUs:    torchrun --nproc-per-node 8 tools/train_rpn.py …
    two machines:  torchrun --nnodes 2 --nproc-per-node 8 --rdzv-endpoint HOST:PORT tools/train_rpn.py …
                   (the same on both, with an output folder that both share)
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn

from backbones.common.errors import UserError
from detection.training.averaging import WeightAverage
from detection.training.best import Best
from detection.training.checkpoints import Checkpointer, TrainingState
from detection.training.consensus import require_same, together
from detection.training.distributed import (
    DistributedError,
    explained,
    gather_objects,
    maximum_over_ranks,
    on_main,
    report_progress,
    share_buffers,
    world_size,
)
from detection.training.evaluation import Evaluation
from detection.training.folder_watch import FolderWatch
from detection.training.logging import Stopwatch, TrainingLog
from detection.training.loss_watch import LossWatch
from detection.training.memory import memory_in_use
from detection.training.micro_batches import (
    TrainingBatch,
    backward,
    backward_or_halve,
    next_parts,
    stream_of,
)
from detection.training.optimizer import set_learning_rate
from detection.training.random_state import preserved_random_state
from detection.training.run_lock import run_lock
from detection.training.signals import StopRequested, StopSignals
from detection.training.update import clipped_norm, poison_gradients, require_scale, skips_on_device, update

_SIGNAL_EVERY = 5  # steps between checks for a stop signal with several ranks on GPUs; a check makes the host wait


@dataclass(frozen=True)
class Outcome:
    """The result of a call of `train`.

    Attributes:
        step: updates done in the whole run.
        signal: the signal that ended it early; 0 if all steps are done.
        metrics: the figures of the last periodic evaluation in this session.
        first_step: updates that had been done before this session.
        written_step: the step whose weights are written; that of the best evaluation, or the last.
        written: those weights in words: "the last", "the best by AP (0.4321)".
        restarts: where the run went on with more steps on a longer cosine (`MoreSteps.restart`).
        precision: what it computed in.
    """

    step: int
    signal: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    first_step: int = 0
    written_step: int = 0
    written: str = "the last"
    restarts: tuple[dict[str, int], ...] = ()
    precision: str = "fp32"

    @property
    def finished(self) -> bool:
        """Whether all steps are done, or the training stopped early (`Best.patience`)."""
        return self.signal == 0

    @property
    def exit_status(self) -> int:
        """The exit status of a tool: 0 if finished, 128 + signal if interrupted, so that `train_a && train_b` stops."""
        return 128 + self.signal if self.signal else 0


def train(
    network: nn.Module,
    batches: Callable[[int], Iterable[TrainingBatch]],
    optimizer: torch.optim.Optimizer,
    *,
    steps: int,
    schedule: Callable[[int], float],
    global_batch: int,
    accumulation: int = 1,
    device: torch.device,
    autocast: torch.dtype | None = None,
    clip_norm: float | None = None,
    checkpointer: Checkpointer | None = None,
    checkpoint_every: int = 0,
    resume: bool = False,
    log: TrainingLog | None = None,
    log_every: int = 20,
    evaluate: Callable[[int], Evaluation] | None = None,
    evaluate_every: int = 0,
    best: Best | None = None,
    average: WeightAverage | None = None,
    on_start: Callable[[int], None] | None = None,
) -> Outcome:
    """Trains `network`, which lies on `device`, in place until `steps` updates are done or a stop signal is received.

    Args:
        network: batch → dict of per-image losses (N,), connected to all trainable parameters for every batch, even one
            without objects.
        batches: first step (from 0) → this rank's micro-batches from that step on, exactly `accumulation` a step.
        optimizer: over the network's parameters.
        steps: updates in the whole run.
        schedule: step (from 0) → learning rate.
        global_batch: images of a step over all ranks and micro-batches.
        autocast: bfloat16 or float16 (with loss scaling); None computes in float32.
        clip_norm: the norm to which the gradient is clipped; None does not clip.
        checkpointer: None writes no checkpoints and leaves the signal handlers unchanged. Otherwise a checkpoint is
            written every `checkpoint_every` steps, before every evaluation, at the end, and after a stop signal
            (SIGINT, SIGTERM, SIGUSR1).
        resume: continue from the newest checkpoint, bitwise as an uninterrupted run. Without it a folder that holds
            checkpoints is refused.
        log, log_every: figures are logged every `log_every` steps, and before every evaluation.
        evaluate, evaluate_every: step → figures and images, called on every rank every `evaluate_every` steps and after
            the last, with rank 0's running statistics and, with `average`, the averaged weights; it may change the
            network's mode, but not its weights. 0: never.
        best: by which figure the best checkpoint is kept as best.pt, and when the training stops early; it is brought
            up to date.
        average: the moving average of the network's weights, brought up to date after every step.
        on_start: called with the number of steps done, after the checks that the run may use the folder; the log is
            then open.

    Finite numbers: a step whose losses or gradient are not finite never changes the weights. On a CPU each step is
    checked before its update. On a GPU the host does not wait at every step: the result of the check stays on the
    device as a flag with which the fused optimizer skips the update, and the host reads the flag when it logs and
    before every checkpoint. With float16, the gradient scaler skips steps whose gradients overflow; the losses are
    checked as usual.

    Raises:
        UserError: a loss that is not finite (the message names its terms, step, image ids and the last good
            checkpoint); a checkpoint that cannot be written or does not belong to the run; batches that end early or do
            not add up to the global batch; ranks that disagree or fail.
    """
    world = world_size()
    if accumulation < 1 or global_batch < world * accumulation:
        raise UserError(
            f"a global batch of {global_batch} leaves some of {world} rank(s) × {accumulation} micro-batch(es) without "
            "an image: lower the number of ranks or the accumulation, or raise the global batch"
        )
    log = log or TrainingLog()
    scaler = torch.amp.GradScaler(device.type) if autocast == torch.float16 else None
    state = TrainingState(network, optimizer, scaler, best=best or Best(), average=average)
    metrics: dict[str, float] = {}
    lock = run_lock(checkpointer.folder) if checkpointer is not None else contextlib.nullcontext()
    signals = StopSignals()
    # Without checkpoints there is no reason to finish a step after a signal.
    watched = signals if checkpointer is not None else contextlib.nullcontext()
    agreed = {
        "steps": steps,
        "global_batch": global_batch,
        "accumulation": accumulation,
        "autocast": str(autocast),
        "clip_norm": clip_norm,
        "checkpoint_every": checkpoint_every if checkpointer is not None else None,
        "log_every": log_every,
        "evaluate_every": evaluate_every if evaluate is not None else None,
        "keep_best": [state.best.figure, state.best.patience],
        "resume": resume,
    }
    with lock, watched, _suggest_resume(checkpointer), explained("exchanging gradients"), contextlib.closing(log):
        require_same("the run", agreed | _identity(state, checkpointer))
        _begin(state, checkpointer, resume, log)
        require_same("how far the run is", {"step": state.step, "evaluated": state.evaluated})
        if on_start is not None:
            on_start(state.step)
        parallel = _wrap_for_ranks(network, device).train()
        folder = FolderWatch(checkpointer.folder) if checkpointer is not None else None
        first_step = state.step
        stream = stream_of(batches, first_step)
        watch = LossWatch(device, global_batch, last_good=partial(_last_good, checkpointer), scaled=scaler is not None)
        watch.restore(state.averages)
        looks_late = skips_on_device(optimizer, device)
        stopwatch, began, logged, signal = Stopwatch(), time.monotonic() - state.elapsed, state.step, 0

        gradient = partial(
            backward, parallel, device=device, factor=world / global_batch, autocast=autocast, scaler=scaler
        )

        def is_due(every: int) -> bool:
            return every > 0 and state.step % every == 0

        def evaluation_is_due() -> bool:
            return evaluate is not None and evaluate_every > 0 and (is_due(evaluate_every) or state.step == steps)

        def require_folder() -> None:
            if folder is not None:
                on_main(folder.check)

        def save() -> None:
            if checkpointer is not None:
                state.elapsed = time.monotonic() - began
                state.averages = watch.running_sums()
                with stopwatch.aside():
                    require_folder()
                    checkpointer.save(state)

        with contextlib.closing(stream):
            while True:
                if evaluate is not None and evaluation_is_due() and state.evaluated < state.step:
                    try:
                        with signals.raising(), stopwatch.aside():
                            evaluation = _evaluate_and_keep_best(evaluate, state, checkpointer)
                    except StopRequested as stop:  # the earlier checkpoint is kept, and is evaluated on resuming
                        return Outcome(state.step, stop.signal, metrics, first_step)
                    metrics = dict(evaluation.figures)
                    log.evaluation(state.step, metrics)
                    log.images(state.step, evaluation.images)
                    save()
                if state.best.is_exhausted and state.step < steps:
                    log.message(f"stopping early: no better {state.best.figure} since step {state.best.step}")
                if signal or state.step == steps or state.best.is_exhausted:
                    break

                rate = schedule(state.step)
                set_learning_rate(optimizer, rate)
                report_progress(f"loading the images of step {state.step + 1}")
                with stopwatch.waiting():
                    parts = next_parts(stream, accumulation, state.step + 1)
                report_progress(f"computing step {state.step + 1}")
                watch.step(state.step + 1, backward_or_halve(gradient, parts, optimizer, log.message))
                if scaler is not None:
                    maximum_over_ranks(watch.bad)
                    poison_gradients(network, watch.bad)
                    scaler.unscale_(optimizer)
                norm = clipped_norm(network, clip_norm)
                watch.gradients(norm)
                if looks_late:
                    maximum_over_ranks(watch.bad)  # either all ranks skip the update or none

                state.step += 1
                is_stop = evaluation_is_due() or state.step == steps
                save_due = is_due(checkpoint_every) or is_stop
                log_due = is_due(log_every) or is_stop  # so that an evaluation has the training time logged with it
                # torchrun kills the processes half a minute after its signal, so with several ranks all of them check
                # for one every few steps.
                asks = signals.received if world == 1 else is_due(_SIGNAL_EVERY)
                if not looks_late or save_due or log_due or asks:
                    signal = watch.check(signals.received)
                    require_scale(scaler, state.step)
                update(optimizer, scaler, watch.bad)
                if average is not None:
                    average.update()
                optimizer.zero_grad(set_to_none=True)

                if log_due:
                    require_folder()
                    figures = watch.means() | {
                        "lr": rate,
                        "gradient_norm": float(norm),
                        "memory_mib": memory_in_use(device),
                    }
                    figures |= stopwatch.lap(state.step - logged, global_batch, steps - state.step)
                    log.train(state.step, steps, figures | {"elapsed": time.monotonic() - began})
                    logged = state.step
                if save_due or signal:
                    save()
        # A signal may have been received while the loader's processes were being stopped.
        return Outcome(state.step, signal or max(gather_objects(signals.received)), metrics, first_step)


def _begin(state: TrainingState, checkpointer: Checkpointer | None, resume: bool, log: TrainingLog) -> None:
    resumed = False
    if checkpointer is not None and resume:
        resumed = checkpointer.resume(state)
    elif checkpointer is not None and on_main(checkpointer.latest) is not None:
        raise UserError(
            f"{checkpointer.folder} holds checkpoints of an earlier run: continue it with --resume, or choose another "
            "output folder"
        )
    together("opening the log", lambda: log.start(state.step, state.evaluated))
    if resume:
        log.message(
            f"continuing after step {state.step}" if resumed else "no checkpoint yet: starting from the beginning"
        )


def _identity(state: TrainingState, checkpointer: Checkpointer | None) -> dict[str, Any]:
    """The provenance, parameters and optimizer settings of a run, which must be the same on all ranks."""
    groups = state.optimizer.state_dict()["param_groups"]
    return {
        "identity": None if checkpointer is None else checkpointer.provenance,
        "parameters": {name: list(parameter.shape) for name, parameter in state.network.named_parameters()},
        "optimizer": {
            str(group.get("name", number)): {key: value for key, value in group.items() if key != "params"}
            for number, group in enumerate(groups)
        },
        "PyTorch": torch.__version__,
    }


@contextlib.contextmanager
def _suggest_resume(checkpointer: Checkpointer | None) -> Iterator[None]:
    """Adds to the error of another rank how to continue: with --resume."""
    try:
        yield
    except DistributedError as error:
        if checkpointer is None:
            raise
        raise DistributedError(f"{error} Once that is fixed, start again with --resume.") from error


def _wrap_for_ranks(network: nn.Module, device: torch.device) -> nn.Module:
    if world_size() == 1:
        return network
    # By default DDP copies rank 0's running statistics to all ranks; a checkpoint holds the same ones.
    return nn.parallel.DistributedDataParallel(
        network, device_ids=[device] if device.type == "cuda" else None, gradient_as_bucket_view=True
    )


def _evaluate_and_keep_best(
    evaluate: Callable[[int], Evaluation], state: TrainingState, checkpointer: Checkpointer | None
) -> Evaluation:
    share_buffers(state.network)
    with preserved_random_state(), contextlib.nullcontext() if state.average is None else state.average.applied():
        share_buffers(state.network)
        evaluation = evaluate(state.step)
    state.network.train()
    state.evaluated = state.step
    if state.best.update(state.step, evaluation.figures) and checkpointer is not None:
        checkpointer.save_best(state)
    return evaluation


def _last_good(checkpointer: Checkpointer | None) -> str:
    newest = checkpointer.latest() if checkpointer is not None else None
    return f"The last good checkpoint is {newest}." if newest else "There is no checkpoint yet."
