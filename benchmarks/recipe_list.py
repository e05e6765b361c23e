"""The recipes that `benchmarks.recipes` compares: names, and what each changes in a configuration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from detection import config as settings
from detection.config_file import change_config

BASE = "base"


@dataclass(frozen=True)
class Recipe:
    """changes: configuration → `key.sub=value` changes of it. steps: factor of the steps of both trainings, the
    warm-up included. inference: only inference changes, so that the trainings are the base's."""

    changes: Callable[[settings.Config], Sequence[str]]
    steps: float = 1.0
    inference: bool = False

    def applied_to(self, config: settings.Config) -> settings.Config:
        """The configuration with the recipe's changes and steps.

        Raises:
            UserError: a change cannot be made.
        """
        return shortened(change_config(config, list(self.changes(config))), self.steps)


def fixed(*changes: str, steps: float = 1.0, inference: bool = False) -> Recipe:
    """A recipe with the same changes for every configuration."""
    return Recipe(lambda config: changes, steps, inference)


def _scales(config: settings.Config) -> list[str]:
    """A quarter smaller and larger than the test's side."""
    side = config.data.test_shorter_side
    return [f"data.test_scales=[{round(0.75 * side)}, {round(1.25 * side)}]"]


def _jitter(config: settings.Config, low: float, high: float) -> list[str]:
    """Of the side that the longer one is limited to."""
    return [f"data.scale_jitter=[{low}, {high}]", f"data.scale_jitter_side={config.data.longer_side}"]


def _both(*changes: str) -> Recipe:
    """The same changes for both networks."""
    return fixed(*(f"{network}.{change}" for network in ("rpn", "fast_rcnn") for change in changes))


RECIPES: dict[str, Recipe] = {
    BASE: fixed(),
    "Soft-NMS, linear": fixed("fast_rcnn.nms=linear", inference=True),
    "Soft-NMS, gaussian": fixed("fast_rcnn.nms=gaussian", inference=True),
    "NMS across classes": fixed("fast_rcnn.nms_across_classes=true", inference=True),
    "box voting": fixed("fast_rcnn.box_voting_iou=0.8", inference=True),  # Detectron's TEST.BBOX_VOTE.VOTE_TH
    "test flip": fixed("data.test_flip=true", inference=True),
    "test scales": Recipe(_scales, inference=True),
    "test flip and scales": Recipe(lambda config: [*_scales(config), "data.test_flip=true"], inference=True),
    # The weights are those of mmdetection's faster-rcnn_r50_fpn_{iou,giou,ciou}_1x_coco.py.
    "IoU loss": fixed("fast_rcnn.box_loss=iou", "fast_rcnn.box_loss_weight=10"),
    "GIoU loss": fixed("fast_rcnn.box_loss=giou", "fast_rcnn.box_loss_weight=10"),
    "CIoU loss": fixed("fast_rcnn.box_loss=ciou", "fast_rcnn.box_loss_weight=12"),
    "class-balanced loss": fixed("fast_rcnn.class_balance=0.999"),  # Cui et al. find 0.9 to 0.9999, by data set
    "OHEM": fixed("fast_rcnn.sampling=ohem"),
    "cascade of two": fixed("fast_rcnn.cascade=[0.6]"),
    "cascade of three": fixed("fast_rcnn.cascade=[0.6, 0.7]"),  # Cai and Vasconcelos
    "EMA": _both("training.ema=0.99"),  # over the last hundred steps of some hundreds
    "AdamW": _both("training.optimizer=adamw", "training.learning_rate=0.0004", "training.weight_decay=0.05"),
    "large-scale jitter": Recipe(lambda config: _jitter(config, 0.1, 2.0)),  # Ghiasi et al., LSJ
    "standard-scale jitter": Recipe(lambda config: _jitter(config, 0.8, 1.25)),  # Ghiasi et al., SSJ
    "repeat-factor sampling": fixed("data.repeat_threshold=0.3"),  # classes in less than 0.3 of the images
    "twice the steps": fixed(steps=2.0),
    "from scratch": fixed("backbone.weights=null", "backbone.freeze=null", "backbone.norm=batch"),
    "from scratch, GroupNorm": fixed("backbone.weights=null", "backbone.freeze=null", "backbone.norm=group"),
}


def together(names: Sequence[str]) -> Recipe:
    """All of these recipes at once; where two change one value, the later one counts.

    Whether only inference changes, and by how much the steps: as the recipes have it, all of them, multiplied.
    """
    recipes = [RECIPES[name] for name in names]
    steps = 1.0
    for recipe in recipes:
        steps *= recipe.steps
    return Recipe(
        lambda config: [change for recipe in recipes for change in recipe.changes(config)],
        steps,
        all(recipe.inference for recipe in recipes),
    )


def shortened(config: settings.Config, rpn: float, fast_rcnn: float | None = None) -> settings.Config:
    """The configuration with a share of the steps of both trainings, the warm-up and the milestones included.

    rpn, fast_rcnn: the shares of the two; by default the same.
    """

    def less(training: settings.Training, share: float) -> settings.Training:
        return replace(
            training,
            steps=max(1, round(training.steps * share)),
            warmup_steps=round(training.warmup_steps * share),
            milestones=tuple(sorted({max(1, round(milestone * share)) for milestone in training.milestones})),
        )

    return replace(
        config,
        rpn=replace(config.rpn, training=less(config.rpn.training, rpn)),
        fast_rcnn=replace(
            config.fast_rcnn, training=less(config.fast_rcnn.training, rpn if fast_rcnn is None else fast_rcnn)
        ),
    )
