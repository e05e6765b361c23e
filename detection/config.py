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

    # Shows in reports and file names; for `data.layout: coco` it says which of COCO's splits, for `auto` which of those
    # that are found (train, val, test, trainval). With `auto`, test is the set's test split, or else val.
    name: str = "train"
    # The labels, relative to data.root: a COCO or CSV file, a data.yaml, or a folder of Pascal VOC or YOLO files. null:
    # those that data.layout says
    annotations: str | None = None
    images: str | None = None  # folder that the labels' image names are relative to, relative to data.root
    limit: int | None = within(None, 1, STEPS)  # only the first `limit` images, for experiments


@dataclass(frozen=True)
class Division:
    """A set of images that comes in one piece, divided into data.train and data.test: by class, and for the same seed
    and the same file names always alike."""

    test: float | None = within(None, 0.001, 0.999)  # share of the images that data.test gets; null: not divided
    seed: int = within(0, 0, 2**62)  # another seed draws other images


@dataclass(frozen=True)
class Data:
    """The location of the images, and their preprocessing."""

    root: str = "data"  # folder of the data set; other paths under data are relative to it
    # auto: found out from what data.root holds, see docs/data.md. files: labels and folders as the splits name them.
    # coco: COCO's own folder layout, 2017 or 2014. demo: drawn by the project where missing.
    layout: Literal["auto", "files", "coco", "demo"] = "auto"
    # The format of the labels where data.root holds several, or it is not recognised; auto: found out. images: a folder
    # without labels, to detect on
    format: Literal["auto", "coco", "yolo", "voc", "csv", "images"] = "auto"
    train: Split = Split("train")
    test: Split = Split("test")
    split: Division = Division()
    # Names of the classes by their numbers, for YOLO labels without a list of names; further classes for VOC and CSV
    classes: tuple[str, ...] = ()
    # VOC and CSV corners: 1: pixels count from 1 and both corners lie in the box, as VOC documents; 0: they are edges;
    # null: 1, unless a corner is at 0 or at a fraction of a pixel
    first_pixel: int | None = within(None, 0, 1)
    # Train on images without objects too, as background: every anchor and region in them is a negative. false: leave
    # them out, as py-faster-rcnn does
    keep_empty: bool = False
    # Training images of rare classes are repeated: a class in a share f of the images has the repeat factor
    # √(this / f), if that is above 1, and an image the largest of its classes (LVIS: 0.001). null: no image is
    repeat_threshold: float | None = within(None, 1e-9, 1)
    # The index of a large set is kept in ~/.cache/resnext_detection/indices (or below RESNEXT_CACHE), and opened from
    # there as long as labels and image folders stay as they are, see docs/data.md
    cache: bool = True
    skip_missing: bool = False  # listed images without a file are left out and counted; false: they refuse the set
    # Training: a damaged image is replaced by another one; one whose size nothing states is left out. false: it stops
    # the run
    skip_unreadable: bool = False
    # Training: the shorter side is scaled to one of these, drawn for each image …
    shorter_sides: tuple[int, ...] = within((600,), 1, SIDE)
    longer_side: int = within(1000, 1, SIDE)  # … unless the longer side would exceed this
    test_shorter_side: int = within(600, 1, SIDE)  # evaluation and detection: the shorter side is scaled to this …
    test_longer_side: int = within(1000, 1, SIDE)  # … unless the longer side would exceed this
    # Training, large-scale jitter (Ghiasi et al. 2021): instead of the two keys above, the image is resized to a random
    # multiple in this range, [0.1, 2.0], of the largest size that fits into a square of `scale_jitter_side`, and a
    # random window of at most this square is taken. null: none
    scale_jitter: tuple[float, float] | None = within(None, 0.01, 10)
    scale_jitter_side: int = within(1024, 1, SIDE)  # pixels
    # Test-time augmentation: also detect at these shorter sides (the longer side is limited in proportion), and at each
    # side in the image flipped horizontally; one suppression merges all (Detectron: TEST.BBOX_AUG.SCALES, H_FLIP and
    # SCALE_H_FLIP). The time grows with the number of pixels; proposals are stored and their recall measured without.
    test_scales: tuple[int, ...] = within((), 1, SIDE, most=20)
    test_flip: bool = False  # also in each image flipped horizontally
    horizontal_flip: float = within(0.5, 0, 1)  # probability
    vertical_flip: float = within(0.0, 0, 1)  # probability
    # A pipeline of albumentations, applied before the resize: [{name: RandomBrightnessContrast, p: 0.5}, …]
    albumentations: tuple[dict[str, Any], ...] = ()
    group_by_aspect: bool = True  # batches hold either portrait or landscape images: less padding
    size_divisor: int = within(32, 1, 1024)  # padded sides are multiples of this


