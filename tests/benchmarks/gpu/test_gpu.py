"""`python -m benchmarks.gpu`: what is begun, what is left, what is kept of a failure, and a quick call end to end."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from backbones.common.errors import UserError
from benchmarks.gpu import __main__ as command
from benchmarks.gpu.own_process import run_in_own_process, run_unit
from benchmarks.gpu.page import write_page
from benchmarks.gpu.results import folder_of_device, read_units
from benchmarks.gpu.units import PARTS, Unit, units

REPOSITORY = Path(__file__).resolve().parents[3]


def unit(name: str, function: str = "no_module:nothing", **options: object) -> Unit:
    return Unit("a", name, function, **options)  # type: ignore[arg-type]


def test_every_unit_has_a_name_of_its_own_a_part_and_a_function() -> None:
    every = units(quick=False, data=Path("bccd"))
    assert len({one.name for one in every}) == len(every)
    assert {one.part for one in every} | {"f"} == set(PARTS)  # f is computed from b
    for one in every:
        module, _, name = one.function.partition(":")
        assert (REPOSITORY / "benchmarks/gpu" / f"{module}.py").read_text().count(f"def {name}(") == 1
        assert one.name.startswith(f"{one.part}_")
    assert {one.function for one in units(quick=True, data=None)} == {one.function for one in every}


def test_what_there_is_no_time_for_is_passed_over_for_something_shorter() -> None:
    left = [unit("long", expected=1000.0), unit("short", expected=1.0)]
    left.append(unit("goes_on", expected=1000.0, continues=True))
    done: list[str] = []

    def work(one: Unit) -> bool:
        done.append(one.name)
        return one.name != "goes_on"

    unfinished = command.run_all(left, work, lambda: None, time.monotonic() + 60)
    assert done == ["short", "goes_on"]
    assert [one.name for one in unfinished] == ["long", "goes_on"]


def test_a_failure_is_kept_with_its_error_and_stands_on_the_page(tmp_path: Path) -> None:
    run_unit(unit("a_broken"), "cpu", True, tmp_path)
    found = read_units(tmp_path)["a_broken"]
    assert found["outcome"] == "failed"
    assert "No module named" in found["error"]
    write_page(tmp_path)
    assert "`a_broken` failed: ModuleNotFoundError" in (tmp_path / "README.md").read_text()


def test_a_unit_beyond_its_limit_or_the_time_of_the_call_is_stopped(tmp_path: Path) -> None:
    slow = unit("a_slow", "correctness:kernels", limit=0.01)
    assert not run_in_own_process(slow, "cpu", True, tmp_path, time.monotonic())
    assert not read_units(tmp_path)  # it is begun again in the next call
    assert run_in_own_process(slow, "cpu", True, tmp_path, time.monotonic() + 60)
    assert "took longer than 0 s" in read_units(tmp_path)["a_slow"]["error"]


def test_results_of_other_devices_and_versions_are_kept_apart_and_a_foreign_file_is_named(tmp_path: Path) -> None:
    folder = folder_of_device(tmp_path, torch.device("cpu"), quick=True)
    assert folder.name.endswith(f"torch-{torch.__version__.partition('+')[0]}_quick")
    (tmp_path / "a_x.json").write_text("[]")
    with pytest.raises(UserError, match=r"a_x\.json: is no result of a unit"):
        read_units(tmp_path)


@pytest.mark.slow
def test_quick_runs_end_to_end_and_the_next_call_has_nothing_to_do(tmp_path: Path) -> None:
    call = [sys.executable, "-m", "benchmarks.gpu", "--quick", "--minutes", "30", "--output", str(tmp_path)]
    first = subprocess.run(call, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert first.returncode == 0, first.stderr
    assert "everything is done" in first.stdout, first.stdout
    (folder,) = tmp_path.iterdir()
    results = [json.loads(path.read_text()) for path in folder.glob("?_*.json")]
    assert [one["error"] for one in results if one["outcome"] == "failed"] == []
    page = (folder / "README.md").read_text()
    assert all(f"## {title}" in page for title in PARTS.values())
    again = subprocess.run(call, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert f"{len(results)} of {len(results)} units are done" in again.stdout
