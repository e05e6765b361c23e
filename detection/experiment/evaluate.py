"""Trained networks, stores and results files → COCO figures, tables, a report with images.

The last stages of an experiment. Each writes into one folder in this order, so that the earlier files remain if a later
one fails:

    results.json    the detections, in COCO's results format
    figures.json    the figures by name
    images/         the images that the report shows, in full size, evaluated_<image id>.jpg
    report.html     the figures, an error analysis, the training curves, images beside their ground truth
    report.txt      the same as text
    dataset.json    the data set of the evaluation
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from backbones.common.files import atomic_write
from detection import config as settings
from detection.data.index import DatasetIndex
from detection.data.proposal_store import ProposalStore
from detection.evaluation.average_precision import AveragePrecision, Backend, average_precision
from detection.evaluation.error_analysis import analyse_errors
from detection.evaluation.recall import ProposalRecall
from detection.evaluation.results import rounded
from detection.experiment.builders import pair
from detection.experiment.datasets import match_classes, open_split
from detection.experiment.evaluation_folder import claim_folder
from detection.experiment.ground_truth_loading import ground_truth_of
from detection.experiment.illustrations import draw_beside_ground_truth, evenly_spread
from detection.experiment.inference import detect, prepare_inference, proposal_recall_of, recall_of
from detection.experiment.model_files import Trained, TrainedDetector
from detection.experiment.results_file import write_results
from detection.networks.rpn import RPN
from detection.report.drawing_file import require_replaceable, save_drawing
from detection.report.page import Curve, embed_image, read_curves, write_report
from detection.training.consensus import require_agreement, require_same, require_same_weights
from detection.training.distributed import is_main, on_main, rank, world_size

_OF_DETECTIONS = ("proposals", "test-time augmentation")  # facts that mean nothing for proposals

logger = logging.getLogger(__name__)

_FILES_OF_RECALL = ("proposal_recall.json", "proposals/report.html", "proposals/report.txt")


def evaluate_detector(
    config: settings.Config,
    trained: TrainedDetector,
    device: torch.device,
    folder: Path,
    *,
    images: int = 12,
    backend: Backend = "arrays",
) -> AveragePrecision:
    """The COCO figures of a detector on data.test, the same on every rank; rank 0 writes the folder.

    Args:
        config: where the data is and how it runs: the detector's configuration, possibly changed.
        images: how many images the report shows.
        backend: the implementation that computes the figures, see `average_precision`.

    Raises:
        UserError: the data set lacks a class of the detector or has others; files cannot be read or written; a file
            would be overwritten that no evaluation wrote.
    """
    require_agreement("measure a detector", config)
    categories = trained.categories
    index = match_classes(open_split(config.data, "test"), categories.ids, categories.names, "the detector")
    ground_truth = ground_truth_of(index)
    on_main(lambda: _require_own_drawings(folder / "images"))
    claim_folder(folder, index, ("results.json", "figures.json", "report.html", "report.txt"))
    require_same_weights(trained.rpn.network, trained.fast_rcnn.network)
    inference = prepare_inference(pair(config, trained.rpn.network, trained.fast_rcnn.network), config, device)
    detections = rounded(detect(inference, index))

    def finish() -> AveragePrecision:
        results, figures_file = folder / "results.json", folder / "figures.json"
        write_results(results, detections)
        with _log_results_on_failure(results, f"tools/eval_coco.py --results {results} --annotations … measures them"):
            figures = average_precision(ground_truth, detections, backend=backend)
            if not any(row.objects for row in figures.classes):
                figures.notes.append(
                    "the annotations list no objects to measure by, as those of a test set; results.json holds the "
                    "detections as COCO's evaluation server takes them"
                )
            _write_json(figures_file, figures.to_dict())
        with _log_results_on_failure(results, f"their figures are in {figures_file}"):
            errors = analyse_errors(ground_truth, detections)
            shown = _draw(index, detections, folder / "images", images, errors.score_threshold)
            write_report(
                folder,
                title=f"{config.name}: {index.annotation_file.stem}",
                average_precision=figures.to_dict(),
                errors=errors.to_dict(),
                tables=(figures.table(), errors.table()),
                facts=_facts(config, index),
                curves=_curves(folder.parent),
                images=shown,
            )
        return figures

    return on_main(finish)


@contextlib.contextmanager
def _log_results_on_failure(results: Path, further: str) -> Iterator[None]:
    """Logs where the detections are if the block raises an exception."""
    try:
        yield
    except Exception:
        logger.error("the detections are written: %s; %s", results, further)
        raise


def evaluate_rpn(config: settings.Config, trained: Trained[RPN], device: torch.device, folder: Path) -> ProposalRecall:
    """The recall of an RPN's proposals on data.test, the same on every rank; rank 0 writes the folder."""
    require_agreement("measure an RPN", config)
    index = open_split(config.data, "test")
    claim_folder(folder, index, _FILES_OF_RECALL)
    require_same_weights(trained.network)
    recall = proposal_recall_of(prepare_inference(trained.network, config, device), index, config.rpn.test_proposals)
    _write_recall(config, index, recall, folder)
    return recall


