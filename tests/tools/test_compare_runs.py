"""compare_runs.py: which run is better, whether that is more than chance, and what differs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from detection.config_file import config_from_dict, write_config
from detection.evaluation.average_precision import average_precision
from detection.experiment.comparison import compare_runs
from detection.experiment.results_file import read_results, write_results
from tests.detection.evaluation.made_detections import loaded, made_detections, made_ground_truth
from tests.detection.pipeline import tool


def make_run(folder: Path, rows: np.ndarray, annotations: Path, fingerprint: str = "f", steps: int = 100) -> Path:
    (folder / "evaluation").mkdir(parents=True)
    (folder / "fastrcnn").mkdir()
    write_results(folder / "evaluation" / "results.json", rows)
    dataset = {"annotations": str(annotations), "fingerprint": fingerprint}
    (folder / "evaluation" / "dataset.json").write_text(json.dumps(dataset))
    (folder / "config.yaml").write_text(f"name: {folder.name}\nseed: 1\nrpn: {{training: {{steps: {steps}}}}}\n")
    lines = [{"kind": "train", "step": step, "loss": 3 / step} for step in range(1, 5)]
    (folder / "fastrcnn" / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A run, one that is clearly worse at cats, and one that differs in a single detection."""
    folder = tmp_path_factory.mktemp("runs")
    content = made_ground_truth(21, images=40)
    (folder / "test.json").write_text(json.dumps(content))
    rows = made_detections(content, 21, faults=0.2)
    cats = np.flatnonzero(rows[:, 6] == content["categories"][0]["id"])
    worse = np.delete(rows, cats[::2], axis=0)
    return (
        make_run(folder / "good", rows, folder / "test.json"),
        make_run(folder / "worse", worse, folder / "test.json", steps=50),
        make_run(folder / "same", np.delete(rows, 3, axis=0), folder / "test.json"),
    )


def test_the_figures_are_those_of_the_evaluation_and_their_differences(runs: tuple[Path, Path, Path]) -> None:
    result = compare_runs(runs, draws=50)
    truth = loaded(json.loads((runs[0].parent / "test.json").read_text()))
    for place, run in enumerate(runs):
        figures = average_precision(truth, read_results(run / "evaluation" / "results.json"))
        assert result.sizes[0].values[place].value == pytest.approx(figures.figures["AP"], abs=1e-12)
        for row, own in zip(result.classes, figures.classes, strict=True):
            assert (row.name, row.objects) == (own.name, own.objects)
            assert row.values[place].value == pytest.approx(own.average_precision, abs=1e-12)
    for row in (*result.sizes, *result.classes):
        for place, difference in enumerate(row.differences, start=1):
            assert difference.value == pytest.approx((row.values[place].value or 0) - (row.values[0].value or 0))


def test_it_says_what_is_real_and_what_may_be_chance(runs: tuple[Path, Path, Path], tmp_path: Path) -> None:
    said = tool("compare_runs", *runs, "--output", tmp_path / "c.html", "--draws", 50).stdout
    assert "worse is worse than good: AP -0." in said
    assert "same and good cannot be told apart on these 40 images" in said
    assert any(line.startswith("cat ") for line in said.splitlines())
    assert not any(line.startswith("bird ") for line in said.splitlines())
    assert "rpn.training.steps: 100 | 50 | 100" in said
    page = (tmp_path / "c.html").read_text()
    assert "<th>worse − good</th>" in page
    assert page.count("<svg") == 1
    assert ">bird</td>" in page
    assert "seed" not in page
    assert (tmp_path / "c.html").stat().st_size < 100_000


def test_what_cannot_be_compared_is_refused(runs: tuple[Path, Path, Path], tmp_path: Path) -> None:
    other = make_run(tmp_path / "other", np.zeros((0, 7)), tmp_path / "elsewhere.json", fingerprint="g")
    earlier = make_run(tmp_path / "earlier", np.zeros((0, 7)), tmp_path / "elsewhere.json")
    (earlier / "evaluation" / "dataset.json").unlink()
    for names, message in (
        ([runs[0]], "name two or more"),
        ([runs[0], other], "evaluate both on the same test set"),
        ([runs[0], tmp_path], "holds no evaluation"),
        (
            [runs[0], earlier],
            f"of an earlier version, which did not record the test set (dataset.json); tools/"
            f"eval_coco.py --weights {earlier / 'detector.pt'} evaluates anew",
        ),
    ):
        result = tool("compare_runs", *names, "--output", tmp_path / "c.html", check=False)
        assert result.returncode == 1
        assert message in result.stderr
    assert not (tmp_path / "c.html").exists()


def test_evaluation_folders_and_moved_annotations_are_taken(runs: tuple[Path, Path, Path], tmp_path: Path) -> None:
    moved = tmp_path / "moved.json"
    moved.write_bytes((runs[0].parent / "test.json").read_bytes())
    folders = [run / "evaluation" for run in runs[:2]]
    tool("compare_runs", *folders, "--annotations", moved, "--output", tmp_path / "c.html", "--draws", 20)
    assert str(moved) in (tmp_path / "c.html").read_text()


def test_keys_that_an_earlier_version_lacked_are_no_difference(runs: tuple[Path, Path, Path], tmp_path: Path) -> None:
    rows = read_results(runs[0] / "evaluation" / "results.json")
    earlier, later = (make_run(tmp_path / name, rows, runs[0].parent / "test.json") for name in ("earlier", "later"))
    values = {"backbone": {"weights": None, "freeze": None, "norm": "group"}}
    (earlier / "config.yaml").write_text(json.dumps(values))
    write_config(config_from_dict(values, "here"), later / "config.yaml")
    assert compare_runs([earlier, later], draws=20).settings == {}
    (later / "config.yaml").write_text("seed: 1\nunheard_of: 2\n")  # compared as it is
    assert compare_runs([later, earlier], draws=20).settings["unheard_of"] == ["2", "—"]
