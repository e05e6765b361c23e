"""Recipes are compared on a few drawn images: paired with the base, gone on with where they stopped, for equal time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import recipe_runs, recipes
from benchmarks.recipe_list import BASE, RECIPES, shortened, together
from detection.common.core_yaml import dump_yaml, parse_yaml
from detection.config_file import config_to_dict, load_config

CONFIGS = Path(__file__).parents[2] / "configs"


def compare(data: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> dict[str, Any]:
    folder = data.parent
    words = ["--config", folder / "tiny.yaml", "--data", folder / "tiny.yaml", "--root", f"tiny={data}"]
    words += ["--work", folder / "work", "--output", folder / "results" / "recipes.json", *arguments]
    monkeypatch.setattr("sys.argv", ["recipes", *map(str, words)])
    assert recipes.main() == 0
    result: dict[str, Any] = json.loads((folder / "results" / "recipes.json").read_text())
    return result


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is trained, as "rpn" and "fast_rcnn", in order."""
    done: list[str] = []
    for name in ("train_rpn", "train_fast_rcnn"):
        inner = getattr(recipe_runs, name)

        def noted(*arguments: Any, inner: Any = inner, name: str = name, **options: Any) -> Any:
            outcome = inner(*arguments, **options)
            if outcome.first_step < outcome.step:
                done.append(name.removeprefix("train_"))
            return outcome

        monkeypatch.setattr(recipe_runs, name, noted)
    return done


def test_recipes_share_what_they_do_not_change_and_go_on_where_they_stopped(
    data: Path, monkeypatch: pytest.MonkeyPatch, trained: list[str]
) -> None:
    chosen = ["--recipes", "test flip and scales", "GIoU loss", "--seeds", "0"]
    first = compare(data, monkeypatch, *chosen)
    assert [one["recipe"] for one in first["runs"]] == [BASE, "test flip and scales", "GIoU loss"]
    assert trained == ["rpn", "fast_rcnn", "fast_rcnn"], "inference trains nothing, and one RPN serves both trainings"
    [table] = first["tables"]
    assert [row[:2] for row in table["rows"]] == [[one["recipe"], "0"] for one in first["runs"]]
    more = compare(
        data, monkeypatch, "--recipes", "test flip and scales", "--seeds", "0", "1",
        "--change", "top 5", "fast_rcnn.detections=5", "--together", "GIoU loss", "box voting",
    )  # fmt: skip
    assert more["runs"][:3] == first["runs"], "what is known is not run again, and stays in the file"
    new = [(one["seed"], one["recipe"]) for one in more["runs"][3:]]
    both = "GIoU loss + box voting"
    assert new == [(0, both), (0, "top 5"), (1, BASE), (1, "test flip and scales"), (1, both), (1, "top 5")]
    assert trained == ["rpn", *["fast_rcnn"] * 2, "rpn", *["fast_rcnn"] * 2], (
        "what differs in inference alone is shared"
    )
    [table] = more["tables"]
    assert [row[:2] for row in table["rows"]] == [
        [title, "0, 1"] for title in (BASE, "test flip and scales", both, "top 5")
    ]
    gains = {row[0]: row[3] for row in table["rows"]}
    assert gains[BASE] == ""
    by_seed = {(one["recipe"], one["seed"]): one["AP"] for one in more["runs"]}
    expected = sum(by_seed[both, seed] - by_seed[BASE, seed] for seed in (0, 1)) / 2
    assert gains[both].startswith(f"{expected:+.3f} (")


