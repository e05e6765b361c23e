"""The verdicts on a configuration's splits → the page of the checker: figures, findings, images, and what to do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from backbones.common.errors import UserError
from detection import config as settings
from detection.common.evenly_spread import evenly_spread
from detection.data.findings import KINDS
from detection.data.index import DatasetIndex
from detection.data.plausibility import LIMIT_OF_CLASS
from detection.data.shards import image_paths
from detection.experiment import dataset_images
from detection.experiment.anchor_advice import anchor_blocks
from detection.experiment.checking import Verdict, similar_across
from detection.experiment.class_rates import rarer_labels
from detection.experiment.run_folder import RunFolder
from detection.report.advice_on_data import rarer_labels_texts
from detection.report.dataset_page import Block, write_dataset_page
from detection.report.page import ShownImage
from detection.report.sections import Table

_GRID = 8  # images of a grid
_GROUPS, _OF_GROUP = 6, 3  # groups of similar images that are shown, and images of each
_FEW = 30  # objects of a class
_RATIO = 20  # of the most frequent class to another


def page_path(config: settings.Config) -> Path:
    """Where the page goes: `output` if that is a file .html, else dataset.html in the run's folder."""
    root = RunFolder.of(config).root
    return root if root.suffix.lower() in (".html", ".htm") else root / "dataset.html"


def write_page(config: settings.Config, verdicts: Sequence[Verdict], path: Path) -> None:
    """Writes the page.

    Raises:
        UserError: `path` is a file of the user's, or cannot be written.
    """
    splits = {verdict.which: verdict.index for verdict in verdicts if verdict.index is not None}
    advice: list[str] = [_refusal(verdict) for verdict in verdicts if verdict.refused]
    blocks = [*_counts(config.data, splits, advice)]
    train = splits.get("train")
    if train is not None and not train.crowds.all():
        blocks += anchor_blocks(config, train, advice)
    blocks += _findings(verdicts)
    if train is not None and "test" in splits:
        advice += rarer_labels_texts(rarer_labels(train, splits["test"]))
    blocks += _similar(splits, advice)
    if train is not None:
        blocks += _grids(config, train)
    for which, index in splits.items():
        blocks += _background(config.data, which, index, advice)
        blocks += _crowded(config, which, index, advice)
    write_dataset_page(
        path,
        title=f"Data set {Path(config.data.root).resolve().name}",
        facts={f"data.{which}": str(index.annotation_file) for which, index in splits.items()},
        advice=advice,
        blocks=blocks,
    )


def _refusal(verdict: Verdict) -> str:
    if verdict.findings is None:
        return verdict.text
    kinds = [kind for kind in verdict.findings.by_kind if KINDS[kind].outcome(verdict.findings.purpose)[1]]
    parts = [f"{verdict.findings.count(kind)} {KINDS[kind].found}: {KINDS[kind].then}" for kind in kinds]
    return f"data.{verdict.which} is refused: {'; '.join(parts)}."


def _per_image(index: DatasetIndex) -> np.ndarray:
    """The number of objects of each image, crowd regions not counted, (M,)."""
    before = np.concatenate([[0], np.cumsum(~index.crowds)])
    return np.asarray(before[index.offsets[1:]] - before[index.offsets[:-1]])


