"""Operations that an iteration launches outside the networks: few, however many tensors there are."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from engine.guard import finite
from loss import queue_contrast
from models import deeplabv2, ema_copy, ema_update_
from models.batch_norm import count_batch
from tests.operations import Operations
from utils.optim import RepeatedSGD, parameter_groups


def network() -> torch.nn.Module:
    """ResNet-101: 104 batch norms, over 300 parameters."""
    with torch.device("meta"):
        return deeplabv2("resnet101", 19)


def test_the_look_at_finite_numbers() -> None:
    tensors = [torch.ones(3) for _ in range(300)] + [torch.ones(()) for _ in range(5)]
    with Operations() as launched:
        finite(tensors)
    assert launched.names.total() <= 10, launched.names


@pytest.mark.parametrize("average_buffers", [False, True])
def test_the_ema_update(average_buffers: bool) -> None:
    student = network()
    teacher = ema_copy(student)
    with Operations() as launched:
        ema_update_(teacher, student, average_buffers=average_buffers)
    calls = {
        "aten._foreach_lerp_.Scalar": 1 + average_buffers,
        "aten._foreach_copy_.default": 2 - average_buffers,
    }
    assert launched.names == calls


def test_counting_batches() -> None:
    student = network()
    with Operations() as launched:
        count_batch(student)
    assert launched.names == {"aten._foreach_add_.Scalar": 1}


def test_repeated_updates() -> None:
    student = network()
    for p in student.parameters():
        p.grad = torch.zeros_like(p)
    optimizer = RepeatedSGD(parameter_groups(student, 1e-4, 5.0, True), 1e-4)
    with Operations() as launched:
        optimizer.step()
    assert launched.names["aten._fused_sgd_.default"] == 1 + 3 + 4 + 1  # stem, blocks, projections, head


def test_the_contrast_with_the_papers_queue() -> None:
    with FakeTensorMode(), Operations() as launched:
        anchors, queue = torch.empty(4 * 256, 256, requires_grad=True), torch.empty(65536, 256)
        labels = torch.empty(4 * 256), torch.empty(65536)
        queue_contrast(anchors, labels[0], queue, labels[1]).backward()
    assert launched.names.total() <= 60, launched.names
