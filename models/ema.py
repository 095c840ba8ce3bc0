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
    """Parameters: teacher ← momentum·teacher + (1 − momentum)·student; buffers are copied.

    A call copies the buffers of one dtype: of mixed ones a GPU would copy each by itself.
    """
    torch._foreach_lerp_(list(teacher.parameters()), list(student.parameters()), 1.0 - momentum)
    pairs = list(zip(teacher.buffers(), student.buffers(), strict=True))
    for dtype in {own.dtype for own, _ in pairs}:
        same = [(own, other) for own, other in pairs if own.dtype == dtype]
        torch._foreach_copy_(*map(list, zip(*same, strict=True)))
