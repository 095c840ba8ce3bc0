"""Class centres: cosines to them, rectified labels, consistency (paper, sections 3.2 and 3.4).

Letters: B images, K classes, D feature channels, h×w a map.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from loss.shares import Total, alone


def cosines_to_prototypes(feats: Tensor, prototypes: Tensor) -> Tensor:
    """feats (B, D, h, w), prototypes (K, D) → cosine of each position with each prototype (B, K, h, w)."""
    return torch.einsum("bdhw,kd->bkhw", F.normalize(feats, dim=1), F.normalize(prototypes, dim=1))


def rectified_probs(weights: Tensor, soft_label: Tensor) -> Tensor:
    """ω·p: weights and soft_label (B, K, h, w) → their product, normalised over the classes."""
    rectified = weights * soft_label
    return rectified / rectified.sum(dim=1, keepdim=True)


def rectified_label(weights: Tensor, soft_label: Tensor, threshold: float, ignore_index: int) -> Tensor:
    """Pseudo label of the soft label reweighted by the prototypes, ω·p.

    weights, soft_label (B, K, h, w) → (B, h, w) int64. Where the largest of ω·p, normalised to sum 1,
    is below the threshold the label is `ignore_index`.
    """
    confidence, label = rectified_probs(weights, soft_label).max(dim=1)
    return label.masked_fill(confidence < threshold, ignore_index)


def prototype_consistency(
    teacher_probs: Tensor, mask: Tensor, student_cosines: Tensor, temperature: float, total: Total = alone
) -> Tensor:
    """KL(teacher ‖ student) of two maps of class probabilities, averaged over the entries kept by the mask.

    teacher_probs (B, K, h, w), constant; mask (B, K, h, w) bool; student_cosines (B, K, h, w) → scalar.
    total: see loss.shares.
    """
    student_log_probs = (student_cosines / temperature).log_softmax(dim=1)
    kl = F.kl_div(student_log_probs, teacher_probs * mask, reduction="none")  # 0·ln 0 = 0
    return (kl * mask).sum() / total(mask.sum()).clamp(min=1)
