"""Assignments by Sinkhorn: rows sum to one, classes follow the prior."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from loss import sinkhorn

PRIOR = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)


def random_scores(rows: int, scale: float = 0.3) -> Tensor:
    generator = torch.Generator().manual_seed(rows)
    return torch.randn(rows, 4, generator=generator, dtype=torch.float64) * scale


def loop_sinkhorn(scores: np.ndarray, prior: np.ndarray, epsilon: float, iterations: int) -> np.ndarray:
    """Q = exp(S/ε)ᵀ over its sum; rows to the prior, columns to 1/M, in turn; times M, transposed."""
    pixels, classes = scores.shape
    q = np.zeros((classes, pixels))
    for k in range(classes):
        for m in range(pixels):
            q[k, m] = np.exp(scores[m, k] / epsilon)
    q /= q.sum()
    for _ in range(iterations):
        for k in range(classes):
            q[k] = q[k] / q[k].sum() * prior[k]
        for m in range(pixels):
            q[:, m] = q[:, m] / q[:, m].sum() / pixels
    return (q * pixels).T


@pytest.mark.parametrize(("rows", "epsilon", "iterations"), [(1, 0.05, 3), (7, 0.05, 3), (30, 0.2, 1)])
def test_equals_the_plain_loop(rows, epsilon, iterations):
    scores = random_scores(rows)
    expected = loop_sinkhorn(scores.numpy(), PRIOR.numpy(), epsilon, iterations)
    np.testing.assert_allclose(sinkhorn(scores, PRIOR, epsilon, iterations).numpy(), expected, rtol=1e-10)


def test_defaults_are_the_papers_and_rows_sum_to_one():
    assert torch.equal(sinkhorn(random_scores(50), PRIOR), sinkhorn(random_scores(50), PRIOR, 0.05, 3))
    assignments = sinkhorn(random_scores(50), PRIOR)
    torch.testing.assert_close(assignments.sum(dim=1), torch.ones(50, dtype=torch.float64))
    assert (assignments >= 0).all()


def test_class_frequencies_approach_the_prior():
    scores = random_scores(400)
    near = sinkhorn(scores, PRIOR, 0.5, 3).mean(dim=0)
    torch.testing.assert_close(near, PRIOR, rtol=0.02, atol=0)
    nearer = sinkhorn(scores, PRIOR, 0.5, 30).mean(dim=0)
    torch.testing.assert_close(nearer, PRIOR, rtol=1e-6, atol=0)


def test_a_small_epsilon_does_not_overflow():
    """exp(S/ε) of a cosine near 1 is e^100, beyond float32; of raw queue scores far beyond."""
    scores = (random_scores(64) + torch.tensor([0.9, 0.0, 0.0, -0.9])).float()
    for offset in (0.0, 5.0):
        assignments = sinkhorn(scores + offset, PRIOR.float(), 0.01, 3)
        assert torch.isfinite(assignments).all()
        torch.testing.assert_close(assignments.sum(dim=1), torch.ones(64))
    expected = loop_sinkhorn(scores.double().numpy(), PRIOR.numpy(), 0.01, 3)
    np.testing.assert_allclose(assignments.numpy(), expected, atol=2e-4)
    # Raw queue scores spread widely: in float32 a whole row may vanish if only one maximum is taken off.
    apart = sinkhorn(torch.tensor([[3.0, 2.0], [0.9, 0.5]]), torch.tensor([0.5, 0.5]), 0.01, 3)
    torch.testing.assert_close(apart.sum(dim=1), torch.ones(2))


def test_no_gradient_flows_and_scores_are_left_alone():
    scores = random_scores(5).requires_grad_()
    before = scores.detach().clone()
    assert not sinkhorn(scores, PRIOR).requires_grad
    assert torch.equal(scores, before)
