"""Figures of an evaluation → sentences on what to do next, by the rules of one table.

A rule compares figures with its limits and, if they are exceeded, says what was seen, in numbers, and what helps. First
come the sentences about the data, without whose answer the other figures mislead; then the others, by the AP at stake.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

# Every limit of a rule. AP is AP at IoU 0.5; recall is at IoU 0.5.
LIMITS: dict[str, float] = {
    "nothing_found": 0.02,  # AP below which nothing else is worth saying
    "exchanged_share": 0.5,  # of a class's objects are detected as one other class, and more than as their own
    "confusion_share": 0.1,  # of all mistakes are one pair of classes
    "kind_cost": 0.03,  # AP that a kind of mistake takes
    "missing_share": 0.15,  # of a class's confident detections lie where nothing is annotated
    "unfound_share": 0.02,  # of all objects are found by no detection, at sizes that are found as a rule
    "proposal_recall": 0.85,  # of the objects of a size
    "proposal_cost": 0.03,  # AP that the detector gains with the objects as proposals
    "size_recall": 0.75,  # recall of a size, as a share of the recall of all
    "class_ap": 0.5,  # AP of a class, as a share of the mean
    "calibration_bias": 0.1,  # mean score minus share of correct detections
    "still_rising": 0.02,  # AP, as a share, gained in the last fifth of the training
    "fewest_objects": 10,  # below which a share says little
    "few_classes": 0.3,  # of the classes have fewer objects than that
}
_SMALL = ("below 16", "16–32")  # sizes in pixels for which small anchors or large images help


class Sentence(NamedTuple):
    """text: what was seen and what helps. stake: the AP that it is about, at most; DATA comes first."""

    text: str
    stake: float


DATA = 2.0  # above every AP
MOST = 8  # sentences: a longer list is not read


@dataclass(frozen=True)
class Seen:
    """What the rules look at: the `to_dict()` of the figures, the analysis (see `detection.experiment.analysis`), names
    of test images that also stand in train, and the curves of the training."""

    outcome: Mapping[str, Any]
    analysis: Mapping[str, Any]
    shared_images: Sequence[str] = ()
    curves: Mapping[str, Sequence[tuple[float, float]]] = field(default_factory=dict)

    @property
    def ap(self) -> float:
        return self.outcome["figures"]["AP50"] or 0.0

    @property
    def names(self) -> list[str]:
        return [row["name"] for row in self.outcome["classes"]]

    def cost(self, kind: str) -> float:
        return float(self.analysis["errors"]["costs"].get(kind, 0.0))


def advice(seen: Seen) -> list[str]:
    """The sentences of all rules whose limits are exceeded, the most important first; never empty for a test set with
    objects."""
    if not any(row["objects"] for row in seen.outcome["classes"]):
        return []
    sentences = [sentence for rule in RULES for sentence in rule(seen)]
    if seen.ap < LIMITS["nothing_found"]:
        sentences = [one for one in sentences if one.stake >= DATA]
        sentences.append(_nothing_found(seen))
    elif not any(one.stake for one in sentences):
        sentences.append(_nothing_stands_out(seen))
    return [one.text for one in sorted(sentences, key=lambda one: -one.stake)][:MOST]


def _shared_images(seen: Seen) -> Iterator[Sentence]:
    if seen.shared_images:
        yield Sentence(
            f"{len(seen.shared_images)} of {seen.outcome['images']} test images also stand in train (the first: "
            f"{seen.shared_images[0]}): the figures are better than on new images. Remove them from one of the two; "
            "tools/check_dataset.py lists them.",
            DATA + 1,
        )


def _exchanged_names(seen: Seen) -> Iterator[Sentence]:
    matrix, names = seen.analysis["confusion_matrix"], seen.names
    exchanged = []
    for k, name in enumerate(names):
        objects = sum(matrix[k])
        others = [(count, other) for other, count in enumerate(matrix[k][:-1]) if other != k]
        count, other = max(others, default=(0, 0))
        enough = objects >= LIMITS["fewest_objects"] and count >= LIMITS["exchanged_share"] * objects
        if enough and count > matrix[k][k]:
            exchanged.append(f"{count} of {objects} objects of {name} are detected as {names[other]}")
    if exchanged:
        yield Sentence(
            f"{'; '.join(exchanged[:5])}: more than as their own class. Compare the names and ids of the classes in "
            "the training and the test annotations: they look exchanged.",
            DATA + 0.5,
        )


def _missing_labels(seen: Seen) -> Iterator[Sentence]:
    for name, row in zip(seen.names, seen.analysis["label_checks"]["classes"], strict=True):
        confident = row["confident_correct"] + row["missing"]
        if row["missing"] >= LIMITS["fewest_objects"] and row["missing"] >= LIMITS["missing_share"] * confident:
            yield Sentence(
                f"{row['missing']} of {confident} confident detections of {name} lie where nothing is annotated: "
                f"labels of {name} are probably missing, in the test set and perhaps in train. Look at the suggestions "
                "in label_suggestions.json.",
                DATA,
            )


def _unfound_labels(seen: Seen) -> Iterator[Sentence]:
    count, objects = seen.analysis["label_checks"]["unfound"], seen.analysis["errors"]["objects"]
    if count >= LIMITS["fewest_objects"] and count >= LIMITS["unfound_share"] * objects:
        yield Sentence(
            f"{count} of {objects} objects are touched by no detection of any class and score, at sizes that are found "
            "as a rule: look whether there is an object in these boxes (label_suggestions.json).",
            count / objects,
        )


def _confusions(seen: Seen) -> Iterator[Sentence]:
    errors = seen.analysis["errors"]
    wrong = sum(count for kind, count in errors["counts"].items() if kind != "correct") + errors["missed"]
    for true, predicted, count in errors["confusions"][:3]:
        if count >= LIMITS["fewest_objects"] and count >= LIMITS["confusion_share"] * wrong:
            yield Sentence(
                f"{count / wrong:.0%} of the mistakes take {true} for {predicted} ({count}): more examples of both, "
                "larger images if they differ in details, or one class if the difference does not matter.",
                seen.cost("confusion") * count / max(1, errors["counts"]["confusion"]),
            )


def _proposals(seen: Seen) -> Iterator[Sentence]:
    share = seen.analysis.get("proposal_share")
    if not share:
        return
    own, ideal = share["figures"]["AP50"] or 0.0, share["with_ground_truth"]["AP50"] or 0.0
    gain = ideal - own
    measured = f"With the objects themselves as proposals AP@0.5 would be {ideal:.3f} instead of {own:.3f}"
    low: dict[str, list[str]] = {}
    lost = 0.0
    for name, recall in share["recall"].items():
        objects = share["objects"][name]
        if name == "all" or objects < LIMITS["fewest_objects"] or recall[0] >= LIMITS["proposal_recall"]:
            continue
        remedy = "larger images (data.shorter_sides and data.test_shorter_side) or smaller anchors (rpn.anchor_sizes)"
        if name not in _SMALL:
            remedy = "anchors of this size (rpn.anchor_sizes, rpn.anchor_ratios), or a longer training of the RPN"
        low.setdefault(remedy, []).append(f"{recall[0]:.2f} for {_of_size(name)} ({objects} objects)")
        lost += (1 - recall[0]) * objects / share["objects"]["all"]
    for remedy, sizes in low.items():
        yield Sentence(f"Recall of the proposals is {', '.join(sizes)}: {remedy}.", max(gain, lost))
    if gain >= LIMITS["proposal_cost"]:
        yield Sentence(
            f"{measured}: the RPN loses the difference. Train it longer, or classify more proposals "
            "(rpn.test_proposals.after_nms).",
            gain,
        )
    elif 1 - seen.ap > 0.1:
        yield Sentence(f"{measured}: the proposals are good enough; what is lost, the Fast R-CNN loses.", 0.0)


def _of_size(name: str) -> str:
    """
    >>> _of_size("below 16"), _of_size("16–32"), _of_size("192 and above")
    ('objects below 16 pixels', 'objects of 16–32 pixels', 'objects of 192 pixels and above')
    """
    if name.startswith("below"):
        return f"objects {name} pixels"
    return f"objects of {name.replace(' and above', '')} pixels{' and above' * name.endswith('above')}"


def _sizes(seen: Seen) -> Iterator[Sentence]:
    """Recall of the whole detector by size; where the proposals are known, they say more."""
    share = seen.analysis.get("proposal_share")
    bins = seen.analysis["attributes"]["size"]["bins"]
    objects = sum(one["objects"] for one in bins)
    mean = sum(one["objects"] * (one["recall"] or 0.0) for one in bins) / max(1, objects)
    for one in bins:
        if one["objects"] < LIMITS["fewest_objects"] or one["recall"] >= LIMITS["size_recall"] * mean:
            continue
        if share and (share["recall"][one["name"]] or [1.0])[0] < LIMITS["proposal_recall"]:
            continue  # `_proposals` has said so
        remedy = "larger images or smaller anchors" if one["name"] in _SMALL else "more examples of this size"
        yield Sentence(
            f"Recall is {one['recall']:.2f} for {_of_size(one['name'])} ({one['objects']} objects), and {mean:.2f} "
            f"for all: {remedy}.",
            (mean - one["recall"]) * one["objects"] / objects,
        )


_REMEDIES = {
    "localisation": "Boxes that overlap their object by less than 0.5",
    "confusion": "Detections of the wrong class",
    "duplicate": "Second detections of one object",
    "background": "Detections where nothing is annotated",
    "missed": "Objects that nothing finds",
}
_WHAT_HELPS = {
    "localisation": "larger images, a longer training, RoIAlign (fast_rcnn.pooling=align); look whether the annotated "
    "boxes are tight",
    "confusion": "more examples of the classes that are confused, see the matrix",
    "duplicate": "a lower fast_rcnn.nms_iou",
    "background": "training images without objects (data.keep_empty=true), more training images, or a longer training; "
    "look whether labels are missing",
    "missed": "more examples, more proposals, larger images",
}


def _kinds(seen: Seen) -> Iterator[Sentence]:
    for kind, what in _REMEDIES.items():
        cost = seen.cost(kind)
        if cost >= LIMITS["kind_cost"]:
            yield Sentence(f"{what} cost {cost:.3f} AP@0.5: {_WHAT_HELPS[kind]}.", cost)


def _weak_classes(seen: Seen) -> Iterator[Sentence]:
    rows = [row for row in seen.outcome["classes"] if row["AP50"] is not None]
    weak = [
        row for row in rows if row["objects"] >= LIMITS["fewest_objects"] and row["AP50"] < LIMITS["class_ap"] * seen.ap
    ]
    if weak:
        weak.sort(key=lambda row: row["AP50"])
        listed = ", ".join(f"{row['name']} {row['AP50']:.3f}" for row in weak[:5])
        loss = sum(seen.ap - row["AP50"] for row in weak) / len(rows)
        more = f" and {len(weak) - 5} more" if len(weak) > 5 else ""
        yield Sentence(
            f"AP@0.5 of {listed}{more} is less than half of the mean ({seen.ap:.3f}): more training examples of "
            f"{'this class' if len(weak) == 1 else 'these classes'}.",
            loss,
        )


def _few_objects(seen: Seen) -> Iterator[Sentence]:
    few = [row for row in seen.outcome["classes"] if 0 < row["objects"] < LIMITS["fewest_objects"]]
    present = sum(1 for row in seen.outcome["classes"] if row["objects"])
    if len(few) >= LIMITS["few_classes"] * present and few:
        yield Sentence(
            f"{len(few)} of {present} classes have fewer than {LIMITS['fewest_objects']:.0f} test objects: their AP "
            "says little. More test images make the figures firmer; tools/compare_runs.py shows how firm they are.",
            0.0,
        )


def _calibration(seen: Seen) -> Iterator[Sentence]:
    bias = seen.analysis["calibration"]["bias"]
    if bias is not None and abs(bias) >= LIMITS["calibration_bias"]:
        yield Sentence(
            f"Scores are {'higher' if bias > 0 else 'lower'} by {abs(bias):.2f}, on average, than the share of "
            "detections that are correct: do not read them as probabilities; choose the threshold by F1 "
            "(tools/predict.py --thresholds best).",
            0.0,
        )


def _still_rising(seen: Seen) -> Iterator[Sentence]:
    for name, points in seen.curves.items():
        if name != "fastrcnn AP" or len(points) < 3:
            continue
        (first, _), (last, final) = points[0], points[-1]
        earlier = [value for step, value in points if step <= last - (last - first) / 5]
        gained = final - max(earlier) if earlier else 0.0
        if gained >= LIMITS["still_rising"] * max(final, 1e-9):
            yield Sentence(
                f"AP was still rising when the training ended ({gained:+.3f} in the last fifth): train longer "
                "(fast_rcnn.training.steps).",
                gained,
            )


def _nothing_found(seen: Seen) -> Sentence:
    return Sentence(
        f"AP@0.5 is {seen.ap:.3f}: the detector finds next to nothing. Look at the losses in log.jsonl, train longer "
        "or from ImageNet weights, and check the data (tools/check_dataset.py) before anything else.",
        1.0,
    )


def _nothing_stands_out(seen: Seen) -> Sentence:
    costs = seen.analysis["errors"]["costs"]
    kind = max(costs, key=lambda name: costs[name])
    return Sentence(
        f"Nothing stands out: AP@0.5 is {seen.ap:.3f}, and no kind of mistake costs more than {costs[kind]:.3f}. More "
        "training images and a longer training are what is left.",
        1e-6,  # before the remarks without a stake
    )


RULES: tuple[Callable[[Seen], Iterable[Sentence]], ...] = (
    _shared_images,
    _exchanged_names,
    _missing_labels,
    _unfound_labels,
    _confusions,
    _proposals,
    _sizes,
    _kinds,
    _weak_classes,
    _few_objects,
    _calibration,
    _still_rising,
)
