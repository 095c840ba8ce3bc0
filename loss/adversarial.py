"""Two objectives of a discriminator's scores behind one function."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

SOURCE, TARGET = 0.0, 1.0


def domain_loss(scores: Tensor, domain: float, kind: str) -> Tensor:
    """scores of any shape against one domain label; kind "LS": squared error, "Vanilla": BCE with logits."""
    wanted = torch.full_like(scores, domain)
    if kind == "LS":
        return F.mse_loss(scores, wanted)
    if kind == "Vanilla":
        return F.binary_cross_entropy_with_logits(scores, wanted)
    raise ValueError(f"unknown adversarial loss {kind!r}; known are Vanilla and LS")
