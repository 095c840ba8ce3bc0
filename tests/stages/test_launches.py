"""Operations that an iteration launches outside the networks: few, however many tensors there are."""

from __future__ import annotations

from collections import Counter

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from engine.finite import finite
from loss import queue_contrast
from models import deeplabv2, ema_copy, ema_update_
from models.batch_norm import count_batch
from utils.optim import RepeatedSGD, parameter_groups


class Operations(TorchDispatchMode):
    """Counts operations by name, but for those that launch nothing: views, empty memory, questions."""

    def __init__(self):
        super().__init__()
        self.names: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        is_view = any(r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns)
        quiet = (
            is_view or func.namespace == "prim" or any(x in func._schema.name for x in ("empty", "detach"))
        )
        if not quiet:
            self.names[func._schema.name] += 1
        if func is torch.ops.aten._fused_sgd_.default:  # has no form for tensors without content
            return None
        return func(*args, **(kwargs or {}))


def network() -> torch.nn.Module:
    """ResNet-101: 104 batch norms, over 300 parameters."""
    with torch.device("meta"):
        return deeplabv2("resnet101", 19)


def test_the_look_at_finite_numbers() -> None:
    tensors = [torch.ones(3) for _ in range(300)] + [torch.ones(()) for _ in range(5)]
    with Operations() as seen:
        finite(tensors)
    assert seen.names.total() <= 10, seen.names


def test_the_ema_update() -> None:
    student = network()
    teacher = ema_copy(student)
    with Operations() as seen:
        ema_update_(teacher, student)
    assert seen.names == {"aten::_foreach_lerp_": 1, "aten::_foreach_copy_": 2}


def test_counting_batches() -> None:
    student = network()
    with Operations() as seen:
        count_batch(student)
    assert seen.names == {"aten::_foreach_add_": 1}


def test_repeated_updates() -> None:
    student = network()
    for p in student.parameters():
        p.grad = torch.zeros_like(p)
    optimizer = RepeatedSGD(parameter_groups(student, 1e-4, 5.0, True), 1e-4)
    with Operations() as seen:
        optimizer.step()
    assert seen.names["aten::_fused_sgd_"] == 1 + 3 + 4 + 1  # stem, blocks, projections, head


def test_the_contrast_with_the_papers_queue() -> None:
    with FakeTensorMode(), Operations() as seen:
        anchors, queue = torch.empty(4 * 256, 256, requires_grad=True), torch.empty(65536, 256)
        labels = torch.empty(4 * 256), torch.empty(65536)
        queue_contrast(anchors, labels[0], queue, labels[1]).backward()
    assert seen.names.total() <= 60, seen.names