def _of_classes(index: DatasetIndex, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """(objects, images) of each of these classes."""
    place = {name: number for number, name in enumerate(names)}
    own = np.array([place.get(name, 0) for name in index.category_names], dtype=np.int64)
    rows = np.flatnonzero(~index.crowds)
    labels = own[index.labels[rows] - 1]
    images = np.repeat(np.arange(len(index)), np.diff(index.offsets))[rows]
    pairs = np.unique(np.stack([images, labels], axis=1), axis=0)
    return np.bincount(labels, minlength=len(names)), np.bincount(pairs[:, 1], minlength=len(names))


def _counts(data: settings.Data, splits: dict[str, DatasetIndex], advice: list[str]) -> list[Block]:
    if not splits:
        return []
    rows = []
    for which, index in splits.items():
        counts = _per_image(index)
        rows.append(
            [
                f"data.{which}",
                str(len(index)),
                str(int((counts == 0).sum())),
                str(int(counts.sum())),
                str(int(index.crowds.sum())),
                f"{counts.mean():.1f}",
                str(int(counts.max())),
            ]
        )
    head = ["split", "images", "without objects", "objects", "crowd regions", "objects an image", "most in an image"]
    names = list(dict.fromkeys(name for index in splits.values() for name in index.category_names))
    of_split = {which: _of_classes(index, names) for which, index in splits.items()}
    first = next(iter(of_split.values()))[0]
    most = max(1, int(first.max(initial=0)))
    order = np.argsort(-first, kind="stable").tolist()
    cells = [[names[k], *(str(int(one[k])) for own in of_split.values() for one in own)] for k in order]
    columns = [f"{what}, {which}" for which in of_split for what in ("objects", "images")]
    bars = [first[k] / most for k in order]
    balance = Table(["class", *columns], cells, bars, columns[0], sortable=True, name="classes")
    if not names:
        return [Block("Splits", tables=[Table(head, rows)])]
    if "train" in of_split:
        counted = of_split["train"][0]
        rare = [names[k] for k in order if counted[k] < min(_FEW, most)]
        if rare:
            advice.append(
                f"{_listed(rare)}: fewer than {_FEW} objects to train on; label more of them, or merge the classes."
            )
        if len(names) > 1 and data.repeat_threshold is None and 0 < counted.min() * _RATIO < most:
            advice.append(
                f"{names[int(counted.argmax())]} has {most / counted.min():.0f} times as many objects as "
                f"{names[int(counted.argmin())]}; data.repeat_threshold=0.1 shows images of rare classes more often."
            )
    return [Block("Splits", tables=[Table(head, rows)]), Block("Classes", tables=[balance])]


def _listed(names: Sequence[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _paths_of(verdict: Verdict) -> Callable[[str], Path] | None:
    """Name of an image of a split → its path; None if the split has no images."""
    index = verdict.index
    if index is not None and index.tars is not None:
        rows = {index.file_name(i): i for i in range(len(index))}
        return lambda name: index.path(rows[name]) if name in rows else Path(name)
    return None if verdict.root is None else image_paths(verdict.root)


def _findings(verdicts: Sequence[Verdict]) -> list[Block]:
    """Every kind of finding, with the images and boxes of its examples."""
    blocks = []
    for verdict in verdicts:
        findings = verdict.findings
        path_of = _paths_of(verdict)
        for kind, finding in findings.by_kind.items() if findings is not None else ():
            assert findings is not None
            then, refused = KINDS[kind].outcome(findings.purpose)
            shown: list[ShownImage] = []
            for example in finding.examples:
                image = None if path_of is None else dataset_images.of_example(path_of, example)
                shown += [image] if image is not None else []
            drawn = {image.caption for image in shown}
            texts = [f"Refused: {then}." if refused else f"{then[0].upper()}{then[1:]}."]
            rest = [str(example) for example in finding.examples if str(example) not in drawn]
            more = finding.count - len(finding.examples)
            if rest:
                texts.append("; ".join(rest) + ("; …" if more > 0 else ""))
            heading = f"data.{verdict.which}: {finding.count} {KINDS[kind].found}"
            blocks.append(Block(heading, texts, images=shown))
    return blocks


def _similar(splits: dict[str, DatasetIndex], advice: list[str]) -> list[Block]:
    """Groups of equal and nearly equal images: first those of several splits."""
    if not splits:
        return []
    names, indices = list(splits), list(splits.values())
    groups = similar_across(indices)
    if not groups:
        return []
    leaking = [group for group in groups if len({number for number, _ in group}) > 1]
    if leaking:
        leaked = sum(names[number] == "test" for group in leaking for number, _ in group)
        advice.append(
            f"{leaked} of the {len(splits['test'])} images of data.test equal or nearly equal one of data.train: "
            "figures on them are too good. Keep what belongs together in one split."
        )
    blocks = []
    within = [group for group in groups if group not in leaking]
    for heading, own in (("Equal or nearly equal images in both splits", leaking), ("… within a split", within)):
        images: list[ShownImage] = []
        for place, group in enumerate(own[:_GROUPS], start=1):
            if own is leaking:  # of each split first
                group = sorted(group, key=lambda one: [other for other in group if other[0] == one[0]].index(one))
            for number, i in group[:_OF_GROUP]:
                for shown in dataset_images.annotated(indices[number], [i]):
                    images.append(ShownImage(shown.embedded, f"group {place}: data.{names[number]}, {shown.caption}"))
        if own:
            count = sum(map(len, own))
            text = f"{len(own)} groups of {count} images in all"
            text += f"; {_GROUPS} groups are shown, {_OF_GROUP} images of each." if len(own) > _GROUPS else "."
            blocks.append(Block(heading.replace("…", "Equal or nearly equal images"), [text], images=images))
    return blocks


def _grids(config: settings.Config, index: DatasetIndex) -> list[Block]:
    with_objects = np.flatnonzero(_per_image(index) > 0)
    index = index.subset(with_objects) if len(with_objects) else index
    chosen = evenly_spread(len(index), _GRID).tolist()
    blocks = [Block("Training images as annotated", images=list(dataset_images.annotated(index, chosen)))]
    text = "As the network gets them in the first epoch: resized, flipped, and altered as the configuration says."
    try:
        images = list(dataset_images.augmented(config.data, index, chosen, config.seed))
    except UserError as error:
        return [*blocks, Block("Training images as augmented", [f"They cannot be augmented: {error}"])]
    return [*blocks, Block("Training images as augmented", [text], images=images)]


def _background(data: settings.Data, which: str, index: DatasetIndex, advice: list[str]) -> list[Block]:
    empty = np.flatnonzero(_per_image(index) == 0).tolist()
    if not empty:
        return []
    use = "They count in the evaluation: what is detected there is false."
    if which == "train":
        use = "They are trained on as background." if data.keep_empty else "They are not trained on."
        if not data.keep_empty and index.crowds.sum() == 0:
            advice.append(
                f"{len(empty)} training images have no object and are not trained on; if they are truly empty, "
                "data.keep_empty=true teaches the network what is background."
            )
    text = f"{len(empty)} of {len(index)} images. {use} Images whose objects were not annotated are among them."
    picked = [empty[i] for i in evenly_spread(len(empty), _GRID)]
    return [
        Block(f"data.{which}: images without objects", [text], images=list(dataset_images.annotated(index, picked)))
    ]


def _crowded(config: settings.Config, which: str, index: DatasetIndex, advice: list[str]) -> list[Block]:
    """The images with the most objects against the limits of detections and proposals."""
    counts = _per_image(index)
    limits = {"fast_rcnn.detections": config.fast_rcnn.detections}
    if which == "train":
        limits["rpn.training_proposals.after_nms"] = config.rpn.training_proposals.after_nms
    else:
        limits["rpn.test_proposals.after_nms"] = config.rpn.test_proposals.after_nms
    rows = []
    for key, limit in limits.items():
        over = int((counts > limit).sum())
        rows.append([key, str(limit), str(over), f"{np.maximum(counts - limit, 0).sum() / max(1, counts.sum()):.1%}"])
        if over:
            advice.append(
                f"{over} of the {len(index)} images of data.{which} have more objects than {key}={limit}: raise "
                f"it to at least {int(counts.max())}, or cut the images into tiles."
            )
    texts = [f"At most {int(counts.max(initial=0))} objects in an image."]
    if which == "test":
        texts.append(f"COCO's AP counts only the {LIMIT_OF_CLASS} best detections of each class in an image.")
    crowded = np.argsort(-counts, kind="stable")[:3].tolist()
    head = ["limit", "value", "images above it", "objects beyond it"]
    shown = list(islice(dataset_images.annotated(index, crowded), 3))
    return [Block(f"data.{which}: the most crowded images", texts, [Table(head, rows)], images=shown)]