@dataclass(frozen=True)
class Backbone:
    """The ResNeXt backbone; each of the two networks has its own."""

    name: str = "resnext50_32x4d"  # `python -m backbones` lists them
    weights: str | None = None  # a name from the table of sources, a URL or a file; null starts from scratch
    # frozen: BN statistics fixed, as the paper does; batch or group to train from scratch; sync_batch: batch, with
    # statistics over all GPUs (torch's SyncBatchNorm)
    norm: Literal["frozen", "batch", "sync_batch", "group"] = "frozen"
    # The features that the two networks use. c4: the map of that stage, with conv5 on each region. pyramid: a feature
    # pyramid of the network's own, to p6 for the RPN and to p5 for the Fast R-CNN (Lin et al., CVPR 2017)
    features: Literal["c4", "pyramid"] = "c4"
    # The pyramid's finest level: 2 has a stride of 4. Without it (3), small images take about half the time.
    pyramid_finest: int = within(2, 2, 4)
    pyramid_width: int = within(256, 1, WIDTH)  # channels of each level
    pyramid_norm: Literal["none", "batch", "sync_batch", "group"] = "none"  # others than none to train from scratch
    # No gradients up to and including this stage (Detectron: conv1 and conv2_x)
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

    global_batch: int = within(16, 1, BATCH)  # images a step, over all devices
    # Images that one device holds at once; the rest of its share is accumulated.
    images_per_device: int = within(2, 1, COUNT)
    learning_rate: float = within(0.02, 0, FACTOR)  # at most, after the warm-up
    # The rate above is for this global batch; with another global_batch it is scaled in proportion. null: the rate is
    # not scaled.
    learning_rate_batch: int | None = within(16, 1, COUNT)
    steps: int = within(180_000, 1, STEPS)  # updates of the weights
    milestones: tuple[int, ...] = within((120_000,), 1, STEPS)  # steps at which the rate is multiplied by `decay`
    decay: float = within(0.1, 0, 1)  # at each milestone
    schedule: Literal["step", "cosine"] = "step"  # step: by `milestones`; cosine: falls to 0 with the last step
    warmup_steps: int = within(0, 0, STEPS)  # the rate rises linearly from warmup_factor × itself
    warmup_factor: float = within(1 / 3, 0, 1)  # where the warm-up begins
    # sgd: with `momentum`; adamw: Adam with decoupled weight decay and `betas`
    optimizer: Literal["sgd", "adamw"] = "sgd"
    betas: tuple[float, float] = within((0.9, 0.999), 0, 0.999_999)  # AdamW's
    # Each stage of the backbone has this times the learning rate of the next one (conv1, conv2_x … conv5_x, then all
    # other layers, which have the whole rate); 1: the same for all
    layer_decay: float = within(1.0, 0.01, 1)
    # Parameters that are not trained, by patterns of their names with * and ?: ["head.*", "*.layer2.*"]. (Running
    # statistics of batch normalisation still change; backbone.norm=frozen fixes them.)
    freeze: tuple[str, ...] = ()
    momentum: float = within(0.9, 0, 1)  # SGD's
    nesterov: bool = False  # Nesterov's form of the momentum
    weight_decay: float = within(1e-4, 0, FACTOR)  # of weights; biases and normalisation see below
    bias_lr_factor: float = within(2.0, 0, FACTOR)  # py-faster-rcnn: biases have twice the learning rate …
    bias_weight_decay: bool = False  # … and do not decay (Detectron); in configs/paper/ they do
    norm_weight_decay: bool = False  # scale and shift of trainable normalisation layers
    clip_norm: float | None = within(None, 0, 1e12)  # the gradient's norm is limited to this; null: it is not
    log_every: int = within(20, 1, STEPS)  # steps between two lines of the log
    checkpoint_every: int = within(2_000, 1, STEPS)  # steps
    keep_checkpoints: int = within(2, 1, COUNT)  # older ones are deleted
    # AP (for the RPN: AR) on data.test every so many steps, and after the last; null: never. auto: about a twentieth of
    # the time is spent on it (`detection/experiment/evaluation_interval.py`), and none where data.test names no files
    evaluate_every: int | Literal["auto"] | None = within("auto", 1, STEPS)
    # The weights that are written: those of the evaluation with the highest value of this figure. auto: AP, and for the
    # RPN the AR of as many proposals as a detector takes; null, or no evaluation: the last weights
    keep_best: str | None = "auto"
    patience: int | None = within(None, 1, COUNT)  # stop after so many evaluations without a better one; null: never
    # Decay of the exponential moving average of the weights, which is evaluated and written in place of them (0.999:
    # over the last thousand steps or so; early in a run over fewer); null: no average
    ema: float | None = within(None, 0, 0.999_999)


