"""Class-balanced assignments: scores and a class prior in, soft assignments out."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def sinkhorn(scores: Tensor, prior: Tensor, epsilon: float = 0.05, iterations: int = 3) -> Tensor:
    """Soft assignments whose class marginal follows the prior (paper, section 3.3: the transport polytope).

    scores (M, K); prior (K,), positive, summing to 1; epsilon: temperature → (M, K), rows sum to 1.
    Scaling all of Q by a constant changes nothing, so the maximum is taken off before the exponential.
    """
    assert scores.ndim == 2 and prior.shape == (scores.shape[1],), (scores.shape, prior.shape)
    rows = scores.shape[0]
    q = torch.exp((scores - scores.max()) / epsilon).t()  # (K, M)
    q = q / q.sum()
    for _ in range(iterations):
        q = q / _no_zero(q.sum(dim=1, keepdim=True)) * prior[:, None]  # each class takes its share
        q = q / _no_zero(q.sum(dim=0, keepdim=True)) / rows  # each pixel gives one M-th
    return (q * rows).t()


def _no_zero(total: Tensor) -> Tensor:
    """A sum that underflowed to 0 divides zeros only: any positive divisor keeps them 0 instead of NaN."""
    return total.clamp(min=torch.finfo(total.dtype).tiny)
