"""ResNeXt and ResNet networks for any detector: images → feature maps, with weights from every public source."""

from .errors import UserError
from .factory import create_backbone, create_c4, create_classifier
from .input_format import IMAGENET, InputFormat
from .normalization import fold_batch_norm
from .resnext import Backbone, ResNeXt
from .variants import VARIANTS, Variant

__all__ = [
    "IMAGENET",
    "VARIANTS",
    "Backbone",
    "InputFormat",
    "ResNeXt",
    "UserError",
    "Variant",
    "create_backbone",
    "create_c4",
    "create_classifier",
    "fold_batch_norm",
]
