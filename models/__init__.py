"""The networks and what fills, freezes and follows them."""

from models.batch_norm import freeze_batch_norm, share_batch_norm
from models.compute import Compute
from models.deeplabv2 import DeepLabV2, SegmentationOutput, deeplabv2
from models.discriminator import FCDiscriminator
from models.ema import ema_copy, ema_update_

__all__ = [
    "Compute",
    "DeepLabV2",
    "FCDiscriminator",
    "SegmentationOutput",
    "deeplabv2",
    "ema_copy",
    "ema_update_",
    "freeze_batch_norm",
    "share_batch_norm",
]