@dataclass(frozen=True)
class ProposalLimits:
    """Which of the RPN's boxes become proposals."""

    before_nms: int | None = within(6000, 1, COUNT)  # best boxes of a level that go into NMS; null: all
    after_nms: int = within(300, 1, COUNT)  # proposals of an image at most
    nms_iou: float = within(0.7, 0, 1)  # of two boxes that overlap more, the better one stays
    min_side: float = within(16.0, 0, SIDE)  # in pixels of the original image; smaller boxes are dropped first


@dataclass(frozen=True)
class RPN:
    """The proposal network and its training."""

    # Square roots of the areas, in pixels of the network's input; with several levels, as many for each, finest first.
    anchor_sizes: tuple[float, ...] = within((64, 128, 256, 512), 1, SIDE, most=100)
    anchor_ratios: tuple[float, ...] = within((0.5, 1.0, 2.0), 0.01, 100, most=100)  # height / width
    anchor_offset: float = within(0.5, 0, 1)  # of an anchor's centre in its cell, as a share of the stride
    anchor_rounding: bool = False  # to whole pixels; with an offset of 0: torchvision's anchors
    channels: int = within(512, 1, CHANNELS)  # of the head's 3×3 convolution
    positive_iou: float = within(0.7, 0, 1)  # an anchor with at least this IoU with an object is positive …
    # … one below this with all objects is negative; between them, it is ignored
    negative_iou: float = within(0.3, 0, 1)
    samples: int = within(256, 1, COUNT)  # anchors of an image in the loss
    positive_share: float = within(0.5, 0, 1)  # of the samples, at most
    allowed_border: float | None = within(0.0, 0, SIDE)  # null: also train anchors that cross the image's border
    smooth_l1_beta: float = within(1 / 9, 1e-9, FACTOR)  # σ = 3
    box_loss: Literal["smooth_l1", "iou", "giou", "diou", "ciou"] = "smooth_l1"  # as the Fast R-CNN's
    box_loss_weight: float = within(1.0, 0, FACTOR)  # times the box loss
    # Negative anchors that lie in a crowd region by this share are ignored; null: none is
    crowd_overlap: float | None = within(None, 0, 1)
    # The proposals that the Fast R-CNN is trained on.
    training_proposals: ProposalLimits = ProposalLimits(before_nms=None, after_nms=2000)
    test_proposals: ProposalLimits = ProposalLimits()
    training: Training = Training()