def evaluate_store(config: settings.Config, store: ProposalStore, index: DatasetIndex, folder: Path) -> ProposalRecall:
    """The recall of stored proposals on the split that they were made for, at up to the number of proposals an image
    that the store was made with."""
    require_agreement("measure proposals", config)
    require_same("the proposals", store.metadata)
    store.check_against(index)
    claim_folder(folder, index, _FILES_OF_RECALL)
    own = index.image_ids[rank() :: world_size()].tolist()
    recall = recall_of(index, ((image_id, store.boxes(image_id)) for image_id in own))
    most = store.metadata.get("limits", {}).get("after_nms", recall.limits[-1])
    if most < recall.limits[-1]:
        on_main(lambda: logger.info("%s: holds at most %d proposals an image", store.path, most))
        recall = recall.up_to(most)
    _write_recall(config, index, recall, folder)
    return recall


def _write_recall(config: settings.Config, index: DatasetIndex, recall: ProposalRecall, folder: Path) -> None:
    if is_main():
        _write_json(folder / "proposal_recall.json", recall.to_dict())
        write_report(
            folder / "proposals", title=f"{config.name}: proposals on {index.annotation_file.stem}",
            recall=recall.to_dict(), tables=(recall.table(),),
            facts={name: fact for name, fact in _facts(config, index).items() if name not in _OF_DETECTIONS},
        )  # fmt: skip


def _drawings(folder: Path) -> list[Path]:
    """The files there that have names of drawings."""
    return [path for path in folder.glob("evaluated_*.jpg") if re.fullmatch(r"evaluated_-?[0-9]+\.jpg", path.name)]


def _require_own_drawings(folder: Path) -> None:
    """Raises a UserError if a file has the name of a drawing and is none."""
    for path in _drawings(folder):
        require_replaceable(path)


def _draw(
    index: DatasetIndex, detections: np.ndarray, folder: Path, count: int, min_score: float
) -> list[tuple[str, str]]:
    """Writes drawings of images spread evenly over the split, ground truth beside detections; returns (embedded image,
    caption) for each one."""
    _require_own_drawings(folder)
    for path in _drawings(folder):
        path.unlink()
    shown = []
    for i in evenly_spread(index, count):
        image_id = int(index.image_ids[i])
        if (drawn := draw_beside_ground_truth(index, i, detections, min_score)) is None:
            continue
        both, objects, found = drawn
        path = folder / f"evaluated_{image_id:012d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        save_drawing(path, both)
        caption = (
            f"image {image_id}: {objects} objects, {found} detections of score {min_score:.2f} and above; "
            f"in full size: images/{path.name}"
        )
        shown.append((embed_image(both), caption))
    return shown


def _facts(config: settings.Config, index: DatasetIndex) -> dict[str, str]:
    data = config.data
    views = [
        *(f"also at {side} px" for side in data.test_scales),
        *(["flipped horizontally"] if data.test_flip else []),
    ]
    return {
        "annotations": str(index.annotation_file),
        "images": str(len(index)),
        "backbone": config.backbone.name,
        "weights of the backbone": config.backbone.weights or "none: trained from scratch",
        "shorter side": f"{data.test_shorter_side} px, longer at most {data.test_longer_side}",
        **({"test-time augmentation": ", ".join(views)} if views else {}),
        "proposals": str(config.rpn.test_proposals.after_nms),
    }


def _curves(run: Path) -> Mapping[str, Curve]:
    """The curves of both trainings, where the run's folder has their logs."""
    curves: dict[str, Curve] = {}
    for stage in ("rpn", "fastrcnn"):
        log = run / stage / "log.jsonl"
        if log.is_file():
            curves |= {f"{stage} {name}": points for name, points in read_curves(log).items()}
    return curves


def _write_json(path: Path, content: Any) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
