"""Growth: exponents of known curves, and every work runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import growth, growth_works
from benchmarks.growth import Curve, Growth, as_table, exponent, exponents, worse_than_linear

SIZES = (1, 10, 100, 1000)


def grown(seconds: list[float], megabytes: list[float] | None = None, sizes: tuple[int, ...] = SIZES) -> Growth:
    return Growth("things", "things", sizes, {"work": Curve(seconds, megabytes)})


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 2.0])
def test_the_exponent_is_that_of_a_power(power: float) -> None:
    assert exponent(SIZES, [7 * size**power for size in SIZES]) == pytest.approx(power)


def test_the_exponent_ignores_the_lower_half_and_size_zero() -> None:
    assert exponent((0, 1, 2, 4, 8), [50.0, 9.0, 9.0, 4.0, 8.0]) == pytest.approx(1)


def test_what_is_worse_than_linear_is_named() -> None:
    linear, square = [float(size) for size in SIZES], [float(size) ** 2 for size in SIZES]
    assert worse_than_linear(grown(linear, linear)) == []
    assert worse_than_linear(grown(square)) == ["work: time grows with exponent 2.00"]
    assert worse_than_linear(grown(linear, square)) == ["work: memory grows with exponent 2.00"]


def test_memory_that_hardly_grows_has_no_exponent() -> None:
    assert exponents(grown([1.0] * 4, [0.0, 0.0, 0.3, 1.5]))["work"][1] is None


def test_the_table_has_the_sizes_and_the_exponents() -> None:
    content = as_table(grown([0.001, 0.01, 0.1, 1.0], [1, 10, 100, 1000]))
    assert content["rows"][2] == ["100", "100 ms, 100 MB"]
    assert content["rows"][-1] == ["exponent", "1.00, 1.00"]


@pytest.mark.parametrize("subject", growth_works.SUBJECTS, ids=lambda subject: subject.name)
def test_every_work_runs_again_and_again(subject: growth_works.Subject, tmp_path: Path) -> None:
    size = min(subject.sizes[0], 128**2) if subject.name != "images" else 50
    works = subject.works(size, tmp_path)
    for work in works.values():
        work()
        work()
    assert list(subject.sizes) == sorted(set(subject.sizes))


def test_the_issues_ranges_are_covered() -> None:
    ranges = {subject.name: (subject.sizes[0], subject.sizes[-1]) for subject in growth_works.SUBJECTS}
    assert ranges["regions"] == (64, 2000)
    assert ranges["ground_truth"] == (1, 2000)
    assert ranges["classes"] == (1, 1203)
    assert ranges["images"] == (1000, 400_000)
    assert ranges["detections"] == (1000, 40_000)
    assert (growth.WORKERS[0], growth.WORKERS[-1]) == (0, 8)


def test_regions_and_boxes_are_as_many_as_asked_for(tmp_path: Path) -> None:
    found = growth_works.regions(100, tmp_path)["NMS of 12,000 boxes"]()
    kept = found[1]  # type: ignore[index]
    assert kept.shape == (1, 100)
    assert kept.all()
    batch = growth_works._batch((64, 96), boxes=37, proposals=11)
    assert batch.boxes.shape == (1, 37, 4)
    assert (batch.boxes[..., 2:] > batch.boxes[..., :2]).all()
    assert (batch.boxes[..., 2:] <= torch.tensor([96.0, 64.0])).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["classes", "workers"])
def test_growth_leaves_its_result_and_plots(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "growth.json"
    arguments = ["--quick", "--only", name, "--output", str(output), "--plots", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["growth", *arguments])
    assert growth.main() == 0
    result = json.loads(output.read_text())
    (content,) = result["tables"]
    assert (tmp_path / content["plot"]).read_text().startswith("<svg")
    works = result["growth"][name]["works"]
    assert all(value > 0 for work in works.values() for value in work["seconds"])
