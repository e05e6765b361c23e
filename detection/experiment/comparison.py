"""Evaluated runs on one test set → their AP by class and object size with intervals, and what differs between them.

An interval is that of the bootstrap over images (see `detection.evaluation.bootstrap`): what AP, or the difference of
two runs' AP, would be on other test images of the same kind. It does not cover what another seed of the training
would change.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from backbones.common.errors import UserError
from detection.config_file import config_from_dict, config_to_dict
from detection.evaluation.bootstrap import DRAWS, Draws, bootstrap, draw_images, interval
from detection.evaluation.coco_parameters import AREA_RANGES
from detection.evaluation.ground_truth import GroundTruth
from detection.evaluation.results import checked
from detection.experiment.evaluation_folder import RESULTS, ground_truth_of_results, read_record
from detection.experiment.results_file import read_results
from detection.experiment.run_folder import RunFolder
from detection.report.page import Curve
from detection.training.consensus import flat

_IGNORED = ("name", "output")  # differ between any two runs


@dataclass(frozen=True)
class Measured:
    """AP, or a difference of AP, with its interval; None where there are no objects."""

    value: float | None
    low: float | None
    high: float | None

    @property
    def real(self) -> bool:
        """Of a difference, whether the interval leaves out 0."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)

    def text(self, signed: bool = False) -> str:
        """The value and the interval, as "0.512 (0.480–0.540)"."""
        if self.value is None or self.low is None or self.high is None:
            return "—"
        form = "+.3f" if signed else ".3f"
        return f"{self.value:{form}} ({self.low:{form}} … {self.high:{form}})"


@dataclass(frozen=True)
class Row:
    """One size or class: its objects, AP of each run, and of each run but the first the difference from the first."""

    name: str
    objects: int
    values: list[Measured]
    differences: list[Measured]

    def cells(self) -> list[str]:
        """The row as texts: name, objects, values, differences."""
        values, differences = (one.text() for one in self.values), (one.text(True) for one in self.differences)
        return [self.name, str(self.objects), *values, *differences]


@dataclass(frozen=True)
class Comparison:
    """names: of the runs, the first is what the others are compared with. sizes, classes: rows. settings: key of the
    configuration → its values in the runs, where they differ. curves: name → (run → points)."""

    names: list[str]
    annotations: str
    images: int
    draws: int
    sizes: list[Row]
    classes: list[Row]
    settings: dict[str, list[str]]
    curves: dict[str, dict[str, Curve]]

    def verdicts(self) -> list[str]:
        """One sentence for each run but the first."""
        first, *others = self.names
        sentences = []
        for name, difference in zip(others, self.sizes[0].differences, strict=True):
            if difference.value is None:
                sentences.append(f"{name} and {first}: the test set has no objects.")
            elif difference.real:
                sentences.append(
                    f"{name} is {'better' if difference.value > 0 else 'worse'} than {first}: "
                    f"AP {difference.text(True)}, more than the choice of the test images explains."
                )
            else:
                sentences.append(
                    f"{name} and {first} cannot be told apart on these {self.images} images: "
                    f"AP {difference.text(True)}."
                )
        return sentences

    def table(self) -> str:
        """The verdicts, sizes, classes with a difference that is real, and settings, as text."""
        lines = [*self.verdicts(), ""]
        width = max(len(row.name) for row in (*self.sizes, *self.classes))
        for row in [*self.sizes, *(one for one in self.classes if any(d.real for d in one.differences))]:
            name, objects, *cells = row.cells()
            lines.append(f"{name:<{width}}  {objects:>7}  " + "  ".join(f"{cell:<25}" for cell in cells))
        if self.settings:
            lines += ["", "differences of the configurations:"]
            lines += [f"  {key}: {' | '.join(values)}" for key, values in self.settings.items()]
        return "\n".join(line.rstrip() for line in lines)


