"""Several real processes: the same weights as one, the same bits after a break, and no waiting for ever."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch
from toy_processes import (
    Session,
    assert_same_bits,
    child_environment,
    final_weights,
    fork_server,
    free_port,
    logged_losses,
    logged_steps,
    wait_until,
)
from toy_run import Settings, ToyNetwork, elastic_agent, figures_of, run

from backbones.common.errors import UserError
from detection.training import distributed
from detection.training.artifacts import load_artifact
from tests.detection.machines import Place, agent_arguments, two_namespaces

StartRanks = Callable[..., list[Session]]
HERE = Path(__file__).parent
PLAIN = {"steps": 24, "global_batch": 5, "plain": True}  # five images on two ranks: shares of three and two


def statuses(sessions: list[Session], seconds: float = 60.0) -> list[int]:
    return [session.wait(seconds) for session in sessions]


def assert_close(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def one_process(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """The weights that one process, without accumulation, ends in."""
    torch.set_num_threads(1)
    network, _ = run(Settings(str(tmp_path_factory.mktemp("one")), **PLAIN), torch.device("cpu"))
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


# Equal results


@pytest.mark.parametrize("accumulation", [1, 2])
def test_two_processes_end_in_the_weights_of_one(
    start_ranks: StartRanks, tmp_path: Path, one_process: dict, accumulation: int
) -> None:
    folder = tmp_path / "run"
    assert statuses(start_ranks(Settings(str(folder), **PLAIN, accumulation=accumulation))) == [0, 0]
    assert_close(final_weights(folder, 0), one_process)
    assert_same_bits(final_weights(folder, 0), final_weights(folder, 1))
    assert logged_steps(folder) == list(range(3, 25, 3))


def test_two_processes_with_dropout_and_batch_norm_resume_to_the_same_bits(
    start_ranks: StartRanks, tmp_path: Path
) -> None:
    """Each rank's generators, too, come back; SIGTERM reaches one rank only, and both stop at the same step."""
    settings = {"steps": 24, "evaluate_every": 8}
    assert statuses(start_ranks(Settings(str(tmp_path / "whole"), **settings))) == [0, 0]
    broken = Settings(str(tmp_path / "broken"), **settings, seconds_per_step=0.05)
    sessions = start_ranks(broken)
    wait_until(lambda: logged_steps(broken.folder))
    sessions[1].signal(signal.SIGTERM)
    assert statuses(sessions) == [128 + signal.SIGTERM] * 2
    broken.resume = True
    assert statuses(start_ranks(broken)) == [0, 0]
    for rank in range(2):
        assert_same_bits(final_weights(tmp_path / "whole", rank), final_weights(tmp_path / "broken", rank))
    assert logged_losses(tmp_path / "whole") == logged_losses(tmp_path / "broken")


def test_a_run_goes_on_with_another_number_of_ranks(start_ranks: StartRanks, tmp_path: Path, one_process: dict) -> None:
    folder = tmp_path / "run"
    settings = Settings(str(folder), **PLAIN, seconds_per_step=0.05)
    sessions = start_ranks(settings)
    wait_until(lambda: logged_steps(folder))
    for session in sessions:
        session.signal(signal.SIGINT)
    assert statuses(sessions) == [128 + signal.SIGINT] * 2
    run(Settings(str(folder), **PLAIN, accumulation=2, resume=True), torch.device("cpu"))
    [newest] = folder.glob("checkpoint_00000024.pt")
    assert_close(load_artifact(newest, "checkpoint")["network"], one_process)
    run(Settings(str(tmp_path / "unbroken"), **PLAIN), torch.device("cpu"))
    for broken, unbroken in zip(logged_losses(folder), logged_losses(tmp_path / "unbroken"), strict=True):
        assert broken == pytest.approx(unbroken, rel=1e-4)


