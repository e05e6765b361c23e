"""Sound annotations or a sound configuration → the same with one thing broken, for `benchmarks.broken_data`."""

from __future__ import annotations

import copy
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from detection import config as settings
from detection.report.seen import LIMITS

Content = dict[str, Any]  # of a COCO annotation file


@dataclass(frozen=True)
class Fault:
    """What is broken, and the words by which a sentence names it (a regular expression; None: nothing is broken).

    test, train: (annotations of the split, those of the other) → broken annotations. changes: of the configuration.
    alarming: whether the words are a false alarm where nothing is broken.
    """

    named: str | None = None
    test: Callable[[Content, Content], Content] | None = None
    train: Callable[[Content, Content], Content] | None = None
    changes: Callable[[settings.Config], Sequence[str]] = lambda config: ()
    alarming: bool = True


def half_removed(name: str) -> Callable[[Content, Content], Content]:
    """Removes every other box of a class."""

    def broken(content: Content, _: Content) -> Content:
        number = next(one["id"] for one in content["categories"] if one["name"] == name)
        own = [one["id"] for one in content["annotations"] if one["category_id"] == number]
        kept = [one for one in content["annotations"] if one["id"] not in set(own[::2])]
        return {**content, "annotations": kept}

    return broken


def shuffled_names(content: Content, _: Content) -> Content:
    """Gives each class the name of the next one."""
    ids = [one["id"] for one in content["categories"]]
    following = dict(zip(ids, ids[1:] + ids[:1], strict=True))
    annotations = [{**one, "category_id": following[one["category_id"]]} for one in content["annotations"]]
    return {**content, "annotations": annotations}


def shifted(content: Content, _: Content) -> Content:
    """Moves every box by 30 % of its width and height, as where a centre is taken for a corner by mistake."""
    content = copy.deepcopy(content)
    for one in content["annotations"]:
        x, y, width, height = one["bbox"]
        one["bbox"] = [x + 0.3 * width, y + 0.3 * height, width, height]
    return content


def invented(content: Content, _: Content) -> Content:
    """Adds boxes of the usual sizes where nothing is annotated, a sixth of all or 14."""
    content, chance = copy.deepcopy(content), random.Random(0)
    sizes = {one["id"]: (one["width"], one["height"]) for one in content["images"]}
    taken: dict[int, list[list[float]]] = {number: [] for number in sizes}
    for one in content["annotations"]:
        taken[one["image_id"]].append(one["bbox"])
    number, wanted = 10**6, max(14, len(content["annotations"]) // 6)
    for _attempt in range(100 * wanted):
        model, image = chance.choice(content["annotations"]), chance.choice(list(sizes))
        (_, _, width, height), (across, down) = model["bbox"], sizes[image]
        if not (0 < width < across and 0 < height < down) or number - 10**6 == wanted:
            continue
        x, y = chance.uniform(0, across - width), chance.uniform(0, down - height)
        if all(x >= a + w or a >= x + width or y >= b + h or b >= y + height for a, b, w, h in taken[image]):
            number += 1
            box = [x, y, width, height]
            taken[image].append(box)
            content["annotations"].append({**model, "id": number, "image_id": image, "bbox": box})
    return content


def leaked(content: Content, train: Content) -> Content:
    """Adds a dozen training images to the test split."""
    last = max(one["id"] for one in content["images"]) + 1
    new = {one["id"]: last + place for place, one in enumerate(train["images"][:12])}
    images = [{**one, "id": new[one["id"]]} for one in train["images"] if one["id"] in new]
    own = [{**one, "image_id": new[one["image_id"]]} for one in train["annotations"] if one["image_id"] in new]
    annotations = [{**one, "id": 10**6 + place} for place, one in enumerate(own)]
    return {
        **content,
        "images": [*content["images"], *images],
        "annotations": [*content["annotations"], *annotations],
    }


def smaller_images(config: settings.Config, divisor: int = 4) -> list[str]:
    """A quarter of the sides."""
    data = config.data
    return [
        f"data.test_shorter_side={data.test_shorter_side // divisor}",
        f"data.test_longer_side={data.test_longer_side // divisor}",
    ]


def anchor_sizes(config: settings.Config, factor: float) -> list[str]:
    return [f"rpn.anchor_sizes={[round(factor * size, 2) for size in config.rpn.anchor_sizes]}"]


def test_faults(content: Content) -> dict[str, Fault]:
    """The faults that a trained detector is evaluated with."""
    names = {one["id"]: one["name"] for one in content["categories"]}
    of_class = [one["category_id"] for one in content["annotations"]]
    faults = {"nothing": Fault()}
    for number, name in names.items():
        if of_class.count(number) >= 25:
            words = rf"labels of {re.escape(name)} are probably missing"
            faults[f"half of the labels of {name} removed"] = Fault(words, half_removed(name))
            if len(content["images"]) >= LIMITS["fewest_objects"]:
                words = rf"labels of ([^:]*, )?{re.escape(name)}\b[^:]* are probably missing in train"
                faults[f"half of the training labels of {name} removed"] = Fault(words, train=half_removed(name))
    if len(names) > 1:
        faults["names shuffled"] = Fault("they look exchanged", shuffled_names)
    faults["boxes shifted"] = Fault("lie to the left of the annotated boxes by .* and above them", shifted)
    faults["boxes invented"] = Fault("whether there is an object in these boxes", invented)
    faults["training images in test"] = Fault("test images also stand in train", leaked)
    faults["images of a quarter"] = Fault(
        "(network's input.*|less than 0.5 cost .*): larger images", changes=smaller_images, alarming=False
    )
    faults["three proposals"] = Fault(
        "classify more proposals", changes=lambda config: ["rpn.test_proposals.after_nms=3"], alarming=False
    )
    faults["no suppression"] = Fault("a lower fast_rcnn.nms_iou", changes=lambda config: ["fast_rcnn.nms_iou=0.95"])
    return faults


def training_faults(content: Content) -> dict[str, Fault]:
    """The faults that a detector is trained with; the test split is sound. Those that differ only in brackets share a
    training."""
    names = {one["id"]: one["name"] for one in content["categories"]}
    of_class = [one["category_id"] for one in content["annotations"]]
    faults = {
        "trained: nothing": Fault(),
        "trained: anchors too small": Fault(
            "fit no anchor.*other anchors", changes=lambda config: anchor_sizes(config, 1 / 6)
        ),
        "trained: anchors too large": Fault(
            "fit no anchor.*other anchors", changes=lambda config: anchor_sizes(config, 6)
        ),
    }
    if len(names) > 1:
        faults["trained: names shuffled"] = Fault("they look exchanged", train=shuffled_names)
    frequent = [number for number in names if of_class.count(number) >= 25]
    if frequent:
        name = names[min(frequent, key=of_class.count)]
        half, removed = half_removed(name), f"trained: half of the labels of {name} removed"
        if len(content["images"]) >= LIMITS["fewest_objects"]:
            faults[removed] = Fault(rf"labels of {re.escape(name)} are probably missing in train", train=half)
        faults[f"{removed} (evaluated on the training images)"] = Fault(
            rf"labels of {re.escape(name)} are probably missing", lambda test, train: half(train, test), half
        )
    return faults
