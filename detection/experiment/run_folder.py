"""A configuration → the paths of the files of a run of the two networks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from detection import config as settings
from detection.report.page import Curve, read_curves
from detection.training.stage import root_of


@dataclass(frozen=True)
class RunFolder:
    """The paths of the files of one experiment.

    config.yaml              the whole configuration
    rpn/, fastrcnn/          checkpoints and logs of the two trainings
    rpn.pt, fastrcnn.pt      the trained networks
    detector.pt              both networks as one detector
    proposals/<split>.st     the proposals of the RPN on a split
    evaluation/              results.json, figures, report
    README.md                what was run, with which result, how to repeat it, licences
    """

    root: Path

    @classmethod
    def of(cls, config: settings.Config) -> RunFolder:
        """The folder that the configuration names, or `runs/<name>`."""
        return cls(root_of(config.output, config.name))

    @property
    def config(self) -> Path:
        return self.root / "config.yaml"

    @property
    def rpn(self) -> Path:
        return self.root / "rpn.pt"

    @property
    def fast_rcnn(self) -> Path:
        return self.root / "fastrcnn.pt"

    @property
    def detector(self) -> Path:
        return self.root / "detector.pt"

    @property
    def rpn_training(self) -> Path:
        return self.root / "rpn"

    @property
    def fast_rcnn_training(self) -> Path:
        return self.root / "fastrcnn"

    @property
    def evaluation(self) -> Path:
        return self.root / "evaluation"

    @property
    def report(self) -> Path:
        return self.evaluation / "report.html"

    def curves(self) -> dict[str, Curve]:
        """The curves of both trainings, as far as their logs are there: "rpn loss", "fastrcnn AP" …"""
        return {
            f"{training.name} {name}": points
            for training in (self.rpn_training, self.fast_rcnn_training)
            if (training / "log.jsonl").is_file()
            for name, points in read_curves(training / "log.jsonl").items()
        }

    def proposals(self, split: str) -> Path:
        return self.root / "proposals" / f"{split}.st"
