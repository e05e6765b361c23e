"""Two machines on this one: network namespaces that a cable joins, and torchrun's arguments on each."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import pytest


@dataclass
class Place:
    """Where an agent runs: the command that takes it there, its address and its network interface."""

    command: list[str]
    address: str
    interface: str


@contextlib.contextmanager
def two_namespaces() -> Iterator[list[Place]]:
    """Two places, each in a network namespace of its own. Where they may not be made, the test is skipped."""
    names = [f"toy{os.getpid()}{end}" for end in "ab"]
    places = [Place(["ip", "netns", "exec", name], f"10.213.77.{i}", name) for i, name in enumerate(names, start=1)]
    made: list[str] = []
    try:
        for name in names:
            _ip("netns", "add", name)
            made.append(name)
        _ip("link", "add", names[0], "netns", names[0], "type", "veth", "peer", "name", names[1], "netns", names[1])
        for place in places:
            _ip("-n", place.interface, "address", "add", f"{place.address}/24", "dev", place.interface)
            for interface in ("lo", place.interface):
                _ip("-n", place.interface, "link", "set", interface, "up")
        yield places
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"NO NAMESPACES: they could not be made here ({error}), so no two machines were tried")
    finally:
        for name in made:
            _ip("netns", "delete", name)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def agent_arguments(places: list[Place], number: int, port: int) -> list[str]:
    """What torchrun is given on one of two machines, which meet at the first one's address, for one process each."""
    arguments = ["--nnodes", "2", "--nproc-per-node", "1", "--node-rank", str(number)]
    arguments += ["--rdzv-backend", "c10d", "--rdzv-id", "toy", "--rdzv-endpoint", f"{places[0].address}:{port}"]
    # By itself an agent compares the endpoint with what its host's name resolves to.
    return [*arguments, "--local-addr", places[number].address, "--rdzv-conf", f"is_host={int(number == 0)}"]
