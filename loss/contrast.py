"""Pixel contrast of the student against a labelled queue."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def queue_contrast(
    anchors: Tensor, anchor_labels: Tensor, queue: Tensor, queue_labels: Tensor, temperature: float = 0.08
) -> Tensor:
    """Supervised contrast; positives are the queue rows of the anchor's label, the ignore id included.

    anchors (A, D), anchor_labels (A,), queue (N, D) constant, queue_labels (N,) → scalar. Anchors are
    normalised here, the queue already is. The loss is −mean over anchors of
    Σ_pos [l − ln(e^l + Σ_neg e^l)] / (n_pos + 1e-5); an anchor without positives adds 0 and counts in it.
    """
    logits = F.normalize(anchors, dim=1) @ queue.detach().t() / temperature  # (A, N)
    logits = logits - logits.detach().amax(dim=1, keepdim=True)
    positive = anchor_labels[:, None] == queue_labels[None, :]  # (A, N) bool
    log_negatives = logits.masked_fill(positive, -torch.inf).logsumexp(dim=1, keepdim=True)
    log_prob = logits - torch.logaddexp(logits, log_negatives)
    per_anchor = (log_prob * positive).sum(dim=1) / (positive.sum(dim=1) + 1e-5)
    return -per_anchor.mean()
