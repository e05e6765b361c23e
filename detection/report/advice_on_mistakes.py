"""The rules about the mistakes of the whole detector: what each kind, each class and each pair of classes costs."""

from __future__ import annotations

from collections.abc import Iterator

from detection.report.advice_on_data import exchanged_classes, moved_directions
from detection.report.seen import LIMITS, Seen, Sentence


def confusions(seen: Seen) -> Iterator[Sentence]:
    """Pairs of classes that make up much of the mistakes."""
    if exchanged_classes(seen):
        return
    errors = seen.analysis["errors"]
    wrong = sum(count for kind, count in errors["counts"].items() if kind != "correct") + errors["missed"]
    for true, predicted, count in errors["confusions"][:3]:
        if count >= LIMITS["fewest_objects"] and count >= LIMITS["confusion_share"] * wrong:
            yield Sentence(
                f"{count / wrong:.0%} of the mistakes take {true} for {predicted} ({count}): more examples of both, "
                "larger images if they differ in details, or one class if the difference does not matter.",
                seen.cost("confusion") * count / max(1, errors["counts"]["confusion"]),
            )


_KINDS = {
    "localisation": "Boxes that overlap their object by less than 0.5",
    "confusion": "Detections of the wrong class",
    "duplicate": "Second detections of one object",
    "background": "Detections where nothing is annotated",
    "missed": "Objects that nothing finds",
}


def kinds(seen: Seen) -> Iterator[Sentence]:
    """What each kind of mistake costs, without those whose cause another rule names."""
    share = seen.analysis.get("proposal_share")
    overlooked = 1 - share["recall"]["all"][0] if share and share["recall"]["all"] else 0.0
    explained = {
        "confusion": bool(exchanged_classes(seen)),
        "localisation": bool(moved_directions(seen)),
        "missed": overlooked >= max(seen.cost("missed"), LIMITS["proposal_cost"]),
    }
    for kind, what in _KINDS.items():
        cost = seen.cost(kind)
        if cost >= LIMITS["kind_cost"] and not explained.get(kind):
            yield Sentence(f"{what} cost {cost:.3f} AP@0.5: {_what_helps(seen, kind)}.", cost)


def _what_helps(seen: Seen, kind: str) -> str:
    """The remedies that the configuration does not have yet."""
    align = "" if seen.settings.get("fast_rcnn.pooling") == "align" else ", RoIAlign (fast_rcnn.pooling=align)"
    empty = "" if seen.settings.get("data.keep_empty") else "training images without objects (data.keep_empty=true), "
    return {
        "localisation": f"larger images, a longer training{align}; look whether the annotated boxes are tight",
        "confusion": "more examples of the classes that are confused, see the matrix",
        "duplicate": f"a lower {seen.now('fast_rcnn.nms_iou')}",
        "background": f"{empty}more training images, or a longer training; look whether labels are missing",
        "missed": "more examples of such objects, a longer training, larger images",
    }[kind]


def weak_classes(seen: Seen) -> Iterator[Sentence]:
    """Classes with an AP far below the mean."""
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


def calibration(seen: Seen) -> Iterator[Sentence]:
    """Scores that are far from the share of correct detections."""
    bias = seen.analysis["calibration"]["bias"]
    if bias is not None and abs(bias) >= LIMITS["calibration_bias"]:
        yield Sentence(
            f"Scores are {'higher' if bias > 0 else 'lower'} by {abs(bias):.2f}, on average, than the share of "
            "detections that are correct: do not read them as probabilities; choose the threshold by F1 "
            "(tools/predict.py --thresholds best).",
            0.0,
        )


def still_rising(seen: Seen) -> Iterator[Sentence]:
    """AP that was rising when the training ended."""
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
