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
def ema_update_(
    teacher: nn.Module, student: nn.Module, momentum: float = 0.999, average_buffers: bool = False
) -> None:
    """Parameters: teacher ← momentum·teacher + (1 − momentum)·student; buffers are copied.

    average_buffers: average floating-point buffers too. A teacher in eval mode needs it: the student's
    batch-norm statistics do not fit averaged weights. A call handles the buffers of one dtype: of mixed ones
    a GPU would handle each by itself.
    """
    torch._foreach_lerp_(list(teacher.parameters()), list(student.parameters()), 1.0 - momentum)
    pairs = list(zip(teacher.buffers(), student.buffers(), strict=True))
    for dtype in {own.dtype for own, _ in pairs}:
        own, other = map(list, zip(*(pair for pair in pairs if pair[0].dtype == dtype), strict=True))
        if average_buffers and dtype.is_floating_point:
            torch._foreach_lerp_(own, other, 1.0 - momentum)
        else:
            torch._foreach_copy_(own, other)
