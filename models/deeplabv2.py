"""DeepLabV2 on a dilated ResNet, from image to class scores in the order in which the tensor travels.

Attribute names are those of the released checkpoints (`layer5`, `bn_pretrain`, `conv2d_list` ...).
Letters: B images, K classes, D feature channels, H×W image, h×w grid (stride 8, rounded up).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from models.batch_norm import BatchNorm2d, count_batch


class SegmentationOutput(NamedTuple):
    """feats (B, D, h, w), after the head's dropout; logits (B, K, h, w)."""

    feats: Tensor
    logits: Tensor


class Bottleneck(nn.Module):
    """1×1 (with the stride) → 3×3 (dilated) → 1×1 to four times the width, plus the shortcut."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int = 1, dilation: int = 1, project: bool = False):
        super().__init__()
        outputs = width * self.expansion
        self.conv1 = nn.Conv2d(inputs, width, 1, stride=stride, bias=False)
        self.bn1 = BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation, bias=False)
        self.bn2 = BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if project:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        x = self.bn3(self.conv3(x))
        return self.relu(x + shortcut)


class SqueezeExcite(nn.Module):
    """Scales each channel by a gate computed from the channel means."""

    def __init__(self, channels: int, reduction: int = 16):
        super().__init__()
        self.se = nn.Sequential(
            nn.Linear(channels, channels // reduction),
            nn.ReLU(inplace=True),
            nn.Linear(channels // reduction, channels),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        gate = self.se(x.mean(dim=(2, 3)))  # (B, C)
        return x * gate[:, :, None, None]


class ASPPHead(nn.Module):
    """Five parallel convolutions, squeeze-excite, 3×3 to D channels, dropout, 1×1 to K classes."""

    def __init__(self, inputs: int, feat_channels: int, num_classes: int):
        super().__init__()
        branches = [self._branch(inputs, feat_channels, 1, 1, 0)]
        branches += [self._branch(inputs, feat_channels, 3, rate, rate) for rate in (6, 12, 18, 24)]
        self.conv2d_list = nn.ModuleList(branches)
        joined = feat_channels * len(branches)
        self.bottleneck = nn.Sequential(
            SqueezeExcite(joined),
            nn.Conv2d(joined, feat_channels, 3, padding=1),
            nn.GroupNorm(32, feat_channels),
        )
        self.head = nn.Sequential(nn.Dropout2d(0.1), nn.Conv2d(feat_channels, num_classes, 1, bias=False))

    @staticmethod
    def _branch(inputs: int, outputs: int, kernel: int, dilation: int, padding: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(inputs, outputs, kernel, padding=padding, dilation=dilation),
            nn.GroupNorm(32, outputs),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: Tensor, dropout: Tensor | None = None) -> SegmentationOutput:
        dropout_layer, classifier = self.head
        joined = torch.cat([branch(x) for branch in self.conv2d_list], dim=1)  # (B, 5D, h, w)
        feats = self.bottleneck(joined)  # (B, D, h, w)
        factors = None if dropout is None else dropout[:, :, None, None].to(feats.dtype)  # (B, D, 1, 1)
        feats = dropout_layer(feats) if factors is None else feats * factors
        with torch.autocast(x.device.type, enabled=False):  # scores of bf16 would tie too often
            return SegmentationOutput(feats, classifier(feats.to(classifier.weight.dtype)))


class DeepLabV2(nn.Module):
    """DeepLabV2 with a ResNet of bottlenecks; `layers=(3, 4, 23, 3)`, `width=64` is ResNet-101.

    num_classes: K. layers: blocks per stage. width: channels of the stem. feat_channels: D, a multiple of
    32. pretrain_norm: a batch norm (`bn_pretrain`) between backbone and head (`--bn_clr`, `--ema_bn`).
    Images (B, 3, H, W) in [0, 1] → `SegmentationOutput` at stride 8 (512×896 gives 65×113). dropout (B, D):
    factor of each feature channel (`dropout_factors`); without it the network draws for itself in training.
    """

    def __init__(
        self,
        num_classes: int,
        layers: tuple[int, int, int, int] = (3, 4, 23, 3),
        width: int = 64,
        feat_channels: int = 256,
        pretrain_norm: bool = False,
    ):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True)
        channels = width
        for index, (blocks, stride, dilation) in enumerate(
            zip(layers, (1, 2, 1, 1), (1, 1, 2, 4), strict=True)
        ):
            stage_width = width * 2**index
            stage = self._stage(channels, stage_width, blocks, stride, dilation)
            setattr(self, f"layer{index + 1}", stage)
            channels = stage_width * Bottleneck.expansion
        self.bn_pretrain = BatchNorm2d(channels) if pretrain_norm else None
        self.layer5 = ASPPHead(channels, feat_channels, num_classes)
        self.num_classes, self.feat_channels = num_classes, feat_channels
        self.recompute = False  # blocks keep their input alone and are computed again in the backward pass
        self._initialise()

    @staticmethod
    def _stage(inputs: int, width: int, blocks: int, stride: int, dilation: int) -> nn.Sequential:
        first = Bottleneck(inputs, width, stride, dilation, project=True)
        rest = [Bottleneck(width * 4, width, dilation=dilation) for _ in range(blocks - 1)]
        return nn.Sequential(first, *rest)

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0.0, 0.01)
        nn.init.zeros_(self.layer5.bottleneck[1].bias)

    def dropout_factors(self, uniform: Tensor) -> Tensor:
        """Random numbers (B, D) in [0, 1) → factors: 0 with the dropout's probability p, else 1 / (1 − p)."""
        rate = self.layer5.head[0].p
        return (uniform >= rate) / (1.0 - rate)

    def forward(self, image: Tensor, dropout: Tensor | None = None) -> SegmentationOutput:
        count_batch(self)
        x = self.maxpool(self.relu(self.bn1(self.conv1(image))))  # stride 4
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):  # stride 8 from layer2 on
            x = self._through(stage, x)
        if self.bn_pretrain is not None:
            x = self.bn_pretrain(x)
        return self.layer5(x, dropout)

    def _through(self, stage: nn.Sequential, x: Tensor) -> Tensor:
        if not (self.recompute and torch.is_grad_enabled()):
            return stage(x)
        for block in stage:
            contexts = partial(_once_and_again, block)
            x = checkpoint(block, x, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)
        return x


def _once_and_again(block: nn.Module) -> tuple[AbstractContextManager, AbstractContextManager]:
    """Contexts of a block's forward pass and of its recomputation, which must not move its statistics."""
    return nullcontext(), _statistics_stay(block)


@contextmanager
def _statistics_stay(block: nn.Module) -> Iterator[None]:
    norms = [m for m in block.modules() if isinstance(m, _BatchNorm)]
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, before, strict=True):
            norm.momentum = momentum


BACKBONES = {
    "resnet101": {"layers": (3, 4, 23, 3), "width": 64, "feat_channels": 256},
    "mini": {"layers": (1, 1, 2, 1), "width": 16, "feat_channels": 64},
}


def deeplabv2(backbone: str, num_classes: int, pretrain_norm: bool = False) -> DeepLabV2:
    """The network by the name of its backbone: "resnet101" (the paper's) or "mini" (for small machines)."""
    return DeepLabV2(num_classes, pretrain_norm=pretrain_norm, **BACKBONES[backbone])