def test_a_killed_training_goes_on_from_its_checkpoint(
    data: Path, monkeypatch: pytest.MonkeyPatch, trained: list[str]
) -> None:
    inner = recipe_runs.propose

    def killed(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(recipe_runs, "propose", killed)
    with pytest.raises(KeyboardInterrupt):
        compare(data, monkeypatch, "--recipes", BASE, "--seeds", "0")
    monkeypatch.setattr(recipe_runs, "propose", inner)
    result = compare(data, monkeypatch, "--recipes", BASE, "--seeds", "0")
    assert trained == ["rpn", "fast_rcnn"]
    assert [one["recipe"] for one in result["runs"]] == [BASE]
    assert result["runs"][0]["seconds"] > 0


def test_equal_seconds_scale_the_steps_by_the_pace_of_a_trial(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paces = iter([(0.5, 2.0), (0.25, 1.0)])  # the recipe's, then the base's
    inner = recipes.pace
    measured: list[tuple[float, float]] = []

    def told(*arguments: Any) -> tuple[float, float]:
        measured.append(inner(*arguments))
        return next(paces)

    monkeypatch.setattr(recipes, "pace", told)
    monkeypatch.setattr(recipe_runs, "TRIAL_STEPS", 3)
    words = ["--equal", "seconds", "--recipes", "OHEM", "box voting", "--seeds", "0"]
    words += ["--set", "rpn.training.steps=8", "fast_rcnn.training.steps=6"]
    result = compare(data, monkeypatch, *words)
    assert {one["recipe"]: tuple(one["steps"].values()) for one in result["runs"]} == {
        BASE: (8, 6),
        "OHEM": (4, 3),
        "box voting": (8, 6),
    }
    assert all(pace > 0 for pair in measured for pace in pair)
    again = compare(data, monkeypatch, *words)
    assert again["runs"] == result["runs"], "a trial is not repeated"


def test_every_recipe_is_a_change_of_the_small_configuration() -> None:
    base = load_config(CONFIGS / "small" / "base.yaml", ["data.layout=coco"])
    for name, recipe in RECIPES.items():
        changed = recipe.applied_to(base)
        assert (changed == base) == (name == BASE)
        if recipe.inference:
            values, own = config_to_dict(base), config_to_dict(changed)
            for section, keys in (
                ("data", ("test_scales", "test_flip")),
                ("fast_rcnn", ("nms", "nms_across_classes", "box_voting_iou")),
            ):
                for key in keys:
                    own[section][key] = values[section][key]
            assert own == values, f"{name} changes more than inference"
    both = together(["twice the steps", "box voting"])
    assert both.applied_to(base).rpn.training.steps == 2 * base.rpn.training.steps
    assert both.applied_to(base).fast_rcnn.box_voting_iou == 0.8
    assert not both.inference
    assert together(["test flip", "box voting"]).inference


def test_a_share_of_the_steps_may_differ_for_the_two_networks() -> None:
    base = load_config(CONFIGS / "small" / "base.yaml", ["data.layout=coco"])
    changed = shortened(base, 0.5, 2.0)
    assert changed.rpn.training.steps == base.rpn.training.steps / 2
    assert changed.fast_rcnn.training.steps == base.fast_rcnn.training.steps * 2


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--recipes", "OHME"], "'OHME' is no recipe; did you mean 'OHEM'?"),
        (["--change", "odd", "rpn.chanels=3"], "rpn.chanels: unknown key"),
        (["--root", "other=x"], "no file of --data has the name other; they are tiny"),
    ],
)
def test_mistakes_are_told_before_anything_is_trained(
    data: Path, monkeypatch: pytest.MonkeyPatch, trained: list[str], words: list[str], part: str
) -> None:
    with pytest.raises(recipes.UserError, match=part.replace("?", r"\?")):
        compare(data, monkeypatch, *words)
    assert trained == []


def test_data_sets_bring_their_files_and_the_base_all_else(data: Path) -> None:
    content = parse_yaml((data.parent / "tiny.yaml").read_text(), "text")
    other = data.parent / "other.yaml"
    other.write_text(dump_yaml({"name": "other", "data": content["data"], "rpn": {"channels": 99}}))
    options = recipes._arguments().parse_args(
        ["--data", str(data.parent / "tiny.yaml"), str(other), "--config", str(data.parent / "tiny.yaml"),
         "--root", f"tiny={data}", "other=/elsewhere"]
    )  # fmt: skip
    found = recipes.data_sets(options)
    assert list(found) == ["tiny", "other"]
    assert (found["tiny"].data.root, found["other"].data.root) == (str(data), "/elsewhere")
    assert found["other"].rpn.channels == 32
    small = ["--config", str(CONFIGS / "small" / "base.yaml")]
    options = recipes._arguments().parse_args(
        ["--data", str(CONFIGS / "bccd.yaml"), str(CONFIGS / "demo.yaml"), *small]
    )
    assert list(recipes.data_sets(options)) == ["bccd", "demo"]


def test_beyond_the_spread_needs_three_seeds_that_all_gain(tmp_path: Path) -> None:
    results = recipes.Results(tmp_path / "recipes.json", {"commit": None}, "steps", [BASE, "a", "b", "c"])
    results.current = {("set", title): title for title in results.titles}
    values = {BASE: (0.40, 0.42, 0.41), "a": (0.45, 0.46, 0.45), "b": (0.46, 0.47, 0.40), "c": (0.402, 0.421, 0.411)}
    for title, figures in values.items():
        for seed, ap in enumerate(figures):
            results.runs.append(
                {"data": "set", "recipe": title, "seed": seed, "key": title, "AP": ap, "AP50": ap, "seconds": 1.0,
                 "steps": {"rpn": 1, "fast_rcnn": 1}, "test_images_per_second": 1.0}
            )  # fmt: skip
    [table] = results.write()
    assert [row[4] for row in table["rows"]] == ["", "yes", "", ""]
    assert "standard deviation of the base's AP 0.010" in table["title"]
    results.runs = [one for one in results.runs if one["seed"] < 2]
    assert [row[4] for row in results.write()[0]["rows"]] == [""] * 4
