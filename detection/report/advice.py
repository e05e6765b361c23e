"""Figures of an evaluation → sentences on what to do next, by the rules of one table.

A rule compares figures with its limits and, if they are exceeded, says what was seen, in numbers, and what helps. First
come the sentences about the data, without whose answer the other figures mislead; then the others, by the AP at stake.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from detection.report import advice_on_data, advice_on_mistakes, advice_on_proposals
from detection.report.earlier_analysis import RENEWAL, missing_for_advice
from detection.report.seen import DATA, LIMITS, Seen, Sentence

MOST = 8  # sentences: a longer list is not read
RULES: tuple[Callable[[Seen], Iterable[Sentence]], ...] = (
    advice_on_data.shared_images,
    advice_on_data.exchanged_names,
    advice_on_data.moved_boxes,
    advice_on_data.missing_labels,
    advice_on_data.rarer_labels,
    advice_on_data.unfound_labels,
    advice_on_mistakes.confusions,
    advice_on_proposals.proposals,
    advice_on_proposals.sizes,
    advice_on_mistakes.kinds,
    advice_on_mistakes.weak_classes,
    advice_on_data.few_objects,
    advice_on_mistakes.calibration,
    advice_on_mistakes.still_rising,
)


def advice(seen: Seen) -> list[str]:
    """The sentences of all rules whose limits are exceeded, the most important first; never empty for a test set with
    objects. Of an analysis that an earlier version wrote, one sentence says how to renew it."""
    if not any(row["objects"] for row in seen.outcome["classes"]):
        return []
    if missing := missing_for_advice(seen.analysis):
        return [
            f"The analysis was written by an earlier version and lacks {', '.join(missing)}, so nothing can be "
            f"advised: {RENEWAL}."
        ]
    sentences = [sentence for rule in RULES for sentence in rule(seen)]
    if seen.ap < LIMITS["nothing_found"]:
        sentences = [one for one in sentences if one.stake >= DATA]
        if advice_on_proposals.are_all_that_fails(seen):
            sentences += advice_on_proposals.proposals(seen)
        if all(one.text in {shared.text for shared in advice_on_data.shared_images(seen)} for one in sentences):
            sentences.append(_nothing_found(seen))
    elif not any(one.stake for one in sentences):
        sentences.append(_nothing_stands_out(seen))
    return [one.text for one in sorted(sentences, key=lambda one: -one.stake)][:MOST]


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
