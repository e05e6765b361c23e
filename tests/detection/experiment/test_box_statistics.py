"""Measured means and stds against NumPy, one proposal at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from backbones.common.errors import UserError
from detection.data.demo import demo_files, make_demo_dataset
from detection.data.index import load_index
from detection.data.proposal_store import ProposalStore
from detection.data.proposal_writer import ProposalWriter
from detection.experiment.box_statistics import measure


def test_they_are_those_of_all_proposals_that_learn(tmp_path: Path) -> None:
    make_demo_dataset(tmp_path, train=6, test=1)
    index = load_index(*demo_files(tmp_path, "train"), name="train")
    generator = np.random.default_rng(0)
    writer = ProposalWriter(tmp_path / "p.st", {}, index.image_ids)
    targets = []
    for i, image_id in enumerate(index.image_ids.tolist()):
        boxes, _, crowds = index.objects(i)
        proposals = np.repeat(boxes, 5, axis=0) + generator.normal(0, 3, (5 * len(boxes), 4)).astype(np.float32)
        proposals[:, 2:] = np.maximum(proposals[:, 2:], proposals[:, :2] + 1)
        writer.add(image_id, proposals, np.linspace(1, 0, len(proposals)))
        for x0, y0, x1, y1 in proposals.astype(np.float64):
            best, target = 0.0, None
            for g in boxes[~crowds].astype(np.float64):
                overlap = max(0, min(x1, g[2]) - max(x0, g[0])) * max(0, min(y1, g[3]) - max(y0, g[1]))
                union = (x1 - x0) * (y1 - y0) + (g[2] - g[0]) * (g[3] - g[1]) - overlap
                if overlap / union > best:
                    best = overlap / union
                    w, h = x1 - x0, y1 - y0
                    shift = ((g[0] + g[2] - x0 - x1) / 2 / w, (g[1] + g[3] - y0 - y1) / 2 / h)
                    target = (*shift, np.log((g[2] - g[0]) / w), np.log((g[3] - g[1]) / h))
            if best >= 0.5:
                targets.append(target)
    writer.finish()
    means, stds = measure(index, ProposalStore(tmp_path / "p.st"), 0.5, 1000)
    np.testing.assert_allclose(means, np.mean(targets, axis=0), atol=1e-5)
    np.testing.assert_allclose(stds, np.std(targets, axis=0), rtol=1e-4)


def test_nothing_to_measure_is_said(tmp_path: Path) -> None:
    make_demo_dataset(tmp_path, train=2, test=1)
    index = load_index(*demo_files(tmp_path, "train"), name="train")
    writer = ProposalWriter(tmp_path / "p.st", {}, index.image_ids)
    for image_id in index.image_ids.tolist():
        writer.add(image_id, np.zeros((0, 4)), np.zeros(0))
    writer.finish()
    with pytest.raises(UserError, match="box_statistics=fixed"):
        measure(index, ProposalStore(tmp_path / "p.st"), 0.5, 1000)
