"""The rules about the data: without their answer the other figures mislead, so their sentences come first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from detection.report.seen import DATA, LIMITS, RarerLabels, Seen, Sentence


def shared_images(seen: Seen) -> Iterator[Sentence]:
    """Test images that the detector was trained on."""
    if seen.shared_images:
        yield Sentence(
            f"{len(seen.shared_images)} of {seen.outcome['images']} test images also stand in train (the first: "
            f"{seen.shared_images[0]}): the figures are better than on new images. Remove them from one of the two; "
            "tools/check_dataset.py lists them.",
            DATA + 1,
        )


def exchanged_names(seen: Seen) -> Iterator[Sentence]:
    """Objects of one class are mostly detected as another."""
    exchanged = exchanged_classes(seen)
    if exchanged:
        yield Sentence(
            f"{'; '.join(exchanged[:5])}: more than as their own class. Compare the names and ids of the classes in "
            "the training and the test annotations: they look exchanged.",
            DATA + 0.5,
        )


def exchanged_classes(seen: Seen) -> list[str]:
    """How many objects of a class are detected as which other class, of the classes where it is most of them."""
    matrix, names = seen.analysis["confusion_of_best"], seen.names
    exchanged = []
    for k, name in enumerate(names):
        objects = sum(matrix[k])
        others = [(count, other) for other, count in enumerate(matrix[k][:-1]) if other != k]
        count, other = max(others, default=(0, 0))
        enough = objects >= LIMITS["fewest_objects"] and count >= LIMITS["exchanged_share"] * objects
        if enough and count > matrix[k][k]:
            exchanged.append(f"{count} of {objects} objects of {name} are detected as {names[other]}")
    return exchanged


def moved_boxes(seen: Seen) -> Iterator[Sentence]:
    """Detections lie beside the annotated boxes, or are of another size, all in one direction."""
    ways = moved_directions(seen)
    if ways:
        yield Sentence(
            f"Detections {' and '.join(ways)} (median of {seen.analysis['box_offsets']['objects']} objects): the test "
            "and the training annotations do not mean the same by a box. Compare what its numbers are (corner or "
            "centre, the far corner or the size, pixels of which image), and how tight the boxes are drawn.",
            DATA + 0.4,
        )


def moved_directions(seen: Seen) -> list[str]:
    """Where detections lie relative to the annotated boxes, in words; empty if they scatter about them."""
    offsets = seen.analysis["box_offsets"]
    objects = seen.analysis["errors"]["objects"]
    if offsets["objects"] < max(LIMITS["fewest_objects"], LIMITS["trusted_recall"] * objects):
        return []
    quartiles = offsets["quartiles"]
    beside: list[str] = []
    for side, below, above, of in (
        ("x", "to the left of", "to the right of", "width"),
        ("y", "above", "below", "height"),
    ):
        low, middle, high = quartiles[side]
        if abs(middle) >= LIMITS["offset"] and low * high > 0:
            boxes = "them" if beside else "the annotated boxes"
            beside.append(f"{below if middle < 0 else above} {boxes} by {abs(middle):.2f} of their {of}")
    ways = [f"lie {' and '.join(beside)}"] if beside else []
    for side, smaller, larger in (("width", "narrower", "wider"), ("height", "lower", "higher")):
        low, middle, high = quartiles[side]
        if not 1 / LIMITS["scale"] < middle < LIMITS["scale"] and (low - 1) * (high - 1) > 0:
            ways.append(f"are {smaller if middle < 1 else larger} than the annotated boxes by a factor of {middle:.2f}")
    return ways


def missing_labels(seen: Seen) -> Iterator[Sentence]:
    """Confident detections of a class that is found as a rule, where nothing is annotated."""
    classes = zip(seen.outcome["classes"], seen.analysis["label_checks"]["classes"], strict=True)
    for own, row in classes:
        confident = row["confident_correct"] + row["missing"]
        if (
            row["missing"] >= LIMITS["fewest_objects"]
            and row["missing"] >= LIMITS["missing_share"] * confident
            and row["found"] >= LIMITS["trusted_recall"] * own["objects"]
        ):
            name = own["name"]
            yield Sentence(
                f"{row['missing']} of {confident} confident detections of {name} lie where nothing is annotated: "
                f"labels of {name} are probably missing, in the test set and perhaps in train. Look at the suggestions "
                "in label_suggestions.json.",
                DATA + 0.1,
            )


def rarer_labels(seen: Seen) -> Iterator[Sentence]:
    """Classes that one split has fewer objects of than chance explains."""
    for text in rarer_labels_texts(seen.rarer):
        yield Sentence(text, DATA + 0.05)


def rarer_labels_texts(rarer: Sequence[RarerLabels]) -> Iterator[str]:
    """A sentence for each split that has such classes."""
    for split, other in (("train", "test"), ("test", "train")):
        own = [one for one in rarer if getattr(one, split) < getattr(one, other)]
        if own:
            counts = "; ".join(
                f"an image has {getattr(one, split):.2f} objects of {one.name} in {split}, and "
                f"{getattr(one, other):.2f} in {other}"
                for one in own[:5]
            )
            yield (
                f"{counts[0].upper()}{counts[1:]}, which is more than chance: labels of "
                f"{', '.join(one.name for one in own[:5])} are probably missing in {split}, unless the splits show "
                f"different things. Look at images of {split} with their labels (tools/check_dataset.py)."
            )


def unfound_labels(seen: Seen) -> Iterator[Sentence]:
    """Objects where the detector sees nothing, also with their own boxes as proposals. Without that, they may only have
    been overlooked by the RPN, and nothing is said."""
    checks, objects = seen.analysis["label_checks"], seen.analysis["errors"]["objects"]
    count = checks["unfound"]
    if checks["boxes_classified"] and count >= LIMITS["fewest_objects"] and count >= LIMITS["unfound_share"] * objects:
        yield Sentence(
            f"In {count} of {objects} annotated boxes the classifier sees nothing of any class, not even with them "
            "as proposals, though most boxes of their sizes are found: look whether there is an object in these boxes "
            "(label_suggestions.json).",
            DATA,
        )


def few_objects(seen: Seen) -> Iterator[Sentence]:
    """Too few test objects of many classes."""
    few = [row for row in seen.outcome["classes"] if 0 < row["objects"] < LIMITS["fewest_objects"]]
    present = sum(1 for row in seen.outcome["classes"] if row["objects"])
    if len(few) >= LIMITS["few_classes"] * present and few:
        yield Sentence(
            f"{len(few)} of {present} classes have fewer than {LIMITS['fewest_objects']:.0f} test objects: their AP "
            "says little. More test images make the figures firmer; tools/compare_runs.py shows how firm they are.",
            0.0,
        )
