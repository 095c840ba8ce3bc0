"""Class-balanced assignments: scores and a class prior in, soft assignments out."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def sinkhorn(scores: Tensor, prior: Tensor, epsilon: float = 0.05, iterations: int = 3) -> Tensor:
    """Soft assignments whose class marginal follows the prior (paper, section 3.3: the transport polytope).

    scores (M, K); prior (K,), positive, summing to 1; epsilon: temperature → (M, K), rows sum to 1.
    In logarithms, so that no score is too large or too small for float32 at a small epsilon.
    """
    assert scores.ndim == 2 and prior.shape == (scores.shape[1],), (scores.shape, prior.shape)
    log_q = scores / epsilon  # (M, K)
    log_prior = prior.log()
    for _ in range(iterations):
        log_q = log_q - log_q.logsumexp(dim=0) + log_prior  # each class takes its part
        log_q = log_q.log_softmax(dim=1)  # each pixel gives all of itself
    return log_q.exp()
