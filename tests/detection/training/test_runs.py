"""Real processes that are killed, signalled and starved of disk while they train: nothing is lost."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from toy_processes import Session, assert_same_bits, final_weights, fork_server, logged_steps, wait_until
from toy_run import Settings

from detection.training.artifacts import load_artifact
from detection.training.checkpoints import evaluated_weights

Start = Callable[..., Session]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nobody disturbed."""
    import toy_run

    folder = tmp_path_factory.mktemp("unbroken")
    process = fork_server().Process(
        target=toy_run.process, args=(Settings(str(folder), **RUN), {}, str(folder / "stderr.txt"))
    )
    process.start()
    process.join(60)
    assert process.exitcode == 0
    return folder


RUN = {"steps": 40, "checkpoint_every": 2, "evaluate_every": 8, "ema": 0.9}


def assert_same_best(folder: Path, other: Path) -> None:
    one, two = (load_artifact(path / "best.pt", "checkpoint") for path in (folder, other))
    assert (one["step"], one["best"]) == (two["step"], two["best"])
    assert_same_bits(evaluated_weights(one), evaluated_weights(two))


def kill_often(start: Start, folder: Path, unbroken: Path, kills: int, seed: int) -> None:
    """Kills the run `kills` times at random instants of its life, and lets it end."""
    draw = random.Random(seed)
    slow = Settings(str(folder), **RUN, seconds_per_step=0.01, resume=True)
    done = 0
    while done < kills:
        session = start(slow)
        time.sleep(draw.uniform(0.05, 0.9))
        if session.process.exitcode is None:
            session.signal(signal.SIGKILL)
            session.wait()
            done += 1
        if (folder / "final_0.pt").exists():  # it was faster: once more from the beginning
            assert_same_bits(final_weights(folder), final_weights(unbroken))
            for path in folder.glob("*.pt"):
                path.unlink()
    assert start(Settings(str(folder), **RUN, resume=True)).wait() == 0
    assert_same_bits(final_weights(folder), final_weights(unbroken))
    assert any(name.startswith("average.") for name in final_weights(folder))
    assert_same_best(folder, unbroken)
    assert sorted(set(logged_steps(folder))) == logged_steps(folder)
    assert logged_steps(folder, "evaluation") == [8, 16, 24, 32, 40]
    assert not list(folder.glob(".*.tmp"))
    assert not list(folder.glob("*.damaged"))


def test_kill_9_at_random_instants_ends_in_the_same_bits(start: Start, tmp_path: Path, unbroken: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    kill_often(start, folder, unbroken, kills=3, seed=1)


def test_a_training_that_is_killed_stops_early_where_it_would_have(start: Start, tmp_path: Path) -> None:
    """The evaluations after step 16 are worse and worse, and it is killed while it counts them."""
    common = {**RUN, "steps": 400, "patience": 2, "turn_step": 16}
    assert start(Settings(str(tmp_path / "whole"), **common)).wait() == 0
    folder = tmp_path / "killed"
    session = start(Settings(str(folder), **common, seconds_per_step=0.02))
    wait_until(lambda: logged_steps(folder, "evaluation")[-1:] == [24])
    session.signal(signal.SIGKILL)
    session.wait()
    session = start(Settings(str(folder), **common, resume=True))
    assert session.wait() == 0
    assert "stopping early: no better figure since step 16" in session.stderr
    for path in (tmp_path / "whole", folder):
        assert logged_steps(path, "evaluation") == [8, 16, 24, 32]
        assert load_artifact(path / "checkpoint_00000032.pt", "checkpoint")["best"]["since"] == 2
    assert_same_bits(final_weights(folder), final_weights(tmp_path / "whole"))
    assert_same_best(folder, tmp_path / "whole")
    assert start(Settings(str(folder), **common, resume=True)).wait() == 0  # and does nothing more
    assert logged_steps(folder, "evaluation") == [8, 16, 24, 32]


@pytest.mark.slow
def test_a_hundred_kills_end_in_the_same_bits(start: Start, tmp_path: Path, unbroken: Path) -> None:
    for number in range(20):
        folder = tmp_path / f"run_{number}"
        folder.mkdir()
        kill_often(start, folder, unbroken, kills=5, seed=number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1], ids=lambda number: number.name)
def test_a_signal_ends_the_run_with_a_checkpoint(
    start: Start, tmp_path: Path, unbroken: Path, number: signal.Signals
) -> None:
    folder = tmp_path / "run"
    settings = Settings(str(folder), **{**RUN, "checkpoint_every": 0, "evaluate_every": 0}, seconds_per_step=0.02)
    session = start(settings)
    wait_until(lambda: logged_steps(folder))
    session.signal(number)
    assert session.wait() == 128 + number
    assert f"{number.name}: finishing this step" in session.stderr
    assert "Traceback" not in session.stderr
    [checkpoint] = folder.glob("checkpoint_*.pt")
    assert 3 <= load_artifact(checkpoint, "checkpoint")["step"] < 40
    settings.resume = True
    assert start(settings).wait() == 0
    assert_same_bits(final_weights(folder), final_weights(unbroken))


def test_a_signal_to_the_whole_group_leaves_the_workers_to_the_step(
    start: Start, tmp_path: Path, unbroken: Path
) -> None:
    """What a batch system, or Ctrl-C in a terminal, does."""
    folder = tmp_path / "run"
    settings = Settings(str(folder), **RUN, seconds_per_step=0.02, workers=1)
    for number in (signal.SIGTERM, signal.SIGINT):
        session = start(settings)
        before = logged_steps(folder)
        wait_until(lambda before=before: logged_steps(folder) > before)
        session.signal(number, group=True)
        assert session.wait() == 128 + number
        assert "Traceback" not in session.stderr
        settings.resume = True
    assert start(settings).wait() == 0
    assert_same_bits(final_weights(folder), final_weights(unbroken))


