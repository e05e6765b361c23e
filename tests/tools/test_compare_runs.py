"""compare_runs.py: which run is better, whether that is more than chance, and what differs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from backbones.common.errors import UserError
from detection.config_file import config_from_dict, load_config_of, write_config
from detection.data.index import DatasetIndex
from detection.evaluation.average_precision import average_precision
from detection.experiment.checking import DataConfig
from detection.experiment.class_matching import match_classes
from detection.experiment.comparison import compare_runs
from detection.experiment.datasets import open_split
from detection.experiment.evaluation_folder import claim_folder
from detection.experiment.ground_truth_loading import ground_truth_of, write_ground_truth
from detection.experiment.results_file import read_results, write_results
from tests.detection.evaluation.made_detections import loaded, made_detections, made_ground_truth
from tests.detection.pipeline import tool


def make_run(folder: Path, rows: np.ndarray, annotations: Path, fingerprint: str = "f", steps: int = 100) -> Path:
    (folder / "evaluation").mkdir(parents=True)
    (folder / "fastrcnn").mkdir()
    write_results(folder / "evaluation" / "results.json", rows)
    # as an earlier version wrote it, without ground_truth.json
    dataset = {"annotations": str(annotations), "fingerprint": fingerprint}
    (folder / "evaluation" / "figures.json").write_text(json.dumps({"images": 40}))
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


def evaluated(folder: Path, index: DatasetIndex) -> Path:
    """A run whose detections are the objects: its AP is 1 on its own images, and lower on more of them."""
    evaluation = folder / "evaluation"
    claim_folder(evaluation, index, ("results.json", "ground_truth.json"))
    truth = ground_truth_of(index)
    rows = [truth.object_image_ids, truth.boxes, np.full(len(truth.boxes), 0.9), truth.object_category_ids]
    write_results(evaluation / "results.json", np.column_stack(rows)[~truth.crowds])
    write_ground_truth(evaluation / "ground_truth.json", index)
    return folder


def split_for_test(data: Path, *changes: str) -> DatasetIndex:
    config = load_config_of(DataConfig, None, [f"data.root={data}", "data.cache=false", *changes])
    return open_split(config.data, "test")


@pytest.fixture(scope="module")
def formats(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Format → a data set of four test images in it. "one": in one piece, which data.split divides."""
    folder = tmp_path_factory.mktemp("formats")
    found = {"coco": data, "one": folder / "one", "csv": folder / "csv"}
    for to in ("yolo", "voc"):
        tool("convert_dataset", "--data", data, "--to", to, "--output", folder / to)
        found[to] = folder / to
    shutil.copytree(data / "test", found["one"])
    shutil.copy(data / "annotations/instances_test.json", found["one"] / "labels.json")
    shutil.copytree(data / "test", found["csv"])
    truth = ground_truth_of(split_for_test(data))
    names = dict(zip(truth.category_ids.tolist(), truth.category_names, strict=True))
    lines = ["image,class,x,y,width,height"]
    for image, (x, y, width, height), category in zip(
        truth.object_image_ids.tolist(), truth.boxes.tolist(), truth.object_category_ids.tolist(), strict=True
    ):
        lines.append(f"{image:06d}.jpg,{names[category]},{x},{y},{width},{height}")
    (found["csv"] / "test.csv").write_text("\n".join(lines))
    return found


@pytest.mark.parametrize(
    ("format", "changes", "images"),
    [
        ("coco", [], 4),
        ("coco", ["data.test.limit=2"], 2),
        ("one", ["data.split.test=0.5"], 2),
        ("one", ["data.split.test=0.5", "data.test.limit=1"], 1),
        ("yolo", ["data.test.limit=3"], 3),
        ("voc", [], 4),
        ("csv", [], 4),
    ],
)
def test_runs_are_compared_on_the_images_they_were_evaluated_on(
    format: str, changes: list[str], images: int, formats: dict[str, Path], tmp_path: Path
) -> None:
    index = split_for_test(formats[format], *changes)
    result = compare_runs([evaluated(tmp_path / name, index) for name in "ab"], draws=20)
    assert result.images == len(index) == images
    assert [value.value for value in result.sizes[0].values] == [1.0, 1.0]


def test_runs_on_other_images_of_one_test_set_are_refused(data: Path, tmp_path: Path) -> None:
    some, all_of_them = evaluated(tmp_path / "some", split_for_test(data, "data.test.limit=2")), tmp_path / "all"
    evaluated(all_of_them, split_for_test(data))
    with pytest.raises(UserError, match=r"all was evaluated on 4 images of .*some on 2, which are not the same ones"):
        compare_runs([some, all_of_them])
    with pytest.raises(UserError, match=r"holds the evaluation of other images of .*\(their number: 4, ids"):
        evaluated(all_of_them, split_for_test(data, "data.test.limit=2"))
    with pytest.raises(UserError, match=r"instances_test.json: lists other images .*leave --annotations out"):
        compare_runs([some, some], annotations=data / "annotations/instances_test.json")


def test_a_part_that_an_earlier_version_evaluated_is_refused(runs: tuple[Path, Path, Path], tmp_path: Path) -> None:
    rows = read_results(runs[0] / "evaluation" / "results.json")
    part = make_run(tmp_path / "part", rows, runs[0].parent / "test.json")
    for figures, said in (('{"images": 12}', "12"), ("{}", "not recorded")):
        (part / "evaluation" / "figures.json").write_text(figures)
        with pytest.raises(UserError, match=rf"number: 40; evaluated: {said}\); .*evaluates anew and writes ground_"):
            compare_runs([runs[0], part], draws=20)


def test_labels_that_cannot_be_read_again_are_refused_with_the_remedy(formats: dict[str, Path], tmp_path: Path) -> None:
    run = evaluated(tmp_path / "run", split_for_test(formats["voc"]))
    (run / "evaluation" / "ground_truth.json").unlink()
    with pytest.raises(UserError, match=r"has no ground_truth.json; tools/eval_coco.py --weights .*evaluates anew"):
        compare_runs([run, run])


def test_detectors_with_other_ids_of_the_classes_are_compared_by_name(formats: dict[str, Path], tmp_path: Path) -> None:
    index = split_for_test(formats["csv"])
    names = index.category_names
    runs = [
        evaluated(tmp_path / "a", match_classes(index, range(1, len(names) + 1), names, "a")),
        evaluated(tmp_path / "b", match_classes(index, range(1, len(names) + 2), ["more", *names[::-1]], "b")),
    ]
    assert [value.value for value in compare_runs(runs, draws=20).sizes[0].values] == [1.0, 1.0]
    ids = [set(read_results(run / "evaluation" / "results.json")[:, 6]) for run in runs]
    assert ids[0] != ids[1]
