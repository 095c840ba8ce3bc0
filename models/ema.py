"""The teacher that follows the student as an exponential moving average."""

from __future__ import annotations

import copy

import torch
from torch import nn


def ema_copy(student: nn.Module) -> nn.Module:
    """A copy of the student to be moved by `ema_update_` and never by gradients."""
    teacher = copy.deepcopy(student)
    return teacher.requires_grad_(False)


@torch.no_grad()
def ema_update_(teacher: nn.Module, student: nn.Module, momentum: float = 0.999) -> None:
    """Parameters: teacher ← momentum·teacher + (1 − momentum)·student; buffers are copied."""
    torch._foreach_lerp_(list(teacher.parameters()), list(student.parameters()), 1.0 - momentum)
    if buffers := list(teacher.buffers()):
        torch._foreach_copy_(buffers, list(student.buffers()))
