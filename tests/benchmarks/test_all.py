"""`python -m benchmarks`: one after the other, failures told, the table in any case."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

import pytest

from backbones.common.errors import UserError
from benchmarks import __main__ as everything
from benchmarks import imports


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Runs nothing; the modules that would have run. "growth" fails."""
    modules: list[str] = []

    def failure_of(arguments: Sequence[str], budget: float) -> str | None:
        modules.append(arguments[1])
        return "exit status 1" if arguments[1] == "benchmarks.growth" else None

    monkeypatch.setattr(everything, "failure_of", failure_of)
    return modules


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["benchmarks", *arguments])
    return everything.main()


def test_only_what_is_asked_for_runs_and_then_the_table(calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert call(monkeypatch, "--only", "imports", "paper") == 0
    assert calls == ["benchmarks.imports", "benchmarks.detector", "benchmarks.table"]


def test_a_failure_is_told_at_the_end(calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="growth: exit status 1"):
        call(monkeypatch)
    assert len(calls) == len(everything.BENCHMARKS) + 1
    assert calls[-1] == "benchmarks.table"


def test_the_list_names_every_benchmark_and_each_exists(
    calls: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "--list") == 0
    listed = capsys.readouterr().out
    assert not calls
    for one in everything.BENCHMARKS:
        assert f"python -m benchmarks.{one.module}" in listed
        assert importlib.util.find_spec(f"benchmarks.{one.module}") is not None
    assert len({one.name for one in everything.BENCHMARKS}) == len(everything.BENCHMARKS)


def test_statuses_and_budgets_of_processes() -> None:
    assert everything.failure_of(["-c", "pass"], 60) is None
    assert everything.failure_of(["-c", "raise SystemExit(3)"], 60) == "exit status 3"
    assert "given up after 0" in (everything.failure_of(["-c", "import time; time.sleep(60)"], 0.3) or "")


def test_every_tool_is_asked_for_its_help() -> None:
    assert {"tools/train_rpn.py", "tools/eval_coco.py", "python -m backbones"} <= set(imports.tools())
