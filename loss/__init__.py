"""Pure functions and small modules on tensors; usable from any other project."""

from loss.adversarial import SOURCE, TARGET, domain_loss
from loss.class_balanced import ClassBalancedSelfLabeling, class_statistics, summed
from loss.contrast import queue_contrast
from loss.distillation import distillation_loss
from loss.prior import ClassCounter, class_frequencies, occurrences
from loss.prototypes import cosines_to_prototypes, prototype_consistency, rectified_label, rectified_probs
from loss.queue import RingQueue, take_pixels
from loss.segmentation import (
    confidence_regulariser,
    cross_entropy,
    reverse_cross_entropy,
    symmetric_cross_entropy,
)
from loss.sinkhorn import sinkhorn

__all__ = [
    "SOURCE",
    "TARGET",
    "ClassBalancedSelfLabeling",
    "ClassCounter",
    "RingQueue",
    "class_frequencies",
    "class_statistics",
    "confidence_regulariser",
    "cosines_to_prototypes",
    "cross_entropy",
    "distillation_loss",
    "domain_loss",
    "occurrences",
    "prototype_consistency",
    "queue_contrast",
    "rectified_label",
    "rectified_probs",
    "reverse_cross_entropy",
    "sinkhorn",
    "summed",
    "symmetric_cross_entropy",
    "take_pixels",
]
