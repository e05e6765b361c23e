"""The training loop in one process: the same gradient however divided, the same bits after a break, clear alarms."""

from __future__ import annotations

import io
import itertools
import json
import math
import os
import signal
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from toy_processes import logged_losses
from toy_run import Settings, ToyBatch, ToyNetwork, image, run, toy_batches

from backbones.common.errors import UserError
from detection.common.out_of_memory import is_out_of_memory
from detection.training import loop as loop_module
from detection.training.averaging import WeightAverage
from detection.training.best import Best
from detection.training.checkpoints import Checkpointer
from detection.training.evaluation import Evaluation
from detection.training.logging import TrainingLog
from detection.training.loop import Outcome, train
from detection.training.optimizer import build_optimizer

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def quick_train(
    network: nn.Module, *, steps: int = 6, global_batch: int = 4, accumulation: int = 1, lr: float = 0.05, **arguments
) -> Outcome:
    """`train` on the toy's batches, at a constant rate and without a word."""
    settings = {
        "batches": toy_batches(global_batch=global_batch, accumulation=accumulation),
        "optimizer": build_optimizer(network, lr=lr),
        "schedule": lambda step: lr,
        "device": CPU,
        "log": TrainingLog(stream=io.StringIO(), tensorboard=False),
        **arguments,
    }
    return train(network, steps=steps, global_batch=global_batch, accumulation=accumulation, **settings)


def new_network(seed: int = 1, *, plain: bool = True) -> ToyNetwork:
    torch.manual_seed(seed)
    return ToyNetwork(plain=plain)


def weights(network: nn.Module) -> Tensor:
    return torch.cat([tensor.detach().flatten().double() for tensor in network.state_dict().values()])


def entries(folder: Path, kind: str) -> list[dict]:
    return [
        entry for line in (folder / "log.jsonl").read_text().splitlines() if (entry := json.loads(line))["kind"] == kind
    ]


# The gradient


def test_one_step_is_the_gradient_of_the_mean_over_images_of_summed_losses() -> None:
    network, reference = new_network(), new_network()
    quick_train(network, steps=1, global_batch=5, optimizer=torch.optim.SGD(network.parameters(), lr=1.0), lr=1.0)
    batch = ToyBatch(torch.stack([image(i) for i in range(5)]), torch.arange(5))
    loss = sum(loss.sum() for loss in reference(batch).values()) / 5
    loss.backward()
    for ours, theirs in zip(network.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours.detach(), theirs.detach() - theirs.grad)


@pytest.mark.parametrize("accumulation", [2, 3, 5])
def test_accumulation_ends_in_the_same_weights(accumulation: int) -> None:
    """Five images in parts as even as they can be: the mean is over images, not over parts."""
    whole, parts = new_network(), new_network()
    quick_train(whole, global_batch=5, steps=10)
    quick_train(parts, global_batch=5, steps=10, accumulation=accumulation)
    assert not torch.equal(weights(whole), weights(new_network()))
    torch.testing.assert_close(weights(parts), weights(whole), rtol=1e-5, atol=1e-6)


def test_clipping_limits_the_norm_of_the_whole_gradient(tmp_path: Path) -> None:
    network, reference = new_network(), new_network()
    log = TrainingLog(tmp_path, stream=io.StringIO(), tensorboard=False)
    quick_train(
        network, steps=1, lr=1.0, clip_norm=0.1, optimizer=torch.optim.SGD(network.parameters(), lr=1.0), log=log
    )
    moved = torch.sqrt(
        sum((a - b).square().sum() for a, b in zip(network.parameters(), reference.parameters(), strict=True))
    )
    assert float(moved.detach()) == pytest.approx(0.1, rel=1e-3)
    assert entries(tmp_path, "train")[0]["gradient_norm"] > 0.2  # the one before clipping


