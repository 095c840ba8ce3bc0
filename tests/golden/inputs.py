"""Inputs of the golden numbers: every tensor is a function of its name, so any machine makes the same."""

from __future__ import annotations

import zlib

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from data.augment.strong import StrongRecord
from data.augment.weak import WeakRecord
from data.batches import SourceBatch, TargetBatch

LAYERS = (1, 1, 2, 1)
B, K, D, N, P = 2, 19, 256, 256, 32
CROP, WHOLE = (48, 64), (64, 128)  # (H, W)

PRIOR = torch.tensor(
    [
        0.37922021, 0.04929893, 0.22665089, 0.01550695, 0.01720505, 0.014027, 0.00218648, 0.00221332,
        0.13337585, 0.02424317, 0.04341076, 0.01314595, 0.00161456, 0.06604835, 0.00407546, 0.00278922,
        0.00184724, 0.00122881, 0.00191182,
    ]
)  # fmt: skip

WEAK_RECORDS = [
    WeakRecord((72, 144), (8, 56, 20, 84), True),
    WeakRecord((56, 112), (4, 52, 36, 100), False),
]
STRONG_RECORDS = [
    StrongRecord(flip=True, operations=(("TranslateX", 11), ("Rotate", -12.0)), cutout=(5, 8, 21, 24)),
    StrongRecord(operations=(("ShearX", 0.21), ("TranslateY", -9)), cutout=(30, 20, 46, 36)),
]


def _generator(name: str) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))


def normal(name: str, *shape: int, scale: float = 1.0) -> Tensor:
    return torch.from_numpy(_generator(name).standard_normal(shape).astype(np.float32) * np.float32(scale))


def uniform(name: str, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
    return torch.from_numpy((_generator(name).random(shape) * (high - low) + low).astype(np.float32))


def integers(name: str, high: int, *shape: int) -> Tensor:
    return torch.from_numpy(_generator(name).integers(0, high, shape).astype(np.int64))


def fill(state: dict[str, Tensor], salt: str = "") -> None:
    """Fill a state dict in place from the names of its keys."""
    for key, value in state.items():
        name, shape = salt + key, tuple(value.shape)
        if key.endswith("num_batches_tracked"):
            value.zero_()
        elif key.endswith("running_mean"):
            value.copy_(normal(name, *shape, scale=0.1))
        elif key.endswith("running_var"):
            value.copy_(uniform(name, *shape, low=0.5, high=1.5))
        elif value.dim() >= 2:
            value.copy_(normal(name, *shape, scale=(2.0 / int(np.prod(shape[1:]))) ** 0.5))
        elif key.endswith("weight"):
            value.copy_(uniform(name, *shape, low=0.8, high=1.2))
        else:
            value.copy_(normal(name, *shape, scale=0.05))


def hard_label() -> Tensor:
    """(B, H, W) hard pseudo labels, a fifth of them void."""
    label = integers("lp", K, B, *CROP)
    label[integers("lpvoid", 5, B, *CROP) == 0] = 250
    return label


def soft_label() -> Tensor:
    """(B, K, H, W) probabilities at the resolution of the crop."""
    return F.softmax(normal("soft", B, K, *CROP, scale=2.0), 1)


def quarter_soft_label() -> Tensor:
    return F.interpolate(soft_label(), scale_factor=0.25, mode="bilinear", align_corners=True)


def batches() -> tuple[SourceBatch, TargetBatch]:
    """One source and one target batch."""
    label = integers("lab", K, B, *CROP)
    label[integers("void", 10, B, *CROP) == 0] = 250
    source = SourceBatch(uniform("src", B, 3, *CROP), label, None, [])
    target = TargetBatch(
        ["a", "b"],
        WEAK_RECORDS,
        STRONG_RECORDS,
        weak=uniform("tgt", B, 3, *CROP),
        strong=uniform("strong", B, 3, *CROP),
        whole=uniform("full", B, 3, *WHOLE),
        soft_quarter=quarter_soft_label(),
        label=hard_label(),
    )
    return source, target


def prototypes() -> Tensor:
    """(K, D) raw centroids."""
    return normal("objective", K, D)


def full_queues() -> tuple[Tensor, Tensor, Tensor]:
    """Features (N, D), labels (N, 1) and predictions (N, K) of queues that are full."""
    feats, predictions = normal("queue", N, D), normal("qout", N, K)
    return F.normalize(feats, dim=1), integers("qlab", K, N, 1).float(), F.normalize(predictions, dim=1)
