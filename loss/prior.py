"""The class prior from predictions: counted while training, turned into frequencies now and then."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from loss.segmentation import Total, identity

# About 7 of the 65,792 rows of a full queue and an image: a class that is hardly predicted is not given up.
LEAST = 1e-4


def class_frequencies(counts: Tensor, least: float = LEAST) -> Tensor:
    """Counts (K,), not all 0 → frequencies (K,) float32 of sum 1; those below `least` are raised to it.

    The others are scaled down for it, so that one may end below `least` by a factor of 1 / (1 + K·least).
    """
    frequencies = (counts.double() / counts.sum()).clamp(min=least)
    return (frequencies / frequencies.sum()).float()


def occurrences(values: Tensor, bins: int) -> Tensor:
    """values (n,) int64 in [0, bins) → how often each occurs (bins,) int64.

    As torch.bincount, which makes the host wait for a GPU.
    """
    return values.new_zeros(bins).scatter_add_(0, values, torch.ones_like(values))


class ClassCounter(nn.Module):
    """Counts how often each of K classes is predicted. State: `counts` (K,) int64.

    total: sums a tensor over the processes that split a batch; the counts are then equal everywhere.
    Integers, so that no order of sums changes them. Nothing here waits for a GPU.
    """

    def __init__(self, n_class: int, total: Total = identity):
        super().__init__()
        self.register_buffer("counts", torch.zeros(n_class, dtype=torch.int64))
        self.total = total

    @torch.no_grad()
    def add_(self, logits: Tensor) -> None:
        """Count the largest of logits (B, K, h, w) at each position."""
        self.counts += self.total(occurrences(logits.argmax(dim=1).flatten(), len(self.counts)))

    @torch.no_grad()
    def take_(self) -> Tensor:
        """Frequencies (K,) of the classes counted since the last call (`class_frequencies`)."""
        frequencies = class_frequencies(self.counts)
        self.counts.zero_()
        return frequencies