def compare_runs(runs: Sequence[Path], *, annotations: Path | None = None, draws: int = DRAWS) -> Comparison:
    """Compares runs that were evaluated on the same test set.

    Args:
        runs: folders of runs (with `evaluation/`) or of evaluations, two or more.
        annotations: a COCO file of exactly the images that were evaluated; None for what the evaluations recorded.
        draws: of the bootstrap.

    Raises:
        UserError: a folder holds no evaluation; the evaluations are of different test sets or images; a file cannot be
            used.
    """
    folders = [run if (run / RESULTS).is_file() else run / "evaluation" for run in runs]
    datasets = [read_record(folder) for folder in folders]
    for run, dataset in zip(runs, datasets, strict=True):
        if dataset.get("fingerprint") != datasets[0].get("fingerprint"):
            raise UserError(
                f"{run} was evaluated on {dataset.get('annotations')}, {runs[0]} on {datasets[0].get('annotations')}: "
                "evaluate both on the same test set (tools/eval_coco.py)"
            )
    truths = [ground_truth_of_results(folder / RESULTS, annotations) for folder in folders]
    truth = truths[0]
    for run, own in zip(runs, truths, strict=True):
        if not np.array_equal(own.image_ids, truth.image_ids):
            raise UserError(
                f"{run} was evaluated on {len(own.image_ids)} images of {datasets[0].get('annotations')}, {runs[0]} on "
                f"{len(truth.image_ids)}, which are not the same ones: evaluate both on the same images "
                "(tools/eval_coco.py; data.test.limit and data.split choose them)"
            )
    counts = draw_images(len(truth.image_ids), draws)
    measured = [
        bootstrap(truth, _detections(folder, own, truth), counts) for folder, own in zip(folders, truths, strict=True)
    ]
    names = _distinct([run.resolve().name for run in runs])
    configurations = [_configuration(folder.parent / "config.yaml") for folder in folders]
    targets = truth.object_category_ids[~truth.crowds]
    return Comparison(
        names=names,
        annotations=str(annotations or datasets[0]["annotations"]),
        images=len(truth.image_ids),
        draws=draws,
        sizes=_sizes(measured, truth),
        classes=[
            _row(
                truth.category_names[k],
                int((targets == category).sum()),
                [(float(one.by_class[0][k]), one.by_class[1][:, k]) for one in measured],
            )
            for k, category in enumerate(truth.category_ids.tolist())
        ],
        settings=_differing(configurations),
        curves=_curves([folder.parent for folder in folders], names),
    )


def _sizes(measured: Sequence[Draws], truth: GroundTruth) -> list[Row]:
    areas = truth.areas[~truth.crowds]
    return [
        _row(name, int(((areas >= low) & (areas <= high)).sum()), [one.by_size[name] for one in measured])
        for name, (low, high) in AREA_RANGES.items()
    ]


def _row(name: str, objects: int, values: Sequence[tuple[float, np.ndarray]]) -> Row:
    (first, first_draws), *others = values
    return Row(
        name,
        objects,
        [_measured(value, draws) for value, draws in values],
        [_measured(value - first, draws - first_draws) for value, draws in others],
    )


def _measured(value: float, draws: np.ndarray) -> Measured:
    ends = interval(draws)
    return Measured(None, None, None) if np.isnan(value) or ends is None else Measured(value, *ends)


def _detections(folder: Path, own: GroundTruth, truth: GroundTruth) -> np.ndarray:
    """The detections of a run, with the category ids of the ground truth of the first run.

    own: the run's ground truth. Where labels list only the classes that occur, the ids are those of the detector.
    """
    rows = checked(read_results(folder / RESULTS))
    rows = rows[np.isin(rows[:, 0], own.image_ids) & np.isin(rows[:, 6], own.category_ids)]
    if not np.array_equal(own.category_ids, truth.category_ids) or own.category_names != truth.category_names:
        id_of = dict(zip(truth.category_names, truth.category_ids.tolist(), strict=True))
        ids = np.array([id_of.get(name, np.nan) for name in own.category_names])
        rows[:, 6] = ids[np.searchsorted(own.category_ids, rows[:, 6])]
    return rows[~np.isnan(rows[:, 6])]


def _distinct(names: Sequence[str]) -> list[str]:
    return [f"{name} ({place})" if names.count(name) > 1 else name for place, name in enumerate(names, start=1)]


def _configuration(path: Path) -> dict[str, Any]:
    """Key → value; empty if the run has no configuration. Keys that an earlier version did not have are at
    their defaults, so that they are no difference."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    with contextlib.suppress(UserError):
        values = config_to_dict(config_from_dict(values, str(path)))
    return flat(values)


def _differing(configurations: Sequence[dict[str, Any]]) -> dict[str, list[str]]:
    """Key → values as text, where the values differ; 64 and 64.0 do not."""
    keys = dict.fromkeys(key for one in configurations for key in one if key not in _IGNORED)
    rows = {key: [one.get(key, "—") for one in configurations] for key in keys}
    return {
        key: [value if isinstance(value, str) else json.dumps(value, ensure_ascii=False) for value in values]
        for key, values in rows.items()
        if any(value != values[0] for value in values)
    }


def _curves(roots: Sequence[Path], names: Sequence[str]) -> dict[str, dict[str, Curve]]:
    """The losses and the AP during the trainings, where the logs are there."""
    curves: dict[str, dict[str, Curve]] = {}
    for root, name in zip(roots, names, strict=True):
        for key, points in RunFolder(root).curves().items():
            if key.partition(" ")[2] in ("loss", "AP", "AR_100") and len(points) > 1:
                curves.setdefault(key, {})[name] = points
    return curves
