"""The configuration of an experiment: frozen dataclasses, one for each section.

A YAML file states it (`configs/`), `key.sub=value` on the command line changes it, and `detection/config_file.py` reads
both. A value that is not given has the default below; the defaults are the paper's ("Aggregated Residual
Transformations", appendix B) and py-faster-rcnn's, which the paper follows otherwise. Networks do not depend on these
objects: `detection/experiment/builders.py` passes them plain numbers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Literal

# Upper bounds, far above any practical value. With them a mistyped number, or one in an untrusted detector.pt, is
# refused by its key before anything is built, read or allocated with it. Values below them may still need more memory
# than a machine has; that is reported when an allocation fails (`detection/training/memory.py`).
SIDE = 32_768  # pixels along one side of an image or a region
CHANNELS = 65_536
WIDTH = 4_096  # planes, cardinality and base width, which a network multiplies with each other
BATCH = 65_536  # images a step: on few devices a step of more would take days, and a signal waits for its end
COUNT = 1_000_000  # images, boxes or regions at once
STEPS = 1_000_000_000
PROCESSES = 512
FACTOR = 1e6  # rates, weights of losses, ratios
LENGTH = 1_000  # values in a list


def within(default: Any, low: float, high: float, most: int = LENGTH) -> Any:
    """A field whose value, or each of whose at most `most` values, must lie in [low, high]."""
    return field(default=default, metadata={"low": low, "high": high, "most": most})


PYRAMID_COARSEST = 6  # the RPN's coarsest level, of stride 64


@dataclass(frozen=True)
class Split:
    """One set of images with their annotations."""

    # Appears in reports and file names. With `data.layout: coco` it selects one of COCO's splits, with `auto` one of
    # the splits that are detected (train, val, test, trainval); there, `test` is the test split, or val if there is
    # none.
    name: str = "train"
    # The labels, relative to data.root: a COCO or CSV file, a data.yaml, or a folder of Pascal VOC or YOLO files. null:
    # found according to data.layout
    annotations: str | None = None
    # Folder of the images that the labels name, relative to data.root. With COCO labels, they may be in tar files:
    # their folder, a single one, or a pattern such as shards/train-{000000..000099}.tar
    images: str | None = None
    limit: int | None = within(None, 1, STEPS)  # only the first `limit` images, for experiments


@dataclass(frozen=True)
class Division:
    """A set of images that comes in one piece, divided into data.train and data.test: by class, and for the same seed
    and the same file names always alike."""

    test: float | None = within(None, 0.001, 0.999)  # share of the images that becomes data.test; null: not divided
    seed: int = within(0, 0, 2**62)  # another seed selects other images


@dataclass(frozen=True)
class Data:
    """The location of the images, and their preprocessing."""

    root: str = "data"  # folder of the data set; other paths under data are relative to it
    # auto: detected from the contents of data.root, see docs/data.md. files: the labels and folders that data.train and
    # data.test name. coco: COCO's own folder layout, 2017 or 2014. demo: the demo's images, drawn if they are missing
    layout: Literal["auto", "files", "coco", "demo"] = "auto"
    # The format of the labels, if data.root contains several or it is not recognised. auto: detected. images: a folder
    # without labels, only to detect objects in
    format: Literal["auto", "coco", "yolo", "voc", "csv", "images"] = "auto"
    train: Split = Split("train")
    test: Split = Split("test")
    split: Division = Division()
    # Class names in the order of their numbers, for YOLO labels without a list of names; for VOC and CSV, classes in
    # addition to those that occur
    classes: tuple[str, ...] = ()
    # Corners in VOC and CSV. 1: pixels are counted from 1 and both corners lie inside the box, as VOC documents. 0: the
    # corners are edges, counted from 0. null: 1, unless a corner is at 0 or at a fraction of a pixel
    first_pixel: int | None = within(None, 0, 1)
    # Also train on images without objects, as background: every anchor and region in them is negative. false: leave
    # them out, as py-faster-rcnn does
    keep_empty: bool = False
    # Repeats training images of rare classes (LVIS uses 0.001). A class that occurs in a share f of the images has the
    # repeat factor √(this / f), at least 1; an image has the largest factor of its classes. null: no repetition
    repeat_threshold: float | None = within(None, 1e-9, 1)
    # Keep the index of a large set in ~/.cache/resnext_detection/indices (or below RESNEXT_CACHE), and use it as long
    # as labels and image folders do not change, see docs/data.md
    cache: bool = True
    skip_missing: bool = False  # leave out listed images without a file, and count them; false: an error
    # Training: replace a damaged image by another one; leave it out if the labels do not state its size. false: an
    # error
    skip_unreadable: bool = False
    # Training: the shorter side is scaled to one of these, chosen at random for each image …
    shorter_sides: tuple[int, ...] = within((600,), 1, SIDE)
    longer_side: int = within(1000, 1, SIDE)  # … unless the longer side would exceed this
    test_shorter_side: int = within(600, 1, SIDE)  # evaluation and detection: the shorter side is scaled to this …
    test_longer_side: int = within(1000, 1, SIDE)  # … unless the longer side would exceed this
    # Training, large-scale jitter (Ghiasi et al. 2021, with [0.1, 2.0]), in place of shorter_sides and longer_side: the
    # image is resized to the largest size that fits into a square of `scale_jitter_side`, times a random factor in this
    # range, and cropped at random to at most this square. null: none
    scale_jitter: tuple[float, float] | None = within(None, 0.01, 10)
    scale_jitter_side: int = within(1024, 1, SIDE)  # pixels
    # Test-time augmentation: also detect at these shorter sides (the longer side is limited in proportion); one NMS
    # merges all detections (Detectron: TEST.BBOX_AUG.SCALES, H_FLIP and SCALE_H_FLIP). The time grows with the number
    # of pixels. Stored proposals and their recall are computed without it
    test_scales: tuple[int, ...] = within((), 1, SIDE, most=20)
    test_flip: bool = False  # test-time augmentation: also detect in each image flipped horizontally
    horizontal_flip: float = within(0.5, 0, 1)  # probability, in training
    vertical_flip: float = within(0.0, 0, 1)  # probability, in training
    # A pipeline of albumentations, applied before the resize: [{name: RandomBrightnessContrast, p: 0.5}, …]
    albumentations: tuple[dict[str, Any], ...] = ()
    group_by_aspect: bool = True  # a batch has either portrait or landscape images, which need less padding
    size_divisor: int = within(32, 1, 1024)  # sides are padded to multiples of this

    def contradictions(self) -> list[str]:
        """Contradictory settings in this section; see `Config.contradictions`."""
        found = []
        if not self.shorter_sides:
            found.append("data.shorter_sides: at least one value is needed")
        if self.scale_jitter is not None and self.scale_jitter[0] > self.scale_jitter[1]:
            found.append(f"data.scale_jitter: the range {list(self.scale_jitter)} must ascend")
        if not all(isinstance(transform.get("name"), str) for transform in self.albumentations):
            found.append(
                "data.albumentations: each transform needs a `name`, as in [{name: HorizontalFlip, p: 0.5}, …]"
            )
        if self.test_shorter_side in self.test_scales:
            found.append(
                f"data.test_scales: {self.test_shorter_side} is data.test_shorter_side; name further ones alone"
            )
        splits = {"train": self.train, "test": self.test}
        if self.layout == "files" and not any(split.annotations or split.images for split in splits.values()):
            found.append(
                "data.layout: files needs `annotations` and `images` of data.train and data.test, where they are used"
            )
        if self.split.test is not None and self.layout in ("coco", "demo"):
            found.append(f"data.split: data.layout={self.layout} has splits of its own; leave data.split out")
        if self.split.test is not None and (self.test.annotations or self.test.images):
            found.append(
                "data.split and data.test.annotations: data.test is either a part of data.train's labels or has labels "
                "of its own; leave one of the two out"
            )
        for which, split in splits.items():
            if split.name in ("", ".", "..") or re.search(r"[/\\\x00-\x1f]", split.name):
                found.append(f"data.{which}.name: {split.name!r} is to be part of files' names: leave out slashes")
        return found


@dataclass(frozen=True)
class Backbone:
    """The ResNeXt backbone; each of the two networks has its own."""

    name: str = "resnext50_32x4d"  # `python -m backbones` lists them
    weights: str | None = None  # a name listed by `python -m backbones weights`, a URL or a file; null: from scratch
    # frozen: BN statistics fixed, as the paper does; batch or group to train from scratch; sync_batch: batch, with
    # statistics over all GPUs (torch's SyncBatchNorm)
    norm: Literal["frozen", "batch", "sync_batch", "group"] = "frozen"
    # The features that the two networks use. c4: the map of stage conv4, and conv5 on each region. pyramid: a feature
    # pyramid in each of them, up to p6 in the RPN and p5 in the Fast R-CNN (Lin et al., CVPR 2017)
    features: Literal["c4", "pyramid"] = "c4"
    # The pyramid's finest level: 2 has a stride of 4. With 3 (stride 8), small images take about half the time
    pyramid_finest: int = within(2, 2, 4)
    pyramid_width: int = within(256, 1, WIDTH)  # channels of each level
    # none if pretrained; the others to train from scratch
    pyramid_norm: Literal["none", "batch", "sync_batch", "group"] = "none"
    # The backbone is not trained up to and including this stage (Detectron: conv1 and conv2_x)
    freeze: Literal["stem", "c2", "c3", "c4"] | None = "c2"
    # Structure of a custom network: these values replace those of the named variant.
    depths: tuple[int, ...] | None = within(None, 1, 1000)
    cardinality: int | None = within(None, 1, WIDTH)  # groups of a grouped convolution
    base_width: int | None = within(None, 1, WIDTH)  # channels of a group in c2, at 64 planes
    planes: int | None = within(None, 1, WIDTH)  # bottleneck planes of c2
    stem_width: int | None = within(None, 1, WIDTH)  # channels of conv1


@dataclass(frozen=True)
class Training:
    """The optimization of one of the networks. Steps count global batches, on any number of devices."""

    global_batch: int = within(16, 1, BATCH)  # images per step, over all devices
    # Images that a device processes at once; if its share of the batch is larger, gradients are accumulated
    images_per_device: int = within(2, 1, COUNT)
    learning_rate: float = within(0.02, 0, FACTOR)  # the highest rate, after the warm-up
    # learning_rate is for this global batch; with another global_batch it is scaled in proportion. null: not scaled
    learning_rate_batch: int | None = within(16, 1, COUNT)
    steps: int = within(180_000, 1, STEPS)  # updates of the weights
    # steps at which the learning rate is multiplied by `decay`
    milestones: tuple[int, ...] = within((120_000,), 1, STEPS)
    decay: float = within(0.1, 0, 1)  # factor of the learning rate at each milestone
    schedule: Literal["step", "cosine"] = "step"  # step: by `milestones`; cosine: falls to 0 with the last step
    warmup_steps: int = within(0, 0, STEPS)  # the learning rate rises linearly from warmup_factor × rate
    warmup_factor: float = within(1 / 3, 0, 1)  # share of the learning rate at which the warm-up begins
    # sgd: with `momentum`; adamw: Adam with decoupled weight decay and `betas`
    optimizer: Literal["sgd", "adamw"] = "sgd"
    betas: tuple[float, float] = within((0.9, 0.999), 0, 0.999_999)  # AdamW's
    # The learning rate of each stage of the backbone is that of the next stage times this factor (conv1, conv2_x …
    # conv5_x, then all other layers, which have the full rate). 1: the same rate for all
    layer_decay: float = within(1.0, 0.01, 1)
    # Parameters that are not trained, by patterns of their names with * and ?: ["head.*", "*.layer2.*"]. (Running
    # statistics of batch normalisation still change; backbone.norm=frozen fixes them.)
    freeze: tuple[str, ...] = ()
    momentum: float = within(0.9, 0, 1)  # SGD's
    nesterov: bool = False  # Nesterov's form of the momentum
    weight_decay: float = within(1e-4, 0, FACTOR)  # of weights; for biases and normalisation see the next keys
    bias_lr_factor: float = within(2.0, 0, FACTOR)  # factor of the learning rate of biases (py-faster-rcnn: 2)
    bias_weight_decay: bool = False  # whether biases decay; Detectron: no; configs/paper/: yes
    norm_weight_decay: bool = False  # whether scale and shift of trained normalisation layers decay
    clip_norm: float | None = within(None, 0, 1e12)  # gradients are scaled down to at most this norm; null: no limit
    log_every: int = within(20, 1, STEPS)  # steps between two log lines
    checkpoint_every: int = within(2_000, 1, STEPS)  # steps between two checkpoints
    keep_checkpoints: int = within(2, 1, COUNT)  # older ones are deleted
    # Steps between two evaluations on data.test (AP; for the RPN: AR); there is one more after the last step. null:
    # never. auto: so often that they take about a twentieth of the time; never without a test split
    evaluate_every: int | Literal["auto"] | None = within("auto", 1, STEPS)
    # Write the weights of the evaluation with the highest value of this figure. auto: AP; for the RPN, AR at the number
    # of proposals that the detector uses. null, or without evaluations: the last weights
    keep_best: str | None = "auto"
    patience: int | None = within(None, 1, COUNT)  # end after so many evaluations without an improvement; null: never
    # Decay of an exponential moving average of the weights, which is evaluated and written in their place. 0.999
    # averages over about the last thousand steps, fewer early in a run. null: no average
    ema: float | None = within(None, 0, 0.999_999)

    def contradictions(self, section: str) -> list[str]:
        """Contradictory settings in this section ("rpn.training"); see `Config.contradictions`."""
        found = []
        if list(self.milestones) != sorted(set(self.milestones)):
            found.append(f"{section}.milestones {self.milestones} must ascend")
        if self.schedule == "step" and self.milestones and min(self.milestones) >= self.steps:
            found.append(
                f"{section}.milestones {list(self.milestones)}: none lies below {section}.steps ({self.steps}), so the "
                f"learning rate would never fall; name earlier ones, or set {section}.schedule=cosine"
            )
        if self.schedule == "cosine" and self.warmup_steps >= self.steps:
            found.append(
                f"{section}.warmup_steps ({self.warmup_steps}) must lie below {section}.steps ({self.steps}); in a "
                f"short run set {section}.warmup_steps=0"
            )
        if self.nesterov and self.momentum == 0:
            found.append(f"{section}.nesterov needs a momentum above 0")
        if self.nesterov and self.optimizer == "adamw":
            found.append(f"{section}.nesterov belongs to sgd, and {section}.optimizer is adamw")
        if self.patience is not None and None in (self.keep_best, self.evaluate_every):
            found.append(
                f"{section}.patience counts evaluations without a better one: it needs {section}.evaluate_every and "
                f"{section}.keep_best"
            )
        if self.keep_best not in (None, "auto") and self.evaluate_every is None:
            found.append(
                f"{section}.keep_best: {self.keep_best} without {section}.evaluate_every: without evaluations no "
                "weights are the best"
            )
        return found


@dataclass(frozen=True)
class ProposalLimits:
    """Which of the RPN's boxes become proposals."""

    # the boxes with the highest scores of a level that go into NMS; null: all
    before_nms: int | None = within(6000, 1, COUNT)
    after_nms: int = within(300, 1, COUNT)  # at most this many proposals per image
    nms_iou: float = within(0.7, 0, 1)  # of two boxes with a higher IoU, only the one with the higher score is kept
    min_side: float = within(16.0, 0, SIDE)  # in pixels of the original image; smaller boxes are dropped before NMS