def test_every_rank_measures_the_network_that_is_saved(start_ranks: StartRanks, tmp_path: Path) -> None:
    """Between two steps each rank has running statistics of its own."""
    settings = Settings(str(tmp_path / "run"), steps=8, evaluate_every=8)
    assert statuses(start_ranks(settings)) == [0, 0]
    measured = [load_artifact(tmp_path / "run" / f"final_{rank}.pt", "rpn")["metrics"] for rank in range(2)]
    network = ToyNetwork()
    network.load_state_dict(final_weights(tmp_path / "run"))
    assert measured == [figures_of(network.eval())] * 2
    assert_same_bits(final_weights(tmp_path / "run", 0), final_weights(tmp_path / "run", 1))


# Lost and contradictory ranks


def test_a_killed_rank_ends_the_other_with_its_name(start_ranks: StartRanks, tmp_path: Path) -> None:
    sessions = start_ranks(Settings(str(tmp_path / "run"), seconds_per_step=0.02, kill_rank=1, fault_step=9))
    assert statuses(sessions, 20.0) == [1, -signal.SIGKILL]
    assert "error: rank 0 of 2" in sessions[0].stderr
    assert "rank 1: loading the images of step 10" in sessions[0].stderr
    assert "Traceback" not in sessions[0].stderr


def test_a_rank_that_hangs_ends_the_others_at_the_time_limit(start_ranks: StartRanks, tmp_path: Path) -> None:
    settings = Settings(str(tmp_path / "run"), hang_rank=1, fault_step=9, time_limit=3.0, checkpoint_every=2)
    sessions = start_ranks(settings)
    assert sessions[0].wait(20.0) == 1
    assert "Behind the others, or gone: rank 1." in sessions[0].stderr
    assert "rank 0: computing step 10, rank 1: loading the images of step 10" in sessions[0].stderr
    assert "start again with --resume" in sessions[0].stderr
    assert (tmp_path / "run" / "checkpoint_00000008.pt").exists()


def test_a_rank_that_never_comes_is_an_error_at_the_time_limit(start: Callable[..., Session], tmp_path: Path) -> None:
    environment = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2", "RANK": "0"}
    session = start(Settings(str(tmp_path / "run"), time_limit=2.0), **environment)
    assert session.wait(20.0) == 1
    assert "error: rank 0 of 2" in session.stderr
    assert "could not join the others (time limit 2 s)" in session.stderr


def test_a_bad_loss_on_one_rank_stops_all_with_the_same_message(start_ranks: StartRanks, tmp_path: Path) -> None:
    """Image 39 is rank 1's, in step 8."""
    sessions = start_ranks(Settings(str(tmp_path / "run"), **PLAIN, bad_image=39))
    assert statuses(sessions) == [1, 1]
    for session in sessions:
        assert "step 8: the loss is not a finite number: classification of image 39" in session.stderr
        assert "The last good checkpoint is" in session.stderr
        assert "checkpoint_00000005.pt" in session.stderr


def test_ranks_that_disagree_are_refused_by_name(start_ranks: StartRanks, tmp_path: Path) -> None:
    sessions = start_ranks(Settings(str(tmp_path / "run"), odd_rank=1))
    assert statuses(sessions) == [1, 1]
    for session in sessions:
        assert (
            "rank 1 and rank 0 disagree on the run: steps is 30 on rank 0 and 31 on rank 1. Start every"
            in session.stderr
        )


def test_rank_0_s_refusal_reaches_every_rank(start_ranks: StartRanks, tmp_path: Path) -> None:
    settings = Settings(str(tmp_path / "run"), steps=4)
    assert statuses(start_ranks(settings)) == [0, 0]
    sessions = start_ranks(settings)
    assert statuses(sessions) == [1, 1]
    assert all("holds checkpoints of an earlier run" in session.stderr for session in sessions)


# Under torchrun itself


