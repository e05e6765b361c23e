"""The loggers: what each service is given, in which run, and what happens where a package or a service fails."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from backbones.common.errors import UserError
from detection.training.logging import TrainingLog

IMAGE = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
FIGURES = {"loss": 1.5, "lr": 0.02, "images_per_second": 12.5, "data_wait": 0.25, "memory_mib": 5.0, "time_left": 4.0}


class FakeService:
    """Keeps all calls; serves as the module of each of the three services."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple, dict]] = []
        self.summary: dict[str, str] = {}
        self.fails = False

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "Image":
            raise AttributeError(name)

        def call(*arguments: object, **named: object) -> Any:
            if self.fails:
                raise ConnectionError("the network is down")
            self.calls.append((name, arguments, named))
            if name == "start_run":
                return SimpleNamespace(info=SimpleNamespace(run_id=f"run {len(self.calls)}"))
            return self  # wandb.init returns the run

        return call

    def named(self, name: str) -> list[tuple[tuple, dict]]:
        return [(arguments, named) for own, arguments, named in self.calls if own == name]


class Image:
    """`wandb.Image`, `trackio.Image`."""

    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels = pixels


@pytest.fixture
def service(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> FakeService:
    for name in ("WANDB_PROJECT", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID", "TRACKIO_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    fake = FakeService()
    fake.__dict__["Image"] = Image
    for name in ("wandb", "mlflow", "trackio"):
        monkeypatch.setitem(sys.modules, name, fake)
    return fake


def session(folder: Path, name: str, *, first_step: int = 0, stream: io.StringIO | None = None) -> TrainingLog:
    log = TrainingLog(folder, name="rpn", stream=stream or io.StringIO(), tensorboard=False, services=[name])
    log.start(first_step, first_step)
    log.remark(first_step, "a remark")
    log.train(first_step + 10, 100, FIGURES)
    log.evaluation(first_step + 10, {"AP": 0.5, "AP_small": float("nan")})
    log.images(first_step + 10, {"detections/7": IMAGE})
    log.close()
    return log


def test_wandb_gets_one_run_with_its_own_axis(service: FakeService, tmp_path: Path) -> None:
    folder = tmp_path / "mine" / "rpn"
    session(folder, "wandb")
    session(folder, "wandb", first_step=10)
    first, second = (named for _, named in service.named("init"))
    assert first["id"] == second["id"]
    assert (first["project"], first["group"], first["name"]) == ("resnext-detection", "mine", "mine rpn")
    assert (first["resume"], first["dir"]) == ("allow", str(folder))
    assert service.named("define_metric")[0] == (("*",), {"step_metric": "step"})
    logged = [arguments[0] for arguments, _ in service.named("log")]
    assert logged[0] == {**{f"train/{name}": value for name, value in FIGURES.items()}, "step": 10}
    assert logged[1] == {"evaluation/AP": 0.5, "step": 10}  # what is not a number is left out
    assert np.array_equal(logged[2]["detections/7"].pixels, IMAGE)
    assert logged[3]["step"] == 20
    assert service.summary == {"remark/0": "a remark", "remark/10": "a remark"}
    assert len(service.named("finish")) == 2


def test_mlflow_goes_on_in_the_same_run(service: FakeService, tmp_path: Path) -> None:
    folder = tmp_path / "mine" / "rpn"
    session(folder, "mlflow")
    session(folder, "mlflow", first_step=10)
    started = [named for _, named in service.named("start_run")]
    assert started[0] == {"run_name": "mine rpn"}
    assert started[1] == started[2] != started[0]
    assert set(started[1]) == {"run_id"}
    assert service.named("set_experiment")[0] == (("resnext-detection",), {})
    assert service.named("log_metrics")[1] == (({"evaluation/AP": 0.5},), {"step": 10})
    arguments, named = service.named("log_image")[0]
    assert np.array_equal(arguments[0], IMAGE)
    assert named == {"key": "detections.7", "step": 10}
    assert service.named("set_tag")[0] == (("remark.0", "a remark"), {})


def test_trackio_goes_on_in_the_same_run(service: FakeService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_PROJECT", "my project")
    folder = tmp_path / "mine" / "rpn"
    session(folder, "trackio")
    session(folder, "trackio", first_step=10)
    first, second = (named for _, named in service.named("init"))
    assert first == second
    assert (first["project"], first["group"], first["resume"]) == ("my project", "mine", "allow")
    assert first["name"].startswith("mine rpn ")
    assert [named["step"] for _, named in service.named("log")] == [0, 10, 10, 10, 10, 20, 20, 20]


@pytest.mark.parametrize("name", ["wandb", "mlflow", "trackio"])
def test_a_missing_package_is_named_with_the_command_that_installs_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=f"runtime.loggers: {name} cannot be imported .*`pip install {name}`"):
        TrainingLog(tmp_path, tensorboard=False, services=[name])


@pytest.mark.parametrize("name", ["wandb", "mlflow", "trackio"])
def test_a_service_that_fails_does_not_end_the_training(name: str, service: FakeService, tmp_path: Path) -> None:
    stream = io.StringIO()
    log = TrainingLog(tmp_path, stream=stream, tensorboard=False, services=[name])
    log.start(0, 0)
    service.fails = True
    for step in (10, 20):
        log.train(step, 100, FIGURES)
    log.close()
    assert stream.getvalue().count(f"{name} failed and is left out from now on: ConnectionError") == 1
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 2


def test_a_service_that_cannot_be_started_is_an_error(service: FakeService, tmp_path: Path) -> None:
    log = TrainingLog(tmp_path, stream=io.StringIO(), tensorboard=False, services=["wandb"])
    service.fails = True
    with pytest.raises(UserError, match=r"runtime\.loggers: wandb cannot be started: ConnectionError"):
        log.start(0, 0)


def test_nothing_is_imported_that_was_not_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("wandb", "mlflow", "trackio"):
        monkeypatch.setitem(sys.modules, name, None)
    log = TrainingLog(tmp_path, stream=io.StringIO(), tensorboard=False)
    log.start(0, 0)
    log.train(10, 100, FIGURES)
    log.close()


def test_tensorboard_has_the_images(tmp_path: Path) -> None:
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    log = TrainingLog(tmp_path, stream=io.StringIO())
    log.start(0, 0)
    log.images(10, {"detections/7": IMAGE})
    log.evaluation(10, {"AP": float("nan"), "AP50": 0.5})
    log.close()
    accumulator = event_accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    accumulator.Reload()
    assert [(event.step, event.height, event.width) for event in accumulator.Images("detections/7")] == [(10, 2, 3)]
    assert accumulator.Tags()["scalars"] == ["evaluation/AP50"]