@dataclass(frozen=True)
class RPN:
    """The proposal network and its training."""

    # Square roots of the anchors' areas, in pixels of the resized image. On a pyramid they are distributed evenly over
    # the levels, the finest level first
    anchor_sizes: tuple[float, ...] = within((64, 128, 256, 512), 1, SIDE, most=100)
    anchor_ratios: tuple[float, ...] = within((0.5, 1.0, 2.0), 0.01, 100, most=100)  # height / width
    anchor_offset: float = within(0.5, 0, 1)  # of the anchor's centre from its cell's corner, as a share of the stride
    anchor_rounding: bool = False  # round anchors to whole pixels; with anchor_offset 0: torchvision's anchors
    channels: int = within(512, 1, CHANNELS)  # channels of the head's 3×3 convolution
    positive_iou: float = within(0.7, 0, 1)  # an anchor with at least this IoU with an object is positive …
    # … one below this IoU with all objects is negative; all others are ignored
    negative_iou: float = within(0.3, 0, 1)
    samples: int = within(256, 1, COUNT)  # anchors per image in the loss
    positive_share: float = within(0.5, 0, 1)  # the largest share of positive anchors in the samples
    # pixels by which trained anchors may cross the image's border; null: any number
    allowed_border: float | None = within(0.0, 0, SIDE)
    smooth_l1_beta: float = within(1 / 9, 1e-9, FACTOR)  # 1/9 is py-faster-rcnn's σ = 3
    box_loss: Literal["smooth_l1", "iou", "giou", "diou", "ciou"] = "smooth_l1"  # see fast_rcnn.box_loss
    box_loss_weight: float = within(1.0, 0, FACTOR)  # factor of the box loss
    # Negative anchors of which at least this share lies in a crowd region are ignored; null: none is ignored
    crowd_overlap: float | None = within(None, 0, 1)
    # The proposals that the Fast R-CNN is trained on.
    training_proposals: ProposalLimits = ProposalLimits(before_nms=None, after_nms=2000)
    test_proposals: ProposalLimits = ProposalLimits()
    training: Training = Training()

    def contradictions(self) -> list[str]:
        """Contradictory settings in this section; see `Config.contradictions`."""
        found = [
            f"rpn.{key}: at least one value is needed"
            for key in ("anchor_sizes", "anchor_ratios")
            if not getattr(self, key)
        ]
        if self.negative_iou > self.positive_iou:
            found.append(
                f"rpn.negative_iou ({self.negative_iou}) is above rpn.positive_iou ({self.positive_iou}): an anchor "
                "cannot be both"
            )
        return found


