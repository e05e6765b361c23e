"""The table of public weights: the network of each file, its URL, its checksum, and the input format that it expects.

One row per file. In all of them the stride is in the 3×3 convolution. Accuracies are the sources' own: torchvision's
and timm's published results at the image size given, and 100 minus the paper's top-1 error.

Checksums are published ones: torchvision puts the first digits into the file's name, and the Hugging Face hub states
the complete SHA-256 of each file (where its rows have none, it was not available when the table was made). The others
publish none; the digits in OpenMMLab's names are not documented as a checksum.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..common.errors import UserError
from ..common.names import nearest_name
from ..input_format import IMAGENET, InputFormat

SHIPPED = Path(__file__).parent / "builtin"
"""The folder of the weights that ship with the project."""

DETECTRON = InputFormat("bgr", 255.0, (102.9801, 115.9465, 122.7717), (1.0, 1.0, 1.0))
"""Detectron's pickles, and Caffe before them."""

DETECTRON2_RESNEXT = InputFormat("bgr", 255.0, (103.53, 116.28, 123.675), (57.375, 57.12, 58.395))
"""detectron2's X-101-32x8d: ImageNet's mean in bytes, and a standard deviation of its own."""

OPENMMLAB = InputFormat("rgb", 255.0, (123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
"""ImageNet's convention in bytes."""


@dataclass(frozen=True)
class Source:
    """A file of weights.

    Attributes:
        name: the name that a user writes: "timm/gluon_in1k". Several networks may have the same one.
        variant: the network it is for: "resnext101_32x4d".
        url: its address; None for a file that ships with the project, in `SHIPPED`.
        sha256: all 64 digits of its SHA-256 or the first ones; None if none is published.
        input_format: the input format that it expects.
        licence: of the weights.
        top1: top-1 accuracy on ImageNet-1K's validation set in per cent, single centre crop, as its source states it.
        image_size: side of that crop in pixels.
        fused_norm: whether BN is fused into scale and bias, so that it stays frozen.
    """

    name: str
    variant: str
    url: str | None
    sha256: str | None
    input_format: InputFormat
    licence: str
    top1: float | None = None
    image_size: int = 224
    fused_norm: bool = False

    @property
    def non_commercial(self) -> bool:
        """Whether the licence forbids commercial use."""
        return "NC" in self.licence

    @property
    def file_name(self) -> str:
        """The file's name in the cache, below a folder for its provider."""
        if self.url is None:
            return f"{self.variant}.safetensors"
        base = self.url.rpartition("/")[2]
        # On the Hugging Face hub, the file has the same name in every model.
        return f"{self.url.split('/')[4]}.{base}" if self.name.startswith("timm/") else base

    def describe(self) -> str:
        """One line for people: name, accuracy and licence."""
        accuracy = f"top-1 {self.top1:.1f} % at {self.image_size} px, " if self.top1 is not None else ""
        norm = "BN fused (frozen only), " if self.fused_norm else ""
        licence = self.licence + (", NON-COMMERCIAL USE ONLY" if self.non_commercial else "")
        checked = "" if self.sha256 else ", no published checksum"
        return f"{self.name} for {self.variant}: {accuracy}{norm}licence {licence}{checked}"


def _torchvision(version: int, variant: str, digits: str, top1: float) -> Source:
    url = f"https://download.pytorch.org/models/{variant}-{digits}.pth"
    return Source(f"torchvision/IMAGENET1K_V{version}", variant, url, digits, IMAGENET, "BSD-3-Clause", top1)


def _timm(
    tag: str, variant: str, sha256: str | None, top1: float, image_size: int = 224, file: str = "model.safetensors"
) -> Source:
    url = f"https://huggingface.co/timm/{variant}.{tag}/resolve/main/{file}"
    licence = "BSD-3-Clause" if tag.startswith("tv") else "CC BY-NC 4.0" if tag.startswith("fb_") else "Apache-2.0"
    return Source(f"timm/{tag}", variant, url, sha256, IMAGENET, licence, top1, image_size)


def _builtin(variant: str, sha256: str) -> Source:
    return Source("builtin/tiny_imagenet", variant, None, sha256, IMAGENET, "MIT, trained on ImageNet images", None, 80)


def _paper(name: str, top1: float) -> Source:
    url = f"https://dl.fbaipublicfiles.com/resnext/imagenet_models/{name}.t7"
    variant = name.replace("resnext_", "resnext")
    return Source(f"facebookresearch/{name}", variant, url, None, IMAGENET, "CC BY-NC 4.0", top1)


def _detectron(path: str, variant: str) -> Source:
    url = f"https://dl.fbaipublicfiles.com/detectron/ImageNetPretrained/{path}"
    name = "detectron/" + path.rpartition("/")[2].removesuffix(".pkl")
    return Source(name, variant, url, None, DETECTRON, "not stated", fused_norm=True)


def _openmmlab(file: str, variant: str, input_format: InputFormat = OPENMMLAB) -> Source:
    url = f"https://download.openmmlab.com/pretrain/third_party/{file}.pth"
    return Source(f"openmmlab/{variant}", variant, url, None, input_format, "not stated")


# A network's first row is its default.
SOURCES: tuple[Source, ...] = (
    _builtin("resnext14_8x16d_small", "f9a2160c709a1d3f45252be2c84429d0144efdf875108ea29a62571dede609a3"),
    _torchvision(1, "resnet50", "0676ba61", 76.130),
    _torchvision(2, "resnet50", "11ad3fa6", 80.858),
    _torchvision(1, "resnet101", "63fe2227", 77.374),
    _torchvision(2, "resnet101", "cd907fc2", 81.886),
    _torchvision(1, "resnet152", "394f9c45", 78.312),
    _torchvision(2, "resnet152", "f82ba261", 82.284),
    _torchvision(1, "resnext50_32x4d", "7cdf4587", 77.618),
    _torchvision(2, "resnext50_32x4d", "1a0047aa", 81.198),
    _timm("gluon_in1k", "resnext50_32x4d", None, 79.360),
    _timm("tv_in1k", "resnext50_32x4d", "c0d85cba49c0e9dedbcf6d4e572e2c5ea5eb68e9d64d0564811fd54d4f72939a", 77.618),
    _timm("tv2_in1k", "resnext50_32x4d", None, 81.182),
    _timm(
        "a1h_in1k", "resnext50_32x4d", "b952952a7b3e856b16ebf82fb44d2aa8c502e73ec678976c9e3b970fcd530bd5", 82.014, 288
    ),
    _timm(
        "a1_in1k", "resnext50_32x4d", "3bdd3da9410ed4f6b3815e699eac06d61b66d8ecabb8d0a8cb776c6c7840ad8f", 81.466, 288,
        file="pytorch_model.bin",
    ),
    _timm(
        "a2_in1k", "resnext50_32x4d", "4b4522bcca81d90e486f8cfb92213597b899d68764ce5fc08db37e3352e02a7d", 81.304, 288
    ),
    _timm("a3_in1k", "resnext50_32x4d", "55480d1612cf33904614f2a3891a0853022cb78c95a3ad734e185ae6575ee545", 79.268),
    _timm("ra_in1k", "resnext50_32x4d", None, 80.698, 288),
    _timm("fb_ssl_yfcc100m_ft_in1k", "resnext50_32x4d", None, 80.338),
    _timm("fb_swsl_ig1b_ft_in1k", "resnext50_32x4d", None, 82.174),
    _paper("resnext_50_32x4d", 77.8),
    _openmmlab("resnext50-32x4d-0ab1a123", "resnext50_32x4d"),
    # torchvision has no 101_32x4d, the network of the paper's detection results.
    _timm("gluon_in1k", "resnext101_32x4d", "fe0599be8d1841a4eac53668d059e3e11b3ec968047de658153c5df61421b0d7", 80.340),
    _timm("fb_ssl_yfcc100m_ft_in1k", "resnext101_32x4d", None, 80.924),
    _timm("fb_swsl_ig1b_ft_in1k", "resnext101_32x4d", None, 83.232),
    _paper("resnext_101_32x4d", 78.8),
    _openmmlab("resnext101_32x4d-a5af3160", "resnext101_32x4d"),
    _torchvision(1, "resnext101_64x4d", "173b62eb", 83.246),
    _timm("c1_in1k", "resnext101_64x4d", None, 83.156, 288),
    _timm("tv_in1k", "resnext101_64x4d", "47528f24e5cd6844249c9e4ea11aed6619431b83a0596afe80efdfffdb369900", 82.992),
    _timm(
        "gluon_in1k", "resnext101_64x4d", "d0eaf4688b88dbf6c2b1c22a74354672658b17a891ad71250194b5ef597e9e8f", 80.600,
        file="pytorch_model.bin",
    ),
    _paper("resnext_101_64x4d", 79.6),
    _detectron("FBResNeXt/X-101-64x4d.pkl", "resnext101_64x4d"),
    _openmmlab("resnext101_64x4d-ee2c6f71", "resnext101_64x4d"),
    _torchvision(1, "resnext101_32x8d", "8ba56ff5", 79.312),
    _torchvision(2, "resnext101_32x8d", "110c445d", 82.834),
    _timm("tv_in1k", "resnext101_32x8d", "71c7427e233904ad828b768b9683876dc71f143876cbadaa26428bfea3560fc3", 79.310),
    _timm("tv2_in1k", "resnext101_32x8d", "580cfe940c344745cc8a629517a5c3300b6aeea9bd88a258f61027da010344af", 82.832),
    _timm("fb_ssl_yfcc100m_ft_in1k", "resnext101_32x8d", None, 81.606),
    _timm("fb_swsl_ig1b_ft_in1k", "resnext101_32x8d", None, 84.302),
    _timm("fb_wsl_ig1b_ft_in1k", "resnext101_32x8d", None, 82.698),
    _detectron("20171220/X-101-32x8d.pkl", "resnext101_32x8d"),
    Source(
        "detectron2/X-101-32x8d",
        "resnext101_32x8d",
        "https://dl.fbaipublicfiles.com/detectron2/ImageNetPretrained/FAIR/X-101-32x8d.pkl",
        None,
        DETECTRON2_RESNEXT,
        "CC BY-SA 3.0",
    ),
    _openmmlab("resnext101_32x8d-1516f1aa", "resnext101_32x8d", DETECTRON2_RESNEXT),
    _detectron("25093814/X-152-32x8d-IN5k.pkl", "resnext152_32x8d"),
)  # fmt: skip


def sources_for(variant: str) -> list[Source]:
    """The rows for a network, its default first."""
    return [source for source in SOURCES if source.variant == variant]


def find_source(name: str, variant: str) -> Source | None:
    """The row of that name for that network, or of that URL; None if no row has the name at all.

    Args:
        name: a name of the table, a URL of it, or "default" for the network's first row.

    Raises:
        UserError: the name exists, but not for this network; the message lists that network's names.
    """
    fitting = sources_for(variant)
    if name == "default" and fitting:
        return fitting[0]
    for source in fitting:
        if source.name == name:
            return source
    for source in SOURCES:
        if source.url == name:
            return source
    others = [source.variant for source in SOURCES if source.name == name]
    if others or name == "default":
        elsewhere = f"it is there for {', '.join(others)}. " if others else ""
        raise UserError(f"weights {name!r} are not for the network {variant}: {elsewhere}{choices(variant)}")
    return None


def choices(variant: str, near: str = "") -> str:
    """The known weights for a network, for an error message; it suggests the name nearest to `near`."""
    names = [source.name for source in sources_for(variant)]
    if not names:
        return f"No public weights are known for {variant}; name a file or a URL"
    nearest = nearest_name(near, names)
    hint = "" if nearest is None else f"Did you mean {nearest!r}? "
    return f"{hint}For {variant} there are {', '.join(names)}; a file or a URL serves too"
