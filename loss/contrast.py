"""Pixel contrast of the student against a labelled queue."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def queue_contrast(
    anchors: Tensor, anchor_labels: Tensor, queue: Tensor, queue_labels: Tensor, temperature: float = 0.08
) -> Tensor:
    """Supervised contrastive loss; positives are the queue rows of the anchor's label, the ignore id included.

    anchors (A, D), anchor_labels (A,), queue (N, D) constant, queue_labels (N,) → scalar. Anchors are
    normalised here, the queue already is. −mean over anchors of Σ_pos [l − ln(e^l + Σ_neg e^l)] / (n_pos + 1e-5).
    An anchor without positives adds 0 and counts in the mean.
    """
    logits = F.normalize(anchors, dim=1) @ queue.detach().t() / temperature  # (A, N)
    logits = logits - logits.detach().amax(dim=1, keepdim=True)
    positive = anchor_labels[:, None] == queue_labels[None, :]  # (A, N) bool
    exp = logits.exp()
    negatives = exp.masked_fill(positive, 0).sum(dim=1, keepdim=True)
    log_prob = logits - (exp + negatives).log()
    per_anchor = (log_prob * positive).sum(dim=1) / (positive.sum(dim=1) + 1e-5)
    return -per_anchor.mean()