def test_the_schedule_sets_the_rate_of_each_step() -> None:
    seen: list[float] = []

    class Recording(torch.optim.SGD):
        def step(self, closure=None):
            seen.append(self.param_groups[0]["lr"])
            return super().step(closure)

    network = new_network()
    quick_train(
        network, steps=4, optimizer=Recording(network.parameters(), lr=9.0), schedule=lambda step: 0.1 / (step + 1)
    )
    assert seen == [0.1 / (step + 1) for step in range(4)]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_computes_in_the_lower_precision_and_stays_close(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    # From its first scale on: with torch's own, the first updates would be skipped until it fits.
    monkeypatch.setattr(torch.amp, "GradScaler", partial(torch.amp.GradScaler, init_scale=64.0))
    seen: set[torch.dtype] = set()
    full, low = new_network(), new_network()
    low.conv.register_forward_hook(lambda module, inputs, output: seen.add(output.dtype))
    quick_train(full, steps=20)
    quick_train(low, steps=20, autocast=dtype)
    assert seen == {dtype}
    assert low.conv.weight.dtype == torch.float32
    torch.testing.assert_close(weights(low), weights(full), rtol=0.05, atol=0.02)
    assert not torch.equal(weights(low), weights(full))


def test_float16_survives_overflowing_gradients_and_resumes_its_scale(tmp_path: Path) -> None:
    """The first scale, 65536, overflows here: updates are skipped until it fits. The scale goes into the checkpoint."""

    class Steep(ToyNetwork):
        def forward(self, batch: ToyBatch) -> dict[str, Tensor]:
            return {name: loss * 3e3 for name, loss in super().forward(batch).items()}

    def session(folder: Path, steps: int, resume: bool = False) -> Steep:
        torch.manual_seed(1)
        network = Steep(plain=True)
        quick_train(
            network, steps=steps, lr=1e-5, autocast=torch.float16, checkpointer=Checkpointer(folder, {}), resume=resume
        )
        return network

    unbroken = session(tmp_path / "a", 24)
    session(tmp_path / "b", 9)
    broken = session(tmp_path / "b", 24, resume=True)
    assert torch.isfinite(weights(unbroken)).all()
    assert not torch.equal(weights(unbroken), weights(new_network()))
    assert torch.equal(weights(unbroken), weights(broken))


# Resuming


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("break_at", [1, 10, 13])
def test_a_broken_run_ends_in_the_same_bits(
    tmp_path: Path, accumulation: int, break_at: int, capsys: pytest.CaptureFixture
) -> None:
    """With dropout, batch normalisation, evaluations that draw numbers, and a loader that draws when it starts."""
    common = {"steps": 20, "evaluate_every": 5, "checkpoint_every": 1, "accumulation": accumulation, "ema": 0.9}
    whole, outcome = run(Settings(str(tmp_path / "whole"), **common), CPU)
    assert outcome == Outcome(20, 0, outcome.metrics)

    broken = Settings(str(tmp_path / "broken"), **common)
    with pytest.MonkeyPatch.context() as patch:  # breaks off in the middle of a step
        patch.setattr(loop_module, "set_learning_rate", breaking(loop_module.set_learning_rate, break_at))
        with pytest.raises(KeyboardInterrupt):
            run(broken, CPU)
    broken.resume = True
    again, outcome = run(broken, CPU)
    assert outcome.finished
    assert torch.equal(weights(whole), weights(again))
    assert all(torch.equal(value, again.average.values[name]) for name, value in whole.average.values.items())
    assert logged_losses(tmp_path / "whole") == logged_losses(tmp_path / "broken")  # averages over the same steps
    assert entries(tmp_path / "whole", "evaluation") == entries(tmp_path / "broken", "evaluation")


def breaking(function: Callable, calls: int) -> Callable:
    counter = itertools.count()

    def wrapped(*arguments):
        if next(counter) == calls:
            raise KeyboardInterrupt
        return function(*arguments)

    return wrapped


def test_a_folder_with_checkpoints_is_not_started_anew(tmp_path: Path) -> None:
    run(Settings(str(tmp_path), steps=2), CPU)
    with pytest.raises(UserError, match="holds checkpoints of an earlier run: continue it with --resume"):
        run(Settings(str(tmp_path), steps=2), CPU)


def test_the_start_is_told_of_only_where_the_run_is_taken(tmp_path: Path) -> None:
    started: list[int] = []

    def session(provenance: dict[str, int], steps: int, resume: bool = False) -> None:
        checkpointer = Checkpointer(tmp_path, provenance)
        log = TrainingLog(tmp_path, stream=io.StringIO(), tensorboard=False)

        def on_start(step: int) -> None:
            log.remark(step, f"from {step}")
            started.append(step)

        network = new_network()
        quick_train(network, steps=steps, checkpointer=checkpointer, resume=resume, log=log, on_start=on_start)

    session({"samples": 8}, 2)
    with pytest.raises(UserError, match="holds checkpoints"):
        session({"samples": 8}, 4)
    with pytest.raises(UserError, match="samples"):
        session({"samples": 7}, 4, resume=True)
    assert started == [0]
    session({"samples": 8}, 4, resume=True)
    assert started == [0, 2]
    assert [(entry["step"], entry["text"]) for entry in entries(tmp_path, "remark")] == [(0, "from 0"), (2, "from 2")]


def test_a_finished_run_that_is_resumed_does_nothing(tmp_path: Path) -> None:
    first, _ = run(Settings(str(tmp_path), steps=4), CPU)
    second, outcome = run(Settings(str(tmp_path), steps=4, resume=True), CPU)
    assert outcome.finished
    assert torch.equal(weights(first), weights(second))


# Alarms


@pytest.mark.parametrize("late", [False, True], ids=["look at each step", "look at the log's pace"])
def test_a_loss_that_is_not_finite_names_term_step_image_and_checkpoint(
    tmp_path: Path, late: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Image 31 is in step 8. Looking late is what a GPU does; here the CPU's fused optimizer skips by the flag."""
    if late:
        monkeypatch.setattr(loop_module, "skips_on_device", lambda optimizer, device: True)
    network = new_network()
    before: list[Tensor] = []
    optimizer = build_optimizer(network, lr=0.05)
    optimizer.register_step_post_hook(lambda *_: before.append(weights(network)))
    with pytest.raises(UserError) as caught:
        quick_train(
            network, steps=20, optimizer=optimizer, batches=toy_batches(global_batch=4, bad_image=31), log_every=5,
            checkpointer=Checkpointer(tmp_path, {}), checkpoint_every=6,
        )  # fmt: skip
    message = str(caught.value)
    assert message.startswith("step 8: the loss is not a finite number: ")
    assert "classification of image 31" in message
    assert "regression of image 31" in message
    assert f"The last good checkpoint is {tmp_path / 'checkpoint_00000006.pt'}" in message
    assert torch.isfinite(weights(network)).all()
    if late:
        assert len(before) == 9  # the host looked in step 10, before its update
        assert torch.equal(before[6], before[7])  # step 8 was skipped
        assert not torch.equal(before[7], before[8])
    else:
        assert len(before) == 7


def test_float16_skips_the_update_of_a_bad_loss_whose_gradient_is_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    """Image 31 is in step 8, and the host looks in step 10, as on a GPU."""

    class Odd(ToyNetwork):
        def forward(self, batch: ToyBatch) -> dict[str, Tensor]:
            losses = super().forward(batch)
            return {
                **losses,
                "regression": losses["regression"] + torch.where(batch.image_ids == 31, float("inf"), 0.0),
            }

    monkeypatch.setattr(loop_module, "skips_on_device", lambda optimizer, device: True)
    monkeypatch.setattr(torch.amp, "GradScaler", partial(torch.amp.GradScaler, init_scale=64.0))
    torch.manual_seed(0)
    network, seen = Odd(plain=True), list[Tensor]()
    optimizer = build_optimizer(network, lr=0.05)
    optimizer.register_step_post_hook(lambda *_: seen.append(weights(network)))
    with pytest.raises(UserError, match="step 8: the loss is not a finite number: regression of image 31"):
        quick_train(
            network,
            steps=20,
            optimizer=optimizer,
            autocast=torch.float16,
            batches=toy_batches(global_batch=4),
            log_every=5,
        )
    assert len(seen) == 9
    assert torch.equal(seen[6], seen[7])
    assert not torch.equal(seen[5], seen[6])
    assert torch.isfinite(seen[8]).all()


def test_a_loss_scale_that_falls_for_ever_stops_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    class TooSteep(ToyNetwork):
        def forward(self, batch: ToyBatch) -> dict[str, Tensor]:
            return {name: loss * 1e30 for name, loss in super().forward(batch).items()}

    monkeypatch.setattr(torch.amp, "GradScaler", partial(torch.amp.GradScaler, init_scale=2.0**-12))
    torch.manual_seed(0)
    network = TooSteep(plain=True)
    before = weights(network)
    with pytest.raises(UserError, match=r"loss scale has fallen below .*runtime\.precision=bf16"):
        quick_train(network, steps=20, autocast=torch.float16)
    assert torch.equal(weights(network), before)


@pytest.mark.parametrize(
    "said", ["CUDA error: out of memory", "CUDA error: CUBLAS_STATUS_ALLOC_FAILED", "can't allocate memory"]
)
def test_what_counts_as_out_of_memory(said: str) -> None:
    assert is_out_of_memory(RuntimeError(said))
    assert not is_out_of_memory(RuntimeError("shapes do not fit"))
    assert not is_out_of_memory(ValueError(said))


def test_only_the_term_that_is_not_finite_is_named() -> None:
    class Half(ToyNetwork):
        def forward(self, batch: ToyBatch) -> dict[str, Tensor]:
            losses = super().forward(batch)
            return {**losses, "regression": losses["regression"] + torch.where(batch.image_ids >= 6, float("inf"), 0.0)}

    torch.manual_seed(0)
    with pytest.raises(UserError, match=r"step 2: the loss is not a finite number: regression of image 6, 7\. It did"):
        quick_train(Half(plain=True))


def test_a_gradient_that_is_not_finite_is_an_alarm_although_the_loss_is_fine() -> None:
    class Root(ToyNetwork):
        def forward(self, batch: ToyBatch) -> dict[str, Tensor]:
            losses = super().forward(batch)
            zero = (losses["regression"] * 0.0).sqrt()  # 0, with a gradient of NaN
            return {**losses, "regression": torch.where(batch.image_ids == 9, zero, losses["regression"])}

    torch.manual_seed(0)
    network = Root(plain=True)
    with pytest.raises(
        UserError, match=r"step 1: every loss is finite, but the gradient is not\. .* images: 0, 1, 2, 3"
    ):
        quick_train(network)
    assert torch.isfinite(weights(network)).all()


def test_no_checkpoint_is_written_of_a_bad_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_module, "skips_on_device", lambda optimizer, device: True)
    with pytest.raises(UserError, match="step 8"):
        quick_train(
            new_network(),
            steps=20,
            batches=toy_batches(global_batch=4, bad_image=31),
            log_every=100,
            checkpointer=Checkpointer(tmp_path, {}),
            checkpoint_every=4,
        )
    assert sorted(path.name for path in tmp_path.glob("*.pt")) == ["checkpoint_00000004.pt"]


def test_batches_that_end_early_are_an_error() -> None:
    with pytest.raises(UserError, match="the batches ended in step 4"):
        quick_train(new_network(), batches=toy_batches(global_batch=4, last_step=3))


def test_batches_of_another_plan_are_an_error() -> None:
    with pytest.raises(UserError, match=r"step 1: 3 images came in 1 step\(s\) where the global batch asks for 4"):
        quick_train(new_network(), batches=toy_batches(global_batch=3))


def test_a_batch_that_leaves_a_part_empty_is_refused_beforehand() -> None:
    with pytest.raises(UserError, match="without an image"):
        quick_train(new_network(), global_batch=2, accumulation=3)


def test_a_loss_that_is_not_per_image_is_refused() -> None:
    class Mean(ToyNetwork):
        def forward(self, batch: ToyBatch) -> dict[str, Tensor]:
            return {name: loss.mean() for name, loss in super().forward(batch).items()}

    with pytest.raises(ValueError, match='loss "classification" must be one number an image'):
        quick_train(Mean(plain=True))


class Greedy(ToyNetwork):
    """Asks for more memory than there can be if a batch holds more than `limit` images."""

    def __init__(self, limit: int) -> None:
        super().__init__(plain=True)
        self.limit = limit

    def forward(self, batch: ToyBatch) -> dict[str, Tensor]:
        losses = super().forward(batch)
        if len(batch) > self.limit:
            torch.empty(1 << 55)
        return losses


def test_a_step_out_of_memory_is_done_again_in_halves() -> None:
    torch.manual_seed(1)
    network, reference, stream = Greedy(2), new_network(), io.StringIO()
    quick_train(network, steps=3, log=TrainingLog(stream=stream, tensorboard=False))
    quick_train(reference, steps=3)
    torch.testing.assert_close(weights(network), weights(reference), rtol=1e-5, atol=1e-6)
    assert "This step is done again in micro-batches of half the size" in stream.getvalue()


def test_out_of_memory_names_sizes_and_what_to_lower() -> None:
    torch.manual_seed(1)
    with pytest.raises(
        UserError,
        match=r"micro-batch of 2 image\(s\) of 6 × 6 pixels \(image ids \[0, 1\]\)\. Raise the accum",
    ):
        quick_train(Greedy(1))


# Log, evaluation


def test_logged_losses_are_means_over_the_images_of_the_interval(tmp_path: Path) -> None:
    network = new_network()
    log = TrainingLog(tmp_path, stream=io.StringIO(), tensorboard=False)
    quick_train(network, steps=7, global_batch=5, accumulation=2, schedule=lambda step: 0.0, log=log, log_every=3)
    found = entries(tmp_path, "train")
    assert [entry["step"] for entry in found] == [3, 6, 7]  # the last step is logged too
    with torch.no_grad():
        losses = network(ToyBatch(torch.stack([image(i) for i in range(35)]), torch.arange(35)))
    for entry, (first, last) in zip(found, [(0, 15), (15, 30), (30, 35)], strict=True):
        for name, loss in losses.items():
            assert entry[name] == pytest.approx(float(loss[first:last].mean()), rel=1e-5)
        assert entry["loss"] == pytest.approx(entry["classification"] + entry["regression"], rel=1e-6)
        assert math.isfinite(entry["gradient_norm"])
        assert entry["memory_mib"] > 10


def test_evaluation_comes_when_due_leaves_no_trace_and_the_best_is_kept(tmp_path: Path) -> None:
    figures = {2: 0.5, 4: 0.75, 6: float("nan"), 8: 0.25, 9: 0.125}  # and once more after the last step
    modes: list[bool] = []

    def evaluate(step: int) -> Evaluation:
        network.eval()
        torch.rand(5)
        return Evaluation({"AP": figures[step], "AR": 1.0})

    network = new_network(plain=False)
    network.register_forward_pre_hook(lambda module, inputs: modes.append(module.training))
    log = TrainingLog(tmp_path, stream=io.StringIO(), tensorboard=False)
    outcome = quick_train(
        network,
        steps=9,
        evaluate=evaluate,
        evaluate_every=2,
        best=Best("AP"),
        checkpointer=Checkpointer(tmp_path, {}),
        log=log,
    )
    plain = new_network(plain=False)
    quick_train(plain, steps=9)
    assert torch.equal(weights(network), weights(plain))
    assert all(modes)
    assert outcome.metrics == {"AP": 0.125, "AR": 1.0}
    assert [(entry["step"], entry["AP"]) for entry in entries(tmp_path, "evaluation")] == [
        (2, 0.5),
        (4, 0.75),
        (6, None),
        (8, 0.25),
        (9, 0.125),
    ]
    best = torch.load(tmp_path / "best.pt", weights_only=True)
    assert best["step"] == 4
    assert best["best"] == {"figure": "AP", "value": 0.75, "step": 4, "since": 0}


def test_the_average_is_evaluated_kept_and_leaves_no_trace_in_the_training(tmp_path: Path) -> None:
    seen: list[Tensor] = []
    plain, network = new_network(), new_network()
    average = WeightAverage(network, 0.9)

    def evaluate(step: int) -> Evaluation:
        seen.append(network.linear.weight.detach().clone())
        return Evaluation({"AP": 1.0 / step})

    checkpointer = Checkpointer(tmp_path, {})
    quick_train(
        network, evaluate=evaluate, evaluate_every=3, best=Best("AP"), average=average, checkpointer=checkpointer
    )
    quick_train(plain)
    assert torch.equal(weights(network), weights(plain))
    assert average.updates == 6
    assert torch.equal(seen[1], average.values["linear.weight"])
    assert not torch.equal(seen[1], network.linear.weight)
    assert checkpointer.load_best(network, 3)
    assert torch.equal(seen[0], network.linear.weight)


@pytest.mark.parametrize("fault", ["missing", "damaged", "of another step"])
def test_without_the_best_checkpoint_the_last_weights_stay(tmp_path: Path, fault: str) -> None:
    network, warnings = new_network(), list[str]()
    checkpointer = Checkpointer(tmp_path, {}, warn=warnings.append)
    quick_train(
        network,
        evaluate=lambda step: Evaluation({"AP": -float(step)}),
        evaluate_every=2,
        best=Best("AP"),
        checkpointer=checkpointer,
    )
    before = weights(network)
    if fault == "missing":
        (tmp_path / "best.pt").unlink()
    elif fault == "damaged":
        (tmp_path / "best.pt").write_bytes((tmp_path / "best.pt").read_bytes()[:-5])
    assert not checkpointer.load_best(network, 4 if fault == "of another step" else 2)
    assert torch.equal(weights(network), before)
    assert "best.pt" in warnings[0]
    assert warnings[0].endswith("The last weights are written instead.")


def test_an_unknown_figure_to_keep_the_best_by_is_named() -> None:
    with pytest.raises(UserError, match='no figure "AP50" to keep the best by: it has AP'):
        quick_train(new_network(), evaluate=lambda step: Evaluation({"AP": 0.0}), evaluate_every=2, best=Best("AP50"))


@pytest.mark.parametrize("evaluate", [True, False])
def test_a_signal_within_the_last_teardown_is_not_lost(tmp_path: Path, evaluate: bool) -> None:
    """All steps are done then, but whoever asked for the end must not be told that all is well."""

    def batches(first_step: int) -> Iterator[ToyBatch]:
        try:
            yield from toy_batches(global_batch=4)(first_step)
        finally:
            os.kill(os.getpid(), signal.SIGINT)

    outcome = quick_train(
        new_network(),
        steps=2,
        batches=batches,
        checkpointer=Checkpointer(tmp_path, {}),
        evaluate=(lambda step: Evaluation({"AP": 0.0})) if evaluate else None,
        evaluate_every=2,
    )
    assert (outcome.step, outcome.signal) == (2, signal.SIGINT)


def test_the_loader_is_closed_whatever_ends_the_training() -> None:
    closed = []

    def batches(first_step: int) -> Iterator[ToyBatch]:
        try:
            yield from toy_batches(global_batch=4)(first_step)
        finally:
            closed.append(True)

    quick_train(new_network(), steps=2, batches=batches)
    with pytest.raises(ZeroDivisionError) as kept:  # the traceback refers to the loader, which is closed all the same
        quick_train(new_network(), steps=2, batches=batches, schedule=lambda step: 0.1 / (1 - step))
    assert kept is not None
    assert closed == [True, True]


# Signals


def test_the_handlers_that_stood_before_come_back(tmp_path: Path) -> None:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    before = [signal.getsignal(number) for number in numbers]
    quick_train(new_network(), steps=1, checkpointer=Checkpointer(tmp_path / "one", {}))
    with pytest.raises(UserError):
        quick_train(
            new_network(),
            batches=toy_batches(global_batch=4, last_step=0),
            checkpointer=Checkpointer(tmp_path / "other", {}),
        )
    assert [signal.getsignal(number) for number in numbers] == before


def test_training_works_outside_the_main_thread() -> None:
    network, reference = new_network(), new_network()
    thread = threading.Thread(target=quick_train, args=(network,))
    thread.start()
    thread.join()
    quick_train(reference)
    assert torch.equal(weights(network), weights(reference))


def test_without_checkpoints_signals_do_what_they_do_elsewhere() -> None:
    """A dry run has nothing to finish a step for."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            quick_train(new_network(), steps=50, schedule=lambda step: os.kill(os.getpid(), signal.SIGINT) or 0.1)
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_signal_between_two_steps_of_one_process_is_heeded_before_the_log_is_due(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As on a GPU, where the host does not look at each step."""
    monkeypatch.setattr(loop_module, "skips_on_device", lambda optimizer, device: True)

    def schedule(step: int) -> float:
        if step == 2:
            os.kill(os.getpid(), signal.SIGUSR1)
        return 0.1

    checkpointer = Checkpointer(tmp_path, {})
    outcome = quick_train(new_network(), steps=50, schedule=schedule, log_every=50, checkpointer=checkpointer)
    assert (outcome.step, outcome.signal, outcome.exit_status) == (3, signal.SIGUSR1, 128 + signal.SIGUSR1)