@pytest.fixture
def torchrun() -> Iterator[Callable[..., subprocess.Popen]]:
    """torchrun(its arguments, the toy's arguments, where it runs) → its process, which does not outlive the test."""
    agents: list[subprocess.Popen] = []

    def start_agent(
        arguments: list[str], program: list[str], place: Sequence[str] = (), **environment: str
    ) -> subprocess.Popen:
        command = [sys.executable, "-m", "torch.distributed.run", *arguments, str(HERE / "toy_run.py"), *program]
        environment = {**child_environment(), **environment}
        agents.append(subprocess.Popen([*place, *command], env=environment, stderr=subprocess.PIPE, text=True))
        return agents[-1]

    yield start_agent
    for agent in agents:
        if agent.poll() is None:
            agent.send_signal(signal.SIGTERM)  # it then ends its processes; killed, it would leave them
        agent.communicate()


def test_torchrun_restarts_a_killed_run_from_its_last_checkpoint(start_ranks: StartRanks, tmp_path: Path) -> None:
    """By its agent, which forks its processes."""
    assert statuses(start_ranks(Settings(str(tmp_path / "whole"), steps=20))) == [0, 0]
    settings = Settings(str(tmp_path / "run"), steps=20, kill_rank=1, fault_step=12)
    agent = fork_server().Process(target=elastic_agent, args=(settings, str(tmp_path / "stderr.txt")))
    agent.start()
    agent.join(120)
    assert agent.exitcode == 0
    assert "continuing after step 10" in (tmp_path / "stderr.txt").read_text()
    assert_same_bits(final_weights(tmp_path / "run"), final_weights(tmp_path / "whole"))


@pytest.mark.slow
def test_sigterm_to_torchrun_leaves_a_checkpoint(torchrun, tmp_path: Path) -> None:
    agent = torchrun(
        ["--nproc-per-node", "2", "--master-port", str(free_port())],
        [str(tmp_path / "run"), "seconds_per_step=0.1", "checkpoint_every=0"],
    )
    wait_until(lambda: logged_steps(tmp_path / "run"), 60.0)
    agent.send_signal(signal.SIGTERM)
    _, stderr = agent.communicate(timeout=60)
    assert "SIGTERM: finishing this step" in stderr
    assert len(list((tmp_path / "run").glob("checkpoint_*.pt"))) == 1


@pytest.fixture(params=["namespaces", "loopback"])
def places(request: pytest.FixtureRequest) -> Iterator[list[Place]]:
    """Two: each in a network namespace of its own, joined by a cable, as two machines are; or both on this one."""
    if request.param == "loopback":
        yield [Place([], "127.0.0.1", "lo")] * 2
        return
    with two_namespaces() as places:
        yield places


@pytest.mark.slow
def test_two_machines(start_ranks: StartRanks, torchrun, places: list[Place], tmp_path: Path) -> None:
    """Two torchrun agents that meet at the first one's address, one process each."""
    assert statuses(start_ranks(Settings(str(tmp_path / "whole"), steps=20))) == [0, 0]
    port = free_port()
    agents = []
    for number, place in enumerate(places):
        arguments = agent_arguments(places, number, port)
        program = [str(tmp_path / "run"), "steps=20"]
        agents.append(torchrun(arguments, program, place.command, GLOO_SOCKET_IFNAME=place.interface))
    assert [agent.wait(120) for agent in agents] == [0, 0]
    assert_same_bits(final_weights(tmp_path / "run"), final_weights(tmp_path / "whole"))


# One process alone


def test_alone_every_exchange_is_trivial(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with distributed.process_group("cpu") as device:
        assert device == torch.device("cpu")
        assert (distributed.rank(), distributed.world_size(), distributed.is_main()) == (0, 1, True)
        assert distributed.gather_objects("x") == ["x"]
        assert distributed.gather_numbers(torch.tensor([1.0, 2.0])) == [[1.0, 2.0]]
        assert distributed.broadcast_object(3) == 3
        assert distributed.on_main(lambda: 4) == 4
        distributed.barrier()


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_that_is_not_there_is_an_error() -> None:
    with pytest.raises(UserError, match="sees no GPU here"), distributed.process_group("cuda"):
        pass


def test_errors_of_other_origin_pass_through_unchanged() -> None:
    began = time.monotonic()
    with pytest.raises(RuntimeError, match="shape"), distributed.explained("anything"):
        torch.zeros(2).reshape(3)
    assert time.monotonic() - began < 1.0
