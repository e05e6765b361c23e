"""The rules about the proposals and about sizes: what is lost before the classifier, and what would change it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from detection.report.seen import LIMITS, Seen, Sentence

_SMALL = ("below 16", "16–32")  # sizes in pixels of the image that count as small where the network's are not known
_LARGER_IMAGES = "larger images (data.shorter_sides and data.test_shorter_side)"


def proposals(seen: Seen) -> Iterator[Sentence]:
    """Recall of the proposals by size, and what the detector would gain by better ones."""
    share = seen.analysis.get("proposal_share")
    if not share:
        return
    own, ideal = share["figures"]["AP50"] or 0.0, share["with_ground_truth"]["AP50"] or 0.0
    gain = ideal - own
    measured = f"With the objects themselves as proposals AP@0.5 would be {ideal:.3f} instead of {own:.3f}"
    low: dict[str, list[str]] = {}
    lost = 0.0
    for name in share["recall"]:
        if name != "all" and _is_low(share, name):
            objects, recall = share["objects"][name], share["recall"][name][0]
            remedy, evidence = _remedy(seen, share, name)
            low.setdefault(remedy, []).append(f"{recall:.2f} for {of_size(name)} ({objects} objects{evidence})")
            lost += (1 - recall) * objects / share["objects"]["all"]
    # Without proposals beside the objects, there are no duplicates and no detections of objects without labels either:
    # what the RPN loses is at most the share of the objects that it does not cover.
    covered = (share["recall"]["all"] or [0.0])[0]
    loss = min(gain, 1 - covered)
    for remedy, sizes in low.items():
        yield Sentence(f"Recall of the proposals is {', '.join(sizes)}: {remedy}.", max(loss, lost))
    if loss >= LIMITS["proposal_cost"]:
        text = _remedy(seen, share, "all")[0]
        remedy = "" if low else f" {text[0].upper()}{text[1:]}."
        yield Sentence(
            f"{measured}; proposals cover {covered:.0%} of the objects by IoU 0.5. The RPN loses up to {loss:.3f}."
            f"{remedy}",
            loss,
        )
    elif gain < LIMITS["proposal_cost"] and 1 - seen.ap > 0.1:
        yield Sentence(f"{measured}: the proposals are good enough; what is lost, the Fast R-CNN loses.", 0.0)


def are_all_that_fails(seen: Seen) -> bool:
    """Whether a detector that finds next to nothing finds objects that are given as proposals."""
    share = seen.analysis.get("proposal_share")
    if not share:
        return False
    ideal: float = share["with_ground_truth"]["AP50"] or 0.0
    return ideal >= LIMITS["sound_classifier"]


def _is_low(share: Mapping[str, Any], name: str) -> bool:
    recall = share["recall"].get(name)
    enough = share["objects"].get(name, 0) >= LIMITS["fewest_objects"]
    return bool(enough and recall and recall[0] < LIMITS["proposal_recall"])


def _remedy(seen: Seen, share: Mapping[str, Any], name: str) -> tuple[str, str]:
    """What raises the recall of the objects of a size, for the first cause that the figures show, and what shows it."""
    side, unreached = share["sides"][name], 1 - share["anchor_recall"][name]
    large = f", {side:.0f} pixels at the network's input" if side < LIMITS["small_side"] else ""
    if unreached > 1 - LIMITS["anchor_recall"]:
        fitted = "other anchors (rpn.anchor_sizes, rpn.anchor_ratios; tools/check_dataset.py fits them)"
        remedy = f"{_LARGER_IMAGES} or {fitted}" if large else fitted
        return remedy, f"{large}, {unreached:.0%} of them fit no anchor by IoU 0.5"
    found, of_half = share["recall"]["all"][0], share["half_recall"]["all"]
    if found - of_half >= LIMITS["more_proposals"] * found:
        return (
            "anchors fit, but the second half of the proposals still raises the recall of all objects from "
            f"{of_half:.2f} to {found:.2f}: classify more proposals ({seen.now('rpn.test_proposals.after_nms')})"
        ), ""
    if large:
        return _LARGER_IMAGES, large
    return "anchors fit and more proposals add little: train the RPN longer, or on more images", ""


def of_size(name: str) -> str:
    """
    >>> of_size("below 16"), of_size("16–32"), of_size("192 and above")
    ('objects below 16 pixels', 'objects of 16–32 pixels', 'objects of 192 pixels and above')
    """
    if name.startswith("below"):
        return f"objects {name} pixels"
    return f"objects of {name.replace(' and above', '')} pixels{' and above' * name.endswith('above')}"


def sizes(seen: Seen) -> Iterator[Sentence]:
    """Recall of the whole detector by size; where the proposals are known, they say more."""
    share = seen.analysis.get("proposal_share")
    bins = seen.analysis["attributes"]["size"]["bins"]
    objects = sum(one["objects"] for one in bins)
    mean = sum(one["objects"] * (one["recall"] or 0.0) for one in bins) / max(1, objects)
    for one in bins:
        if one["objects"] < LIMITS["fewest_objects"] or one["recall"] >= LIMITS["size_recall"] * mean:
            continue
        if share and _is_low(share, one["name"]):
            continue  # `proposals` has said so
        if share:
            remedy = _LARGER_IMAGES if share["sides"][one["name"]] < LIMITS["small_side"] else ""
        else:
            remedy = "larger images or smaller anchors" if one["name"] in _SMALL else ""
        yield Sentence(
            f"Recall is {one['recall']:.2f} for {of_size(one['name'])} ({one['objects']} objects), and {mean:.2f} "
            f"for all: {remedy or 'more examples of this size'}.",
            (mean - one["recall"]) * one["objects"] / objects,
        )