@dataclass(frozen=True)
class FastRCNN:
    """The region classifier, its training, and the thresholds of detections."""

    # The layers between the pooled region and the classifier. conv5: that stage of the backbone, with features=c4.
    # two_layers: two fully connected layers. four_convolutions: four 3×3 convolutions with GroupNorm and one fully
    # connected layer
    box_head: Literal["conv5", "two_layers", "four_convolutions"] = "conv5"
    # A cascade of box heads (Cai and Vasconcelos, CVPR 2018), each of which refines the boxes of the one before: the
    # positive_iou of each head after the first, [0.6, 0.7] in the paper. Boxes are then class-agnostic
    cascade: tuple[float, ...] = within((), 0, 1, most=10)
    box_head_width: int = within(1024, 1, CHANNELS)  # outputs of the fully connected layers
    box_head_channels: int = within(256, 1, WIDTH)  # channels of the four convolutions
    pooling: Literal["max", "align"] = "max"  # RoI max-pooling or RoIAlign
    pooled_size: int = within(14, 1, 1024)  # cells along a side of a pooled region; conv5 halves it
    sampling_ratio: int = within(2, 0, 1024)  # RoIAlign's samples along a bin's side; 0: adaptive
    positive_iou: float = within(0.5, 0, 1)  # a region with at least this IoU with an object is positive …
    background_low: float = within(0.0, 0, 1)  # … one with a lower IoU, but at least this, is background
    samples: int = within(64, 1, COUNT)  # regions per image in the loss
    positive_share: float = within(0.25, 0, 1)  # the largest share of positive regions in the samples
    # The regions in the loss. random: a random sample, with positive_share. ohem: those with the highest losses
    # (Shrivastava et al., CVPR 2016). Then the box head also runs on all proposals before each step, without gradients;
    # with conv5 and 2,000 proposals this takes longer than the rest of the step: lower rpn.training_proposals.after_nms
    sampling: Literal["random", "ohem"] = "random"
    # β of the class-balanced loss (Cui et al., CVPR 2019: 0.9 to 0.9999). A class with n objects in the training set
    # has the weight (1 − β) / (1 − βⁿ), scaled to a mean of 1; background has 1. null: all weights are 1
    class_balance: float | None = within(None, 0, 1 - 1e-9)
    # Box targets (x, y, width, height) are divided by these, …
    box_stds: tuple[float, float, float, float] = within((0.1, 0.1, 0.2, 0.2), 1e-9, FACTOR)
    # … after these are subtracted
    box_means: tuple[float, float, float, float] = within((0.0, 0.0, 0.0, 0.0), -FACTOR, FACTOR)
    # fixed: box_means and box_stds as stated; empirical: measured on the proposals of the training set
    box_statistics: Literal["fixed", "empirical"] = "fixed"
    smooth_l1_beta: float = within(1.0, 1e-9, FACTOR)  # the box loss is quadratic below this difference
    # smooth_l1: of the encoded boxes. iou, giou (Rezatofighi et al., CVPR 2019), diou, ciou (Zheng et al., AAAI 2020):
    # of the decoded boxes; mmdetection's faster-rcnn_r50_fpn_giou_1x_coco.py has box_loss_weight 10
    box_loss: Literal["smooth_l1", "iou", "giou", "diou", "ciou"] = "smooth_l1"
    box_loss_weight: float = within(1.0, 0, FACTOR)  # factor of the box loss
    # Background regions of which at least this share lies in a crowd region are ignored; null: none is ignored
    crowd_overlap: float | None = within(0.7, 0, 1)
    min_score: float = within(0.05, 0, 1)  # only detections with a higher score are kept
    # of two detections of a class with a higher IoU, the one with the higher score is kept
    nms_iou: float = within(0.3, 0, 1)
    # hard: a box whose IoU with one of a higher score exceeds nms_iou is dropped. linear, gaussian: its score is
    # lowered (Soft-NMS, Bodla et al., ICCV 2017); linear uses nms_iou, gaussian soft_nms_sigma
    nms: Literal["hard", "linear", "gaussian"] = "hard"
    soft_nms_sigma: float = within(0.5, 1e-9, FACTOR)  # of Soft-NMS, gaussian; 0.5 in section 5 of its paper
    soft_nms_min_score: float = within(0.001, 0, 1)  # Soft-NMS drops boxes with lower scores; as its authors' code
    nms_across_classes: bool = False  # NMS between boxes of different classes as well
    # Box voting: a detection becomes the mean, weighted by scores, of the boxes of its class with at least this IoU
    # (Gidaris and Komodakis, ICCV 2015; Detectron's TEST.BBOX_VOTE.VOTE_TH is 0.8). null: no voting
    box_voting_iou: float | None = within(None, 0, 1)
    detections: int = within(100, 1, COUNT)  # at most this many per image
    training: Training = Training(global_batch=8, images_per_device=1, learning_rate=0.005, learning_rate_batch=8)

    def contradictions(self) -> list[str]:
        """Contradictory settings in this section; see `Config.contradictions`."""
        found = []
        if self.background_low > self.positive_iou:
            found.append("fast_rcnn.background_low is above fast_rcnn.positive_iou: no region could be background")
        if self.cascade and self.sampling == "ohem":
            found.append(
                "fast_rcnn.sampling: ohem with fast_rcnn.cascade: a cascade's heads learn from one random sample; take "
                "one of the two"
            )
        if self.box_head == "conv5" and self.pooled_size < 2:
            found.append("fast_rcnn.pooled_size must be at least 2: conv5 halves it")
        return found


