"""What does each recipe bring? AP with one change of a configuration at a time beside AP without, on several data sets.

    python -m benchmarks.recipes --data configs/bccd.yaml raccoon.yaml --root bccd=DIR raccoon=DIR
    python -m benchmarks.recipes --data … --equal seconds --recipes base OHEM "cascade of two"
    python -m benchmarks.recipes --data … --together "GIoU loss" "box voting"
    python -m benchmarks.recipes --data … --change wide backbone.pyramid_width=128 rpn.channels=128

A data set is a configuration file, of which the name is used and what says where the images and labels are and how they
are read (`DATA_KEYS`); all else is `--config`'s. For each data set and seed in turn: the base, then each recipe. A
network that a recipe trains no differently is not trained again. With `--equal steps`, every recipe trains for the
base's steps; with `--equal seconds`, for the steps that take the base's time, by the pace of a short trial of both, one
directly after the other. (Recipes that change the steps themselves keep their share of either.)

Every run is added to the result file as it ends. What is there already, of the same settings on the same machine, is
not run again; an interrupted training goes on from its checkpoint in `--work`. A gain is the mean over the seeds of the
recipe's AP minus the base's of the same seed; it is beyond the spread if it exceeds the standard deviation of the
base's AP over at least three seeds and every seed gains.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from backbones.common.errors import UserError
from backbones.common.names import did_you_mean
from benchmarks.bccd import settings_key
from benchmarks.common import RESULTS, ROOT, environment, markdown, mean_and_range, table, write_result
from benchmarks.recipe_list import BASE, RECIPES, Recipe, fixed, shortened, together
from benchmarks.recipe_runs import measure, pace
from detection import config as settings
from detection.command_line import run
from detection.config_file import load_config
from detection.training.distributed import process_group

DATA_KEYS = ("layout", "format", "root", "train", "test", "split", "classes", "first_pixel", "keep_empty")
DATA_KEYS += ("skip_missing", "skip_unreadable")


def main() -> int:
    options = _arguments().parse_args()
    recipes = chosen_recipes(options)
    bases = data_sets(options)
    for base in bases.values():  # every mistake before the first training
        for recipe in recipes.values():
            recipe.applied_to(base)
    with process_group(next(iter(bases.values())).runtime.device) as device:
        results = Results(options.output, environment("recipes", device), options.equal, list(recipes))
        for name, base in bases.items():
            for seed in options.seeds:
                for title, recipe in recipes.items():
                    config = results.comparable(recipe, base, device)
                    if not results.known(name, title, seed, config):
                        measured = measure(config, options.work / name / str(seed), seed, device)
                        results.add(name, title, seed, config, measured)
        print("\n\n".join(map(markdown, results.write())))
    print(f"\n{options.output}")
    return 0


class Results:
    """The result file: runs and trials as they end, and the tables of those that belong together."""

    def __init__(self, path: Path, about: dict[str, Any], equal: str, titles: Sequence[str]) -> None:
        self.path, self.about, self.equal, self.titles = path, about, equal, titles
        content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        self.runs: list[dict[str, Any]] = content.get("runs", [])
        self.trials: dict[str, list[float]] = content.get("trials", {})
        self.current: dict[tuple[str, str], str] = {}  # data set and recipe → the key of the settings asked for

    def comparable(self, recipe: Recipe, base: settings.Config, device: torch.device) -> settings.Config:
        """The configuration of a recipe for the base's steps, or for its seconds."""
        config = recipe.applied_to(base)
        if self.equal == "steps" or recipe.inference or config == base:
            return config
        trial = settings_key(
            dataclasses.replace(config, name=f"{base.name}/{settings_key(base, self.about)}"), self.about
        )
        if trial not in self.trials:
            own, of_base = (pace(one, device) for one in (config, base))
            self.trials[trial] = [theirs / ours for ours, theirs in zip(own, of_base, strict=True)]
            self.write()
        return shortened(config, *self.trials[trial])

    def known(self, name: str, title: str, seed: int, config: settings.Config) -> bool:
        """Whether this run is in the file."""
        key = self.current[name, title] = settings_key(config, self.about)
        return any((one["data"], one["key"], one["seed"]) == (name, key, seed) for one in self.runs)

    def add(self, name: str, title: str, seed: int, config: settings.Config, measured: Mapping[str, Any]) -> None:
        """Adds a run and writes the file."""
        what = {"data": name, "recipe": title, "seed": seed, "key": settings_key(config, self.about)}
        self.runs.append({**what, "equal": self.equal, "commit": self.about["commit"], **measured})
        self.write()
        print(f"{name}, seed {seed}, {title}: AP {measured['AP']:.3f}, AP50 {measured['AP50']:.3f}", flush=True)

    def write(self) -> list[dict[str, Any]]:
        """Writes the file; returns its tables, one a data set."""
        names = dict.fromkeys(name for name, _ in self.current)
        tables = [self._table(name) for name in names]
        title = f"Recipes, each alone, for the same {self.equal}"
        about = {"title": title, "environment": self.about, "tables": tables}
        write_result(self.path, {**about, "trials": self.trials, "runs": self.runs})
        return tables

    def _table(self, name: str) -> dict[str, Any]:
        base = self._of(name, BASE)
        rows = []
        for title in self.titles:
            own = self._of(name, title)
            if not own:
                continue
            gains = [own[seed]["AP"] - base[seed]["AP"] for seed in own if seed in base] if title != BASE else []
            deviation = statistics.stdev(one["AP"] for one in base.values()) if len(base) > 1 else None
            beyond = deviation is not None and len(gains) >= 3 and min(gains) > 0
            beyond = beyond and statistics.mean(gains) > (deviation or 0.0)
            values = list(own.values())
            rows.append(
                [
                    title,
                    ", ".join(map(str, own)),
                    mean_and_range([one["AP"] for one in values], ".3f"),
                    mean_and_range(gains, "+.3f") if gains else "",
                    "yes" if beyond else "",
                    mean_and_range([one["AP50"] for one in values], ".3f"),
                    " + ".join(f"{number:,}" for number in values[0]["steps"].values()),
                    mean_and_range([one["seconds"] for one in values], ".0f"),
                    mean_and_range([one["test_images_per_second"] for one in values], ".1f"),
                ]
            )
        spread = [one["AP"] for one in base.values()]
        deviation_text = (
            f"; standard deviation of the base's AP {statistics.stdev(spread):.3f}" if len(spread) > 1 else ""
        )
        columns = ["recipe", "seeds", "AP", "gain of AP", "beyond the spread", "AP@0.5"]
        columns += ["steps, RPN + Fast R-CNN", "training, s", "images/s in test"]
        return table(f"{name}: mean (lowest – highest) over the seeds{deviation_text}", columns, rows)

    def _of(self, name: str, title: str) -> dict[int, dict[str, Any]]:
        """The runs of a recipe by seed, of the settings asked for."""
        key = self.current.get((name, title))
        own = (one for one in self.runs if one["data"] == name and one["key"] == key)
        return {one["seed"]: one for one in sorted(own, key=lambda one: one["seed"])}


