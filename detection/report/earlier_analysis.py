"""An analysis, as `analysis.json` holds it → what it lacks if an earlier version wrote it.

The pages and the advice read it by these keys; later versions added some.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

PAGE_KEYS = (
    "errors", "thresholds", "calibration", "calibration_from", "confusion_matrix", "attributes", "precision",
    "precision_of_classes",
)  # fmt: skip
ADVICE_KEYS = (*PAGE_KEYS, "box_offsets", "confusion_of_best", "label_checks")
# Keys within these parts that the advice reads.
_PARTS: dict[str, Sequence[str]] = {
    "label_checks": ("classes", "unfound", "boxes_classified"),
    "proposal_share": ("objects", "recall", "sides", "half_recall", "anchor_recall", "figures", "with_ground_truth"),
}
_OF_CLASS = ("confident_correct", "missing", "found")  # in label_checks.classes
RENEWAL = "tools/eval_coco.py --weights FILE (the run's detector.pt) writes it anew"


def missing_for_page(analysis: Mapping[str, Any]) -> list[str]:
    """The keys that the report's page reads and the analysis lacks."""
    return [key for key in PAGE_KEYS if key not in analysis]


def missing_for_advice(analysis: Mapping[str, Any]) -> list[str]:
    """The keys that the advice reads and the analysis lacks, those within a part after its name and a dot.

    >>> missing_for_advice({key: {} for key in ADVICE_KEYS})
    ['label_checks.classes', 'label_checks.unfound', 'label_checks.boxes_classified']
    """
    return [key for key in ADVICE_KEYS if key not in analysis] + list(_missing_in_parts(analysis))


def _missing_in_parts(analysis: Mapping[str, Any]) -> Iterator[str]:
    for part, keys in _PARTS.items():
        if (own := analysis.get(part)) is not None:  # proposal_share is None where it was not measured
            yield from (f"{part}.{key}" for key in keys if key not in own)
    classes = (analysis.get("label_checks") or {}).get("classes", ())
    yield from (f"label_checks.classes.{key}" for key in _OF_CLASS if any(key not in own for own in classes))