@dataclass(frozen=True)
class Runtime:
    """How a run is executed; these settings change its results only by rounding."""

    device: Literal["auto", "cpu", "cuda"] = "auto"  # auto: a GPU if there is one
    # Of the training, by autocast; weights stay float32. bf16 on a CPU needs a processor with instructions for it, fp16
    # a GPU. auto: on a CPU bf16 if a measurement shows that it is faster with a small error, otherwise fp32; the choice
    # is kept in the checkpoints, and evaluations during the training use fp32. On a GPU, auto is fp32. Detector,
    # tools/eval_coco.py and tools/predict.py use auto on a CPU by default, see detection/training/precision.py
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "fp32"
    channels_last: bool = True  # memory layout of the networks: NHWC, which is usually faster
    # torch.compile of the backbones in training; on a CPU without conv5, which is executed in parts there
    compile: bool = False
    # Grouped convolutions on a GPU, without torch.compile. library: cuDNN; fastest: the fastest implementation as
    # measured, see backbones/grouped
    grouped_convolutions: Literal["library", "fastest"] = "library"
    # Functions with several implementations (RoI pooling, NMS …). fastest: the fastest one for the device; plain:
    # standard PyTorch and torchvision operators. See detection/kernels
    kernels: Literal["fastest", "plain"] = "fastest"
    workers: int = within(2, 0, PROCESSES)  # processes that read images, per device
    test_batch: int = within(1, 1, COUNT)  # images per batch when proposals are computed and in evaluations
    deterministic: bool = False  # every run gives the same bits; slower on a GPU
    tensorboard: bool = True  # log curves, and images of the evaluations, to TensorBoard
    # Further loggers, each with its own package and its own environment variables (WANDB_MODE, MLFLOW_TRACKING_URI …)
    loggers: tuple[Literal["wandb", "mlflow", "trackio"], ...] = ()
    timeout_minutes: float = within(30.0, 0.01, 100_000)  # how long a process waits for another one, or for a batch

    def contradictions(self) -> list[str]:
        """Contradictory settings in this section; see `Config.contradictions`."""
        if self.deterministic and self.grouped_convolutions == "fastest":
            return [
                "runtime.deterministic and runtime.grouped_convolutions=fastest: which one is fastest is measured anew "
                "in each run, and each rounds in its own way; leave one of the two out"
            ]
        return []


