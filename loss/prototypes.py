"""Class centres: cosines to them, rectified labels, consistency (paper, sections 3.2 and 3.4).

Letters: B images, K classes, D feature channels, h×w a map.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from loss.segmentation import Total, identity


def cosines_to_prototypes(feats: Tensor, prototypes: Tensor) -> Tensor:
    """feats (B, D, h, w), prototypes (K, D) → cosine of each position with each prototype (B, K, h, w)."""
    return torch.einsum("bdhw,kd->bkhw", F.normalize(feats, dim=1), F.normalize(prototypes, dim=1))


def rectified_probs(omega: Tensor, soft_label: Tensor) -> Tensor:
    """ω·p: omega and soft_label (B, K, h, w) → their product, normalised over the classes."""
    rectified = omega * soft_label
    return rectified / rectified.sum(dim=1, keepdim=True)


def rectified_label(omega: Tensor, soft_label: Tensor, threshold: float, ignore_index: int) -> Tensor:
    """Pseudo label of the soft label reweighted by the prototypes, ω·p.

    omega, soft_label (B, K, h, w) → (B, h, w) int64. Where the largest of ω·p, normalised to sum 1,
    is below the threshold the label is `ignore_index`.
    """
    return label_with_confidence(omega, soft_label, threshold, ignore_index)[0]


def label_with_confidence(
    omega: Tensor, soft_label: Tensor, threshold: float, ignore_index: int
) -> tuple[Tensor, Tensor]:
    """The label of `rectified_label`, and the largest of ω·p whatever the label; (B, h, w) both."""
    confidence, label = rectified_probs(omega, soft_label).max(dim=1)
    return label.masked_fill(confidence < threshold, ignore_index), confidence


def prototype_consistency(
    omega: Tensor, mask: Tensor, student_cosines: Tensor, temperature: float, total: Total = identity
) -> Tensor:
    """KL(ω ‖ student) of two maps of class probabilities, averaged over the entries where the mask is True.

    omega (B, K, h, w), constant; mask (B, K, h, w) bool; student_cosines (B, K, h, w) → scalar.
    total: see loss.segmentation.
    """
    student_log_probs = (student_cosines / temperature).log_softmax(dim=1)
    kl = F.kl_div(student_log_probs, omega * mask, reduction="none")  # 0·ln 0 = 0
    return (kl * mask).sum() / total(mask.sum()).clamp(min=1)