def chosen_recipes(options: argparse.Namespace) -> dict[str, Recipe]:
    """The recipes that the command line names, the base first.

    Raises:
        UserError: a name is unknown.
    """
    names = options.recipes if options.recipes is not None else list(RECIPES)
    for name in [*names, *(options.together or [])]:
        if name not in RECIPES:
            raise UserError(f"{name!r} is no recipe{did_you_mean(name, RECIPES)}; --list names them all")
    recipes = {BASE: RECIPES[BASE]} | {name: RECIPES[name] for name in names}
    if options.together:
        recipes[" + ".join(options.together)] = together(options.together)
    for title, *changes in options.change or []:
        recipes[title] = fixed(*changes)
    return recipes


def data_sets(options: argparse.Namespace) -> dict[str, settings.Config]:
    """The base configuration on each of the data sets, by the data set's name.

    Raises:
        UserError: a file cannot be used; two have one name; a root is given for another.
    """
    roots = dict(text.partition("=")[::2] for text in options.root)
    # The layout needs no files yet. Without evaluations every training ends with its last weights: none are chosen by
    # the images that the recipes are measured on.
    fixed_first = ["data.layout=coco", "rpn.training.evaluate_every=null", "fast_rcnn.training.evaluate_every=null"]
    base = load_config(options.config, [*fixed_first, *options.set])
    found: dict[str, settings.Config] = {}
    for path in options.data:
        other = load_config(path, ["backbone.weights=any"])  # a file of nothing but data is complete with that
        if other.name in found:
            raise UserError(f"{path}: its name is {other.name!r}, like that of another file of --data")
        files = {key: getattr(other.data, key) for key in DATA_KEYS}
        files["root"] = roots.pop(other.name, files["root"])
        found[other.name] = dataclasses.replace(base, data=dataclasses.replace(base.data, **files))
    if roots:
        raise UserError(f"--root: no file of --data has the name {', '.join(roots)}; they are {', '.join(found)}")
    return found


class _List(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        print("\n".join(RECIPES))
        parser.exit()


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", required=True, metavar="FILE", help="a configuration each")
    parser.add_argument("--root", nargs="+", default=[], metavar="NAME=DIR", help="where the data set NAME lies")
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "small" / "base.yaml", help="the base")
    parser.add_argument("--set", nargs="+", default=[], metavar="key.sub=value", help="changes to the base")
    parser.add_argument("--recipes", nargs="+", metavar="NAME", help="these alone, beside the base; default: all")
    parser.add_argument("--together", nargs="+", metavar="NAME", help="these at once, as one more recipe")
    parser.add_argument(
        "--change", nargs="+", action="append", metavar="NAME key.sub=value", help="one more recipe: its name, changes"
    )
    parser.add_argument("--list", action=_List, nargs=0, help="print the names of the recipes, and stop")
    parser.add_argument("--equal", choices=["steps", "seconds"], default="steps")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "recipes", help="folder of the trainings")
    parser.add_argument("--output", type=Path, default=RESULTS / "recipes.json")
    return parser


if __name__ == "__main__":
    sys.exit(run(main))