def test_a_second_sigint_stops_at_once(start: Start, tmp_path: Path) -> None:
    session = start(Settings(str(tmp_path / "run"), seconds_per_step=20.0))
    wait_until(lambda: (tmp_path / "run" / "log.jsonl").exists())
    time.sleep(0.3)
    session.signal(signal.SIGINT)
    wait_until(lambda: "Ctrl-C once more" in session.stderr)
    session.process.join(0.5)
    assert session.process.is_alive()
    session.signal(signal.SIGINT)
    assert session.wait(15.0) != 0
    assert "KeyboardInterrupt" in session.stderr


def test_a_signal_breaks_off_an_evaluation_which_is_made_up_for(start: Start, tmp_path: Path, unbroken: Path) -> None:
    folder = tmp_path / "run"
    session = start(Settings(str(folder), **RUN, evaluation_seconds=60.0))
    wait_until(lambda: (folder / "checkpoint_00000008.pt").exists())
    time.sleep(0.2)
    session.signal(signal.SIGTERM)
    assert session.wait(15.0) == 128 + signal.SIGTERM
    assert logged_steps(folder, "evaluation") == []
    assert start(Settings(str(folder), **RUN, resume=True)).wait() == 0
    assert logged_steps(folder, "evaluation") == [8, 16, 24, 32, 40]
    assert_same_bits(final_weights(folder), final_weights(unbroken))


def test_two_runs_into_one_folder_the_second_refuses(start: Start, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    settings = Settings(str(folder), seconds_per_step=0.2, workers=1)
    first = start(settings)
    wait_until(lambda: logged_steps(folder))
    settings.resume = True
    second = start(settings)
    assert second.wait() == 1
    assert f"another run is writing into {folder}" in second.stderr
    assert str(first.pid) in second.stderr
    assert first.process.is_alive()
    # Killed, it leaves nothing in the way, although its loader's worker lives on for some seconds.
    first.signal(signal.SIGKILL)
    first.wait()
    third = start(settings)
    wait_until(lambda: "continuing after" in third.stderr or "starting from the beginning" in third.stderr)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_full_disk_stops_the_run_which_goes_on_once_there_is_room(
    start: Start, small_disk: Path, unbroken: Path, workers: int
) -> None:
    settings = Settings(str(small_disk), **RUN, seconds_per_step=0.02, workers=workers)
    session = start(settings)
    wait_until(lambda: (small_disk / "checkpoint_00000002.pt").exists())
    with open(small_disk / "filler", "wb", buffering=0) as filler:
        try:
            while session.process.exitcode is None:
                filler.write(bytes(512))
        except OSError:
            pass
    assert session.wait() == 1
    assert "No space left on device" in session.stderr
    assert "Traceback" not in session.stderr
    assert list(small_disk.glob("checkpoint_*.pt"))
    (small_disk / "filler").unlink()
    settings.resume = True
    assert start(settings).wait() == 0
    assert_same_bits(final_weights(small_disk), final_weights(unbroken))


@pytest.mark.parametrize("folder", ["run", "run/lock", "file"], ids=["deleted", "lock deleted", "replaced"])
def test_a_run_whose_folder_is_deleted_says_so_and_ends(start: Start, tmp_path: Path, folder: str) -> None:
    """It must not go on: the lock went with the folder, and a second run could begin."""
    run = tmp_path / "run"
    session = start(Settings(str(run), steps=2000, seconds_per_step=0.02, workers=1))
    wait_until(lambda: (run / "checkpoint_00000005.pt").exists())
    if folder == "run/lock":
        (run / "run.lock").unlink()
    else:
        run.rename(tmp_path / "old")
    if folder == "file":
        run.mkdir()
    assert session.wait(20.0) == 1
    where = run / "run.lock" if folder == "run/lock" else run
    assert f"{where} was deleted, moved or replaced while this run was writing into {run}" in session.stderr
    assert "Traceback" not in session.stderr
    assert not run.exists() or not list(run.glob("*.pt")) or folder == "run/lock"


@pytest.mark.parametrize("workers", [0, 2])
def test_an_exception_of_ours_ends_the_run_and_its_processes(start: Start, tmp_path: Path, workers: int) -> None:
    folder = tmp_path / "run"
    session = start(Settings(str(folder), fail_step=12, workers=workers))
    assert session.wait(20.0) == 1
    assert "KeyError: 'a mistake of ours'" in session.stderr
    assert load_artifact(folder / "checkpoint_00000010.pt", "checkpoint")["step"] == 10
    wait_until(lambda: not is_group(session.pid), 5.0)


def is_group(number: int) -> bool:
    """Whether any process is left in the group."""
    try:
        os.killpg(number, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_folder_that_turns_read_only_stops_the_run_with_a_reason(
    start: Start, small_disk: Path, unbroken: Path
) -> None:
    settings = Settings(str(small_disk), **RUN, seconds_per_step=0.02)
    session = start(settings)
    wait_until(lambda: logged_steps(small_disk))
    session.signal(signal.SIGTERM)
    session.wait()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    settings.resume = True
    session = start(settings)
    assert session.wait() == 1
    assert "Read-only file system" in session.stderr
    assert "Traceback" not in session.stderr
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    assert start(settings).wait() == 0
    assert_same_bits(final_weights(small_disk), final_weights(unbroken))