@dataclass(frozen=True)
class FastRCNN:
    """The region classifier, its training, and the thresholds of detections."""

    # Computes a vector for each region. conv5: that stage of the network, on C4. two_layers: two fully connected
    # layers. four_convolutions: four 3×3 convolutions with GroupNorm and one fully connected layer
    box_head: Literal["conv5", "two_layers", "four_convolutions"] = "conv5"
    # A cascade of box heads (Cai and Vasconcelos, CVPR 2018): positive_iou of each head after the first, each of which
    # refines the boxes of the one before; the paper's are [0.6, 0.7]. Its boxes are the same for all classes
    cascade: tuple[float, ...] = within((), 0, 1, most=10)
    box_head_width: int = within(1024, 1, CHANNELS)  # of the fully connected layers
    box_head_channels: int = within(256, 1, WIDTH)  # of the four convolutions
    pooling: Literal["max", "align"] = "max"  # RoI max-pooling or RoIAlign
    pooled_size: int = within(14, 1, 1024)  # conv5 halves it
    sampling_ratio: int = within(2, 0, 1024)  # RoIAlign's samples along a bin's side; 0: adaptive
    positive_iou: float = within(0.5, 0, 1)  # a region with at least this IoU with an object is positive …
    background_low: float = within(0.0, 0, 1)  # … one below that, but at least this, is background
    samples: int = within(64, 1, COUNT)  # regions of an image in the loss
    positive_share: float = within(0.25, 0, 1)  # of the samples, at most
    # The regions that the losses are taken over. random: a draw, with positive_share. ohem: those with the highest
    # losses of all (Shrivastava et al., CVPR 2016). Before each step the box head then runs on all proposals, without
    # gradients, which takes the time of that forward pass and the memory of its largest map; conv5 on 2,000 proposals
    # takes longer than the rest of the step: lower rpn.training_proposals.after_nms there
    sampling: Literal["random", "ohem"] = "random"
    # β of the class-balanced loss (Cui et al., CVPR 2019: 0.9 to 0.9999): a class of n objects in the training set has
    # the weight (1 − β) / (1 − βⁿ), scaled to a mean of 1; the background has 1. null: every class has 1
    class_balance: float | None = within(None, 0, 1 - 1e-9)
    # Box targets (x, y, width, height) are divided by these, …
    box_stds: tuple[float, float, float, float] = within((0.1, 0.1, 0.2, 0.2), 1e-9, FACTOR)
    # … after these were subtracted
    box_means: tuple[float, float, float, float] = within((0.0, 0.0, 0.0, 0.0), -FACTOR, FACTOR)
    # Empirical: means and stds measured on the training set's proposals (alternating training).
    box_statistics: Literal["fixed", "empirical"] = "fixed"
    smooth_l1_beta: float = within(1.0, 1e-9, FACTOR)  # below this difference the box loss is quadratic
    # iou, giou (Rezatofighi et al., CVPR 2019), diou, ciou (Zheng et al., AAAI 2020): of the decoded boxes. Their
    # weight in mmdetection's faster-rcnn_r50_fpn_giou_1x_coco.py is 10
    box_loss: Literal["smooth_l1", "iou", "giou", "diou", "ciou"] = "smooth_l1"
    box_loss_weight: float = within(1.0, 0, FACTOR)  # times the box loss
    # Background regions that lie in a crowd region by this share are ignored; null: none is
    crowd_overlap: float | None = within(0.7, 0, 1)
    min_score: float = within(0.05, 0, 1)  # detections of a lower score are dropped
    nms_iou: float = within(0.3, 0, 1)  # of two detections of a class that overlap more, the better one stays
    # hard: a box that overlaps a better one by more than nms_iou is dropped. linear, gaussian: its score is lowered
    # (Soft-NMS, Bodla et al., ICCV 2017); linear uses nms_iou, gaussian the sigma
    nms: Literal["hard", "linear", "gaussian"] = "hard"
    soft_nms_sigma: float = within(0.5, 1e-9, FACTOR)  # the paper's section 5
    soft_nms_min_score: float = within(0.001, 0, 1)  # below it a lowered score is dropped; the authors' code
    nms_across_classes: bool = False  # one box a place, whatever its class
    # A detection becomes the mean of the boxes of its class that overlap it this much, weighted by their scores
    # (Gidaris and Komodakis, ICCV 2015; Detectron's TEST.BBOX_VOTE.VOTE_TH is 0.8). null: it stays as it is
    box_voting_iou: float | None = within(None, 0, 1)
    detections: int = within(100, 1, COUNT)  # at most this many an image
    training: Training = Training(global_batch=8, images_per_device=1, learning_rate=0.005, learning_rate_batch=8)


