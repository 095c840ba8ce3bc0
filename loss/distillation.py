"""Divergence of the student's map of class scores from a frozen teacher's (paper, section 3.5)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def distillation_loss(student_logits: Tensor, teacher_logits: Tensor, student_as_probs: bool) -> Tensor:
    """Mean over all B·K·h·w elements of t·(ln t − s), t the teacher's probabilities.

    Both logits (B, K, h, w). s is ln of the student's probabilities; with `student_as_probs` it is the
    probabilities themselves (quirk Q3), so that the value can be negative.
    """
    teacher_probs = teacher_logits.detach().softmax(dim=1)
    normalise = torch.softmax if student_as_probs else torch.log_softmax
    student = normalise(student_logits, dim=1)
    return F.kl_div(student, teacher_probs, reduction="none").mean()
