"""Losses of class scores against labels. Letters: B images, K classes, H×W pixels.

Where several processes split a batch, each returns its part of the loss: the sum over its own pixels, divided
by the count over the whole batch. The parts, and their gradients, add up to those of the whole batch. `total`
sums a count over the processes.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F

Total = Callable[[Tensor], Tensor]


def identity(x: Tensor) -> Tensor:
    """Return x, the sum over a single process."""
    return x


def cross_entropy(logits: Tensor, label: Tensor, ignore_index: int, total: Total = identity) -> Tensor:
    """Mean cross-entropy over the labelled pixels; 0 if there is none.

    logits (B, K, H, W), label (B, H, W) int64 → scalar.
    """
    summed = F.cross_entropy(logits, label, ignore_index=ignore_index, reduction="sum")
    return summed / total((label != ignore_index).sum()).clamp(min=1)


def reverse_cross_entropy(
    logits: Tensor, label: Tensor, ignore_index: int, total: Total = identity
) -> Tensor:
    """Cross-entropy with prediction and label exchanged (Wang et al. 2019, symmetric cross-entropy).

    −Σ_k p_k ln(onehot_k) with the label's zeros clamped to 1e-4 and p to at least 1e-7, averaged over
    the labelled pixels. logits (B, K, H, W), label (B, H, W) int64 → scalar.
    """
    probs = logits.softmax(dim=1).clamp(1e-7, 1.0)
    valid = label != ignore_index
    index = label.masked_fill(~valid, 0)[:, None]
    # ln(onehot) is ln(1e-4) everywhere but 0 at the label, so the sum needs no one-hot map.
    others = probs.sum(dim=1) - probs.gather(1, index).squeeze(1)  # (B, H, W)
    loss = -others * math.log(1e-4)
    return (loss * valid).sum() / (total(valid.sum()) + 1e-6)


def symmetric_cross_entropy(
    logits: Tensor,
    label: Tensor,
    ignore_index: int,
    alpha: float = 0.1,
    beta: float = 1.0,
    total: Total = identity,
) -> Tensor:
    """alpha · cross-entropy + beta · reverse cross-entropy (`--rce`)."""
    forward = cross_entropy(logits, label, ignore_index, total)
    return alpha * forward + beta * reverse_cross_entropy(logits, label, ignore_index, total)


def confidence_regulariser(logits: Tensor, kind: str) -> Tensor:
    """The regulariser of ProDA. kind "MRKLD": −mean log p; "MRENT": Σ_k p ln p averaged over the pixels.

    logits (B, K, H, W) → scalar.
    """
    log_probs = logits.log_softmax(dim=1)
    if kind == "MRKLD":
        return -log_probs.mean()
    if kind == "MRENT":
        return (log_probs.exp() * log_probs).sum(dim=1).mean()
    raise ValueError(f"unknown regulariser {kind!r}; known are MRKLD and MRENT")