@dataclass(frozen=True)
class Runtime:
    """How a run is executed; these settings change its results only by rounding."""

    device: Literal["auto", "cpu", "cuda"] = "auto"  # auto: a GPU if there is one
    # Of a training, by autocast; weights are float32. bf16 on a CPU needs a processor with instructions for it, fp16 a
    # GPU. auto: on a CPU fp32 or, if it is measured to be faster within a stated error, bf16; kept in the run's
    # checkpoints; the evaluations during it are fp32. On a GPU it is fp32. The Detector, tools/eval_coco.py and
    # tools/predict.py take auto on a CPU unless they are told a precision, see detection/training/precision.py
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "fp32"
    channels_last: bool = True  # memory order of the networks: NHWC, usually the faster one
    # torch.compile of the backbones, in training; on a CPU only of the trunk, since conv5 is executed in parts there
    compile: bool = False
    # On a GPU without torch.compile. library: cuDNN; fastest: the fastest by measurement, see backbones/grouped
    grouped_convolutions: Literal["library", "fastest"] = "library"
    # Functions that have several forms (RoI pooling, NMS …). fastest: the fastest form for the device; plain: standard
    # PyTorch and torchvision operators. See detection/kernels
    kernels: Literal["fastest", "plain"] = "fastest"
    workers: int = within(2, 0, PROCESSES)  # processes that read images, for each device
    test_batch: int = within(1, 1, COUNT)  # images in a batch when proposing and evaluating
    deterministic: bool = False  # bitwise the same results from run to run; slower on a GPU
    tensorboard: bool = True  # curves, and images of the evaluations
    # Further loggers, each with its own package and its own environment variables (WANDB_MODE, MLFLOW_TRACKING_URI …)
    loggers: tuple[Literal["wandb", "mlflow", "trackio"], ...] = ()
    timeout_minutes: float = within(30.0, 0.01, 100_000)  # how long a rank waits for another, or for a batch

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

    name: str = "unnamed"  # of the run; its folder is runs/<name>
    output: str | None = None  # folder of everything that is written; null: runs/<name>
    seed: int = within(0, 0, 2**62)  # of initial weights, samples and augmentation
    # A detector.pt of this project (or rpn.pt, fastrcnn.pt for the one network) whose weights both networks start from
    # instead of backbone.weights. Its classes may be others: those of the same name are kept. null: no such file
    init_from: str | None = None
    data: Data = Data()
    backbone: Backbone = Backbone()
    rpn: RPN = RPN()
    fast_rcnn: FastRCNN = FastRCNN()
    runtime: Runtime = Runtime()

    def contradictions(self) -> list[str]:
        """Contradictory settings, each in words; empty if there are none. Each single value was checked before."""
        found = self.runtime.contradictions()
        for key, values in (
            ("data.shorter_sides", self.data.shorter_sides),
            ("rpn.anchor_sizes", self.rpn.anchor_sizes),
            ("rpn.anchor_ratios", self.rpn.anchor_ratios),
        ):
            if not values:
                found.append(f"{key}: at least one value is needed")
        if self.data.scale_jitter is not None and self.data.scale_jitter[0] > self.data.scale_jitter[1]:
            found.append(f"data.scale_jitter: the range {list(self.data.scale_jitter)} must ascend")
        for transform in self.data.albumentations:
            if not isinstance(transform.get("name"), str):
                found.append(
                    "data.albumentations: each transform needs a `name`, as in [{name: HorizontalFlip, p: 0.5}, …]"
                )
                break
        if self.rpn.negative_iou > self.rpn.positive_iou:
            found.append(
                f"rpn.negative_iou ({self.rpn.negative_iou}) is above rpn.positive_iou ({self.rpn.positive_iou}): "
                "an anchor cannot be both"
            )
        if self.fast_rcnn.background_low > self.fast_rcnn.positive_iou:
            found.append("fast_rcnn.background_low is above fast_rcnn.positive_iou: no region could be background")
        if self.fast_rcnn.cascade and self.fast_rcnn.sampling == "ohem":
            found.append(
                "fast_rcnn.sampling: ohem with fast_rcnn.cascade: a cascade's heads learn from one random sample; take "
                "one of the two"
            )
        if self.data.test_shorter_side in self.data.test_scales:
            found.append(
                f"data.test_scales: {self.data.test_shorter_side} is data.test_shorter_side; name further ones alone"
            )
        if self.fast_rcnn.box_head == "conv5" and self.fast_rcnn.pooled_size < 2:
            found.append("fast_rcnn.pooled_size must be at least 2: conv5 halves it")
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
        for name, training in (("rpn", self.rpn.training), ("fast_rcnn", self.fast_rcnn.training)):
            if list(training.milestones) != sorted(set(training.milestones)):
                found.append(f"{name}.training.milestones {training.milestones} must ascend")
            if training.schedule == "step" and training.milestones and min(training.milestones) >= training.steps:
                found.append(
                    f"{name}.training.milestones {list(training.milestones)}: none lies below {name}.training.steps "
                    f"({training.steps}), so the learning rate would never fall; name earlier ones, or set "
                    f"{name}.training.schedule=cosine"
                )
            if training.schedule == "cosine" and training.warmup_steps >= training.steps:
                found.append(
                    f"{name}.training.warmup_steps ({training.warmup_steps}) must lie below {name}.training.steps "
                    f"({training.steps}); in a short run set {name}.training.warmup_steps=0"
                )
            if training.nesterov and training.momentum == 0:
                found.append(f"{name}.training.nesterov needs a momentum above 0")
            if training.nesterov and training.optimizer == "adamw":
                found.append(f"{name}.training.nesterov belongs to sgd, and {name}.training.optimizer is adamw")
            if training.patience is not None and None in (training.keep_best, training.evaluate_every):
                found.append(
                    f"{name}.training.patience counts evaluations without a better one: it needs "
                    f"{name}.training.evaluate_every and {name}.training.keep_best"
                )
            if training.keep_best not in (None, "auto") and training.evaluate_every is None:
                found.append(
                    f"{name}.training.keep_best: {training.keep_best} without {name}.training.evaluate_every: without "
                    "evaluations no weights are the best"
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
        splits = {"train": self.data.train, "test": self.data.test}
        if self.data.layout == "files" and not any(split.annotations or split.images for split in splits.values()):
            found.append(
                "data.layout: files needs `annotations` and `images` of data.train and data.test, where they are used"
            )
        if self.data.split.test is not None and self.data.layout in ("coco", "demo"):
            found.append(f"data.split: data.layout={self.data.layout} has splits of its own; leave data.split out")
        if self.data.split.test is not None and (self.data.test.annotations or self.data.test.images):
            found.append(
                "data.split and data.test.annotations: data.test is either a part of data.train's labels or has labels "
                "of its own; leave one of the two out"
            )
        for which, split in splits.items():
            if split.name in ("", ".", "..") or re.search(r"[/\\\x00-\x1f]", split.name):
                found.append(f"data.{which}.name: {split.name!r} is to be part of files' names: leave out slashes")
        return found