@dataclass(frozen=True)
class Config:
    """A whole experiment: both networks, their data and their training."""

    name: str = "unnamed"  # the run's name
    output: str | None = None  # folder for everything that is written; null: runs/<name>
    seed: int = within(0, 0, 2**62)  # for initial weights, samples and augmentation
    # Fine-tuning: a detector.pt of this project (or an rpn.pt or fastrcnn.pt, for that network) to start from, in place
    # of backbone.weights. Its classes may differ; those with the same name are kept. null: none
    init_from: str | None = None
    data: Data = Data()
    backbone: Backbone = Backbone()
    rpn: RPN = RPN()
    fast_rcnn: FastRCNN = FastRCNN()
    runtime: Runtime = Runtime()

    def contradictions(self) -> list[str]:
        """Contradictory settings, each in words; empty if there are none. Each single value was checked before."""
        return [
            *self.runtime.contradictions(),
            *self.data.contradictions(),
            *self.rpn.contradictions(),
            *self.fast_rcnn.contradictions(),
            *self._contradictions_of_networks(),
            *self.rpn.training.contradictions("rpn.training"),
            *self.fast_rcnn.training.contradictions("fast_rcnn.training"),
        ]

    def _contradictions_of_networks(self) -> list[str]:
        """Those between the sections of the backbone, the two networks, and where their weights come from."""
        found = []
        if self.backbone.features == "pyramid":
            if self.fast_rcnn.box_head == "conv5":
                found.append(
                    "fast_rcnn.box_head: conv5 runs on C4; with backbone.features=pyramid take two_layers or "
                    "four_convolutions"
                )
            levels = PYRAMID_COARSEST + 1 - self.backbone.pyramid_finest
            if len(self.rpn.anchor_sizes) % levels:
                found.append(
                    f"rpn.anchor_sizes: {len(self.rpn.anchor_sizes)} sizes for {levels} levels of a pyramid; "
                    "name as many for each level, finest first"
                )
        from_scratch = self.backbone.weights is None and self.init_from is None
        if from_scratch and self.backbone.freeze is not None:
            found.append(
                f"backbone.freeze: {self.backbone.freeze} without backbone.weights would keep random filters for ever; "
                "name the weights, or set backbone.freeze=null"
            )
        if from_scratch and self.backbone.norm == "frozen":
            found.append(
                "backbone.norm: frozen without backbone.weights has no statistics to keep; name the weights, "
                "or set backbone.norm=batch or group"
            )
        return found
