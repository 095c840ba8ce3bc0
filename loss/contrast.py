"""Pixel contrast of the student against a labelled queue."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

# Anchors times queue rows. About four float32 matrices of that size are in memory at a time: 1.1 GB. The
# 1,024 anchors of 4 images against 65,536 rows are one piece; smaller pieces launch more operations.
_PAIRS_AT_ONCE = 2**26


def queue_contrast(
    anchors: Tensor, anchor_labels: Tensor, queue: Tensor, queue_labels: Tensor, temperature: float = 0.08
) -> Tensor:
    """Supervised contrast; positives are the queue rows of the anchor's label, the ignore id included.

    anchors (A, D), anchor_labels (A,), queue (N, D) constant, queue_labels (N,) → scalar. Anchors are
    normalised here, the queue already is. The loss is −mean over anchors of
    Σ_pos [l − ln(e^l + Σ_neg e^l)] / (n_pos + 1e-5); an anchor without positives adds 0 and counts in it.
    """
    normalised = F.normalize(anchors, dim=1)
    return _QueueContrast.apply(normalised, anchor_labels, queue.detach(), queue_labels, temperature)


class _QueueContrast(torch.autograd.Function):
    """The gradient is worked out with the loss, some anchors at a time: nothing of size A×N is kept."""

    @staticmethod
    def forward(
        ctx: Any,
        anchors: Tensor,
        anchor_labels: Tensor,
        queue: Tensor,
        queue_labels: Tensor,
        temperature: float,
    ) -> Tensor:
        total, gradient = anchors.new_zeros(()), torch.empty_like(anchors)
        scaled, at_once = anchors / temperature, max(1, _PAIRS_AT_ONCE // len(queue))
        for start in range(0, len(anchors), at_once):
            part = slice(start, start + at_once)
            logits = scaled[part] @ queue.t()  # (a, N)
            positive = anchor_labels[part, None] == queue_labels  # (a, N)
            weight = 1.0 / (positive.sum(dim=1, keepdim=True, dtype=logits.dtype) + 1e-5)  # (a, 1)
            loss, descent = _loss_and_descent(logits, positive)
            total += (loss * weight).sum()
            torch.mm(descent, queue, out=gradient[part])
            gradient[part].mul_(-weight)
        ctx.save_for_backward(gradient / (temperature * len(anchors)))
        return total / len(anchors)

    @staticmethod
    def backward(ctx: Any, above: Tensor) -> tuple[Tensor, None, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return above * gradient, None, None, None, None


def _loss_and_descent(logits: Tensor, positive: Tensor) -> tuple[Tensor, Tensor]:
    """logits and positive (bool) (a, N) → the loss of each of a anchors (a, 1), and −gradient (a, N).

    Both are sums over an anchor's positives, not divided by their number yet. With S = Σ_neg e^l, the term
    −[l − ln(e^l + S)] of a positive is softplus(ln S − l). Its gradient is −S/(e^l + S) = −sigmoid(ln S − l),
    and e^{l_neg}/(e^l + S) for each negative.
    """
    log_negatives = logits.masked_fill(positive, -torch.inf).logsumexp(dim=1, keepdim=True)  # ln S
    gap = (log_negatives - logits).masked_fill_(~positive, -torch.inf)
    loss = F.softplus(gap).sum(dim=1, keepdim=True)
    pull = gap.sigmoid_()
    negatives = (logits - log_negatives).exp_()  # e^l/S; of positives it is not used
    # Σ_pos 1/(e^l + S) = Σ_pos pull/S, and every negative takes its e^l of it.
    return loss, torch.where(positive, pull, negatives.mul_(-pull.sum(dim=1, keepdim=True)))
