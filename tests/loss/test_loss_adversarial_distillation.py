"""Domain losses and distillation against plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from loss import SOURCE, TARGET, distillation_loss, domain_loss


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("domain", "name"), [(0.0, SOURCE), (1.0, TARGET)])
def test_domain_losses_equal_the_plain_loops(domain, name):
    assert domain == name
    scores = normal(0, 2, 1, 3, 4) * 3
    values = scores.flatten().tolist()
    squared = sum((s - domain) ** 2 for s in values) / len(values)
    assert float(domain_loss(scores, domain, "LS")) == pytest.approx(squared, rel=1e-12)
    sigmoid = [1 / (1 + math.exp(-s)) for s in values]
    entropy = -sum(domain * math.log(p) + (1 - domain) * math.log(1 - p) for p in sigmoid) / len(values)
    assert float(domain_loss(scores, domain, "Vanilla")) == pytest.approx(entropy, rel=1e-12)
    with pytest.raises(ValueError, match="WGAN"):
        domain_loss(scores, domain, "WGAN")


def softmax(scores: np.ndarray) -> np.ndarray:
    exp = np.exp(scores - scores.max(axis=1, keepdims=True))
    return exp / exp.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("as_probs", [True, False])
def test_distillation_equals_the_plain_loop(as_probs):
    student, teacher = normal(1, 2, 4, 3, 5) * 2, normal(2, 2, 4, 3, 5) * 2
    s, t = softmax(student.numpy()), softmax(teacher.numpy())
    total = 0.0
    for index in np.ndindex(*s.shape):
        total += t[index] * (math.log(t[index]) - (s[index] if as_probs else math.log(s[index])))
    student.requires_grad_(), teacher.requires_grad_()
    loss = distillation_loss(student, teacher, as_probs)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(total / s.size, rel=1e-10)
    assert teacher.grad is None and student.grad.any()


def test_zero_times_log_zero_is_zero():
    """In float32 a teacher's probability of e^−1000 is exactly 0. Certain teacher, flat student: ln K / K."""
    teacher = torch.zeros(1, 4, 1, 1)
    teacher[0, 0] = 1000.0
    assert float(distillation_loss(torch.zeros(1, 4, 1, 1), teacher, False)) == pytest.approx(math.log(4) / 4)
    assert float(distillation_loss(torch.zeros(1, 4, 1, 1), teacher, True)) == pytest.approx(-0.25 / 4)
