"""Pixel contrast of the student against a labelled queue."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

# Anchors times queue rows. About five float32 matrices of that size are in memory at a time: 1.3 GB. The
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
            loss, by_logits = _loss_and_gradient(logits, anchor_labels[part, None] == queue_labels)
            total += loss
            torch.mm(by_logits, queue, out=gradient[part])
        ctx.save_for_backward(gradient / (temperature * len(anchors)))
        return total / len(anchors)

    @staticmethod
    def backward(ctx: Any, above: Tensor) -> tuple[Tensor, None, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return above * gradient, None, None, None, None


def _loss_and_gradient(logits: Tensor, positive: Tensor) -> tuple[Tensor, Tensor]:
    """logits and positive (bool) (a, N) → the summed loss of a anchors, and its gradient (a, N).

    With S = Σ_neg e^l, a positive's term −[l − ln(e^l + S)] is softplus(ln S − l): its gradient is
    −S/(e^l + S) = −sigmoid(ln S − l), and e^{l_neg}/(e^l + S) for each negative.
    """
    weight = 1.0 / (positive.sum(dim=1, keepdim=True, dtype=logits.dtype) + 1e-5)  # (a, 1)
    log_negatives = logits.masked_fill(positive, -torch.inf).logsumexp(dim=1, keepdim=True)  # ln S
    gap, negative = log_negatives - logits, ~positive
    loss = (F.softplus(gap).masked_fill_(negative, 0.0).sum(dim=1, keepdim=True) * weight).sum()
    # Over the positives: Σ 1/(e^l + S) = Σ sigmoid(gap)/S, and every negative takes its e^l of it.
    share = gap.neg().exp_().masked_fill_(positive, 0.0)  # e^{l_neg}/S
    pull = gap.sigmoid_().masked_fill_(negative, 0.0)
    return loss, share.mul_(pull.sum(dim=1, keepdim=True)).sub_(pull).mul_(weight)
