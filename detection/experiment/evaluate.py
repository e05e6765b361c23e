"""Trained networks, stores and results files → COCO figures, tables, a report with images.

The last stages of an experiment. Each writes into one folder in this order, so that the earlier files remain if a later
one fails:

    results.json             the detections, in COCO's results format
    ground_truth.json        the images and objects that they are compared with, in COCO's format
    figures.json             the figures by name
    analysis.json            kinds of mistake, thresholds, calibration …, see `analysis`
    thresholds.json          the best score threshold of each class, for tools/predict.py
    label_suggestions.json   labels that may be wrong, in COCO's format
    images/                  the worst images in full size, evaluated_<image id>.jpg
    report.html              what to do next, the figures, images beside their ground truth
    report.txt               the figures as text
    dataset.json             the data set of the evaluation
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from backbones.common.files import write_json
from detection import config as settings
from detection.data.index import DatasetIndex
from detection.data.proposal_store import ProposalStore
from detection.data.readers.source import Source
from detection.evaluation.average_precision import LIMIT, AveragePrecision, Backend, average_precision
from detection.evaluation.coco_parameters import limit_for
from detection.evaluation.ground_truth import GroundTruth
from detection.evaluation.proposal_share import proposal_share
from detection.evaluation.recall import ProposalRecall
from detection.evaluation.results import rounded
from detection.experiment.analysis import Analysis, analyse
from detection.experiment.builders import pair
from detection.experiment.class_matching import match_classes
from detection.experiment.datasets import open_split
from detection.experiment.evaluation_folder import GROUND_TRUTH, RESULTS, claim_folder
from detection.experiment.ground_truth_loading import ground_truth_of, write_ground_truth
from detection.experiment.inference import detect, prepare_inference, proposal_recall_of, recall_of
from detection.experiment.model_card import write_model_card
from detection.experiment.model_files import Trained, TrainedDetector
from detection.experiment.pair_analysis import detect_pair
from detection.experiment.results_file import write_results
from detection.experiment.run_folder import RunFolder
from detection.experiment.shared_images import compare_with_train, data_of_training, training_source
from detection.experiment.shown_images import (
    SUGGESTIONS,
    require_own_drawings,
    show_suspicions,
    show_worst,
    write_suggestions,
)
from detection.experiment.thresholds_file import NAME as THRESHOLDS
from detection.experiment.thresholds_file import write_thresholds
from detection.networks.rpn import RPN
from detection.report.advice import Seen, advice
from detection.report.page import write_report
from detection.training.consensus import require_agreement, require_same, require_same_weights
from detection.training.distributed import is_main, on_main, rank, world_size
from detection.training.precision import Precision

_OF_DETECTIONS = ("proposals", "test-time augmentation")  # facts that mean nothing for proposals

logger = logging.getLogger(__name__)

_FILES = (
    *(RESULTS, GROUND_TRUTH, "figures.json", "analysis.json", THRESHOLDS, SUGGESTIONS),
    *("report.html", "report.txt"),
)

_FILES_OF_RECALL = ("proposal_recall.json", "proposals/report.html", "proposals/report.txt")


def evaluate_detector(
    config: settings.Config,
    trained: TrainedDetector,
    device: torch.device,
    folder: Path,
    *,
    images: int = 12,
    backend: Backend = "arrays",
    with_ground_truth: bool = True,
    weights: Path | None = None,
    limit: int | None = None,
) -> AveragePrecision:
    """The COCO figures of a detector on data.test, the same on every rank; rank 0 writes the folder.

    Args:
        config: where the data is and how it runs: the detector's configuration, possibly changed.
        images: how many images the report shows.
        backend: the implementation that computes the figures, see `average_precision`.
        with_ground_truth: also detect with the objects as proposals, which tells what the proposals lose; the box head
            runs twice.
        weights: the file of the detector, by which its thresholds are named; None writes no thresholds.
        limit: how many detections per class and image count; None: see `limit_for`.

    Raises:
        UserError: the data set lacks a class of the detector or has others; files cannot be read or written; a file
            would be overwritten that no evaluation wrote.
    """
    require_agreement("measure a detector", config)
    categories = trained.categories
    index = match_classes(open_split(config.data, "test"), categories.ids, categories.names, "the detector")
    ground_truth = ground_truth_of(index)
    on_main(lambda: require_own_drawings(folder / "images"))
    claim_folder(folder, index, _FILES)
    require_same_weights(trained.rpn.network, trained.fast_rcnn.network)
    network = pair(config, trained.rpn.network, trained.fast_rcnn.network)
    inference = prepare_inference(network, config, device, choose=True)
    of_training = data_of_training(config.data, trained.config.data)
    training = None if of_training is None else training_source(of_training)
    most = limit_for(config.fast_rcnn.detections) if limit is None else limit
    found = detect_pair(inference, index) if with_ground_truth else None
    detections = rounded(found.rows if found else detect(inference, index))

    def finish() -> AveragePrecision:
        results, figures_file = folder / RESULTS, folder / "figures.json"
        write_results(results, detections)
        with _log_results_on_failure(results, f"tools/eval_coco.py --results {results} --annotations … measures them"):
            write_ground_truth(folder / GROUND_TRUTH, index)
        with _log_results_on_failure(results, f"tools/eval_coco.py --results {results} measures them"):
            figures = average_precision(ground_truth, detections, limit=most, backend=backend)
            figures.notes.extend(_notes(figures, most if limit is None else LIMIT, inference.precision))
            write_json(figures_file, figures.to_dict())
        with _log_results_on_failure(results, f"their figures are in {figures_file}"):
            ideal = None if found is None else rounded(found.with_ground_truth)
            share = None
            if found is not None and ideal is not None:
                of_ideal = average_precision(ground_truth, ideal, limit=most).figures
                proposals = config.rpn.test_proposals.after_nms
                share = proposal_share(found.coverage, proposals, figures.figures, of_ideal)
            analysis = analyse(ground_truth, detections, figures, share, ideal)
            write_json(folder / "analysis.json", analysis.content)
            if weights is not None:
                order = ground_truth.category_ids.searchsorted(index.category_ids).tolist()
                by_class = [analysis.thresholds.by_class[k] for k in order]
                write_thresholds(
                    folder / THRESHOLDS, weights, categories.names, by_class, analysis.thresholds.overall,
                    str(index.annotation_file),
                )  # fmt: skip
            told = _write_page(
                config, index, ground_truth, figures, analysis, folder, images,
                of_training or config.data, training, inference.precision,
            )  # fmt: skip
            if weights is not None and folder.resolve().parent == weights.resolve().parent:
                result = {
                    "annotations": index.annotation_file.name,
                    "figures": figures.to_dict(),
                    "score": analysis.thresholds.overall,
                    "advice": told,
                }
                write_model_card(folder.parent, trained, config, result)
        return figures

    return on_main(finish)


def _notes(figures: AveragePrecision, most: int, precision: Precision) -> Iterator[str]:
    """What is unusual about the figures. most: how many detections of a class and image count by our own choice."""
    if most > LIMIT:
        yield (
            f"up to {most} detections of a class and image are counted, as fast_rcnn.detections; published figures "
            f"count {LIMIT} (--max-detections {LIMIT})"
        )
    if precision.name != "fp32":
        yield f"computed in {precision}; runtime.precision=fp32 computes in float32"
    if not any(row.objects for row in figures.classes):
        yield (
            "the annotations list no objects to measure by, as those of a test set; results.json holds the detections "
            "as COCO's evaluation server takes them"
        )


def _write_page(
    config: settings.Config,
    index: DatasetIndex,
    ground_truth: GroundTruth,
    figures: AveragePrecision,
    analysis: Analysis,
    folder: Path,
    images: int,
    of_training: settings.Data,
    training: Source | None,
    precision: Precision,
) -> list[str]:
    """Writes the page and what it shows, and returns what to do next."""
    write_suggestions(folder / SUGGESTIONS, index, ground_truth, analysis.suspicions)
    shown = show_worst(index, ground_truth, analysis, folder / "images", images)
    curves = RunFolder(folder.parent).curves()
    shared, rarer = compare_with_train(of_training, training, index)
    seen = Seen(figures.to_dict(), analysis.content, shared or (), curves, _known_settings(config), rarer)
    told = advice(seen)
    write_report(
        folder,
        title=f"{config.name}: {index.annotation_file.stem}",
        average_precision=seen.outcome,
        analysis=analysis.content,
        advice=told,
        tables=(figures.table(), analysis.errors.table()),
        facts=_facts(config, index, precision) | _in_train(shared),
        curves=curves,
        suspicions=show_suspicions(index, ground_truth, analysis.suspicions) if images else None,
        images=shown,
    )
    return told


def _known_settings(config: settings.Config) -> dict[str, Any]:
    """Values that the advice mentions, by their keys."""
    return {
        "data.keep_empty": config.data.keep_empty,
        "fast_rcnn.nms_iou": config.fast_rcnn.nms_iou,
        "fast_rcnn.pooling": config.fast_rcnn.pooling,
        "rpn.test_proposals.after_nms": config.rpn.test_proposals.after_nms,
    }


def _in_train(shared: Sequence[str] | None) -> dict[str, str]:
    if shared is None:
        return {"images that are also in train": "not compared: the training images are not at hand"}
    return {"images that are also in train": f"{len(shared)} (equal files)"}


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
    inference = prepare_inference(trained.network, config, device, choose=True)
    recall = proposal_recall_of(inference, index, config.rpn.test_proposals)
    _write_recall(config, index, recall, folder, inference.precision)
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


def _write_recall(
    config: settings.Config,
    index: DatasetIndex,
    recall: ProposalRecall,
    folder: Path,
    precision: Precision | None = None,
) -> None:
    if is_main():
        facts = {name: fact for name, fact in _facts(config, index, precision).items() if name not in _OF_DETECTIONS}
        write_json(folder / "proposal_recall.json", recall.to_dict())
        write_report(
            folder / "proposals", title=f"{config.name}: proposals on {index.annotation_file.stem}",
            recall=recall.to_dict(), tables=(recall.table(),),
            facts=facts,
        )  # fmt: skip


def _facts(config: settings.Config, index: DatasetIndex, precision: Precision | None) -> dict[str, str]:
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
        **({} if precision is None else {"precision": str(precision)}),
    }
