"""eval_coco and propose, killed -9 at random instants or started twice: no half file, and the same in the end."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

import detection.data.proposal_writer as proposal_writer
import detection.experiment.evaluate
from detection.data.demo import make_demo_dataset
from detection.data.proposal_store import ProposalStore
from detection.data.proposal_writer import ProposalWriter
from tests.detection.pipeline import save_untrained_networks, tool
from tests.detection.ranks import forked

CHANGES = ["runtime.test_batch=2"]  # what shares a batch must not depend on when the last attempt was killed


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector.pt that was never trained, but finds a lot on six drawn images."""
    folder = tmp_path_factory.mktemp("detector")
    make_demo_dataset(folder / "data", train=6, test=6)
    save_untrained_networks(folder, folder / "data")
    return folder / "detector.pt"


def evaluate(detector: Path, folder: Path) -> None:
    tool("eval_coco", "--weights", detector, "--output", folder, "--images", 6, *CHANGES)


def propose(detector: Path, folder: Path) -> None:
    proposal_writer.CHUNK_BYTES = 1000  # a file for every other image
    tool("propose", "--weights", detector, "--split", "test", "--store", folder / "test.st", *CHANGES)


TOOLS = {evaluate: "eval_coco", propose: "propose"}


def started(work: Callable[[Path, Path], None], detector: Path, folder: Path) -> BaseProcess:
    return forked(lambda: work(detector, folder))


def contents(folder: Path) -> dict[str, bytes]:
    """What stands in the folder, without the lock's file, which holds a process id."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.endswith(".lock")
    }


def kill_often(work: Callable[[Path, Path], None], detector: Path, folder: Path, kills: int) -> None:
    """Kills the work `kills` times at random instants of its life, then lets it end."""
    begin = time.monotonic()
    process = started(work, detector, folder / "undisturbed")
    process.join()
    seconds = time.monotonic() - begin
    assert process.exitcode == 0
    expected = contents(folder / "undisturbed")
    draw = random.Random(kills)
    done = 0
    while done < kills:
        process = started(work, detector, folder / "killed")
        process.join(draw.uniform(0, seconds))
        process.kill()
        process.join()
        if process.exitcode == 0:  # it was faster
            continue
        assert process.exitcode == -signal.SIGKILL
        done += 1
        for name, content in contents(folder / "killed").items():
            unfinished = name.endswith(".tmp") or ".partial/" in name
            assert unfinished or content == expected[name], name
    process = started(work, detector, folder / "killed")
    process.join()
    assert process.exitcode == 0
    assert contents(folder / "killed") == expected


@pytest.mark.parametrize("work", [evaluate, propose])
def test_kill_9_at_random_instants_ends_in_the_same_files(
    work: Callable[[Path, Path], None], detector: Path, tmp_path: Path
) -> None:
    kill_often(work, detector, tmp_path, kills=4)


@pytest.mark.slow
@pytest.mark.parametrize("work", [evaluate, propose])
def test_a_hundred_kills_end_in_the_same_files(
    work: Callable[[Path, Path], None], detector: Path, tmp_path: Path
) -> None:
    kill_often(work, detector, tmp_path, kills=100)


def test_the_figures_are_of_something(detector: Path, tmp_path: Path) -> None:
    """So that the comparisons above say anything."""
    evaluate(detector, tmp_path)
    propose(detector, tmp_path)
    assert (tmp_path / "results.json").stat().st_size > 5000
    store = ProposalStore(tmp_path / "test.st")
    assert min(len(store.boxes(image_id)) for image_id in store.image_ids.tolist()) > 3
    assert len(list((tmp_path / "images").iterdir())) == 6


@pytest.mark.parametrize("work", [evaluate, propose])
def test_of_two_into_one_place_the_second_refuses(
    work: Callable[[Path, Path], None], detector: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, waiting, gate = tmp_path / "out", tmp_path / "waiting", tmp_path / "gate"
    where, name = (detection.experiment.evaluate, "write_results") if work is evaluate else (ProposalWriter, "finish")
    inner = getattr(where, name)

    def wait_and_go_on(*arguments: object) -> object:
        waiting.touch()
        while not gate.exists():
            time.sleep(0.01)
        return inner(*arguments)

    monkeypatch.setattr(where, name, wait_and_go_on)
    first = started(work, detector, out)
    monkeypatch.undo()  # what is started from now on is not held up
    deadline = time.monotonic() + 60
    while not waiting.exists():
        assert first.is_alive()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    target = ("--output", out) if work is evaluate else ("--split", "test", "--store", out / "test.st")
    second = tool(TOOLS[work], "--weights", detector, *target, check=False)
    assert second.returncode == 1
    assert f"another run is writing into {out} (process {first.pid} on " in second.stderr
    # Another store in the same folder is nobody's business.
    tool("propose", "--weights", detector, "--split", "train", "--store", out / "train.st")
    gate.touch()
    first.join(60)
    assert first.exitcode == 0
    if work is propose:
        ProposalStore(out / "test.st").verify()
