"""Settings of how a network is computed: number format, memory order, compilation, recomputation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.deeplabv2 import DeepLabV2, SegmentationOutput


@dataclass(frozen=True)
class Compute:
    """dtype: of autocast inside the networks, None for their own. What goes in and comes out stays float32.

    channels_last: channels lie side by side in memory. compiled: through torch.compile. recompute: blocks of
    the backbone are computed again for the backward pass instead of being kept (the same gradients).
    """

    dtype: torch.dtype | None = None
    channels_last: bool = False
    compiled: bool = False
    recompute: bool = False

    def prepare(self, network: nn.Module) -> nn.Module:
        """The network, changed in place. Copy it before: a copy of a compiled network is not compiled."""
        if self.channels_last:
            network.to(memory_format=torch.channels_last)
        if isinstance(network, DeepLabV2):
            network.recompute = self.recompute
        if self.compiled:
            network.compile()
        return network

    def __call__(
        self, network: nn.Module, images: Tensor, dropout: Tensor | None = None
    ) -> SegmentationOutput:
        """The network's output for images (B, 3, H, W); dropout (B, D): see DeepLabV2."""
        if self.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast(images.device.type, self.dtype, enabled=self.dtype is not None):
            feats, logits = network(images) if dropout is None else network(images, dropout)
        return SegmentationOutput(feats.to(images.dtype), logits.to(images.dtype))
