"""Cosines to prototypes, rectified labels and consistency against plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from loss import cosines_to_prototypes, prototype_consistency, rectified_label

B, D, K, H, W = 2, 6, 4, 3, 5
IGNORE, TAU = 250, 0.08


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_cosines_equal_the_plain_loop():
    feats, prototypes = normal(0, B, D, H, W) * 3, normal(1, K, D) * 2
    cosines = cosines_to_prototypes(feats, prototypes)
    assert cosines.shape == (B, K, H, W)
    for b, k, y, x in np.ndindex(B, K, H, W):
        f, p = feats[b, :, y, x].tolist(), prototypes[k].tolist()
        dot = sum(i * j for i, j in zip(f, p, strict=True))
        length = math.sqrt(sum(i * i for i in f)) * math.sqrt(sum(j * j for j in p))
        assert float(cosines[b, k, y, x]) == pytest.approx(dot / length, rel=1e-10)


def loop_rectified(omega: np.ndarray, soft: np.ndarray, threshold: float) -> np.ndarray:
    label = np.empty((B, H, W), dtype=np.int64)
    for b, y, x in np.ndindex(B, H, W):
        product = [omega[b, k, y, x] * soft[b, k, y, x] for k in range(K)]
        best = max(range(K), key=lambda k: product[k])
        label[b, y, x] = best if product[best] / sum(product) >= threshold else IGNORE
    return label


@pytest.mark.parametrize("threshold", [0.0, 0.6, 0.9])
def test_rectified_label_equals_the_plain_loop(threshold):
    omega, soft = given = normal(2, B, K, H, W).softmax(1), normal(3, B, K, H, W).softmax(1)
    before = [x.clone() for x in given]
    label = rectified_label(omega, soft, threshold, IGNORE)
    assert all(map(torch.equal, given, before))  # they are left alone
    expected = loop_rectified(omega.numpy(), soft.numpy(), threshold)
    assert label.dtype == torch.int64
    assert (expected == IGNORE).any() == (threshold > 0)
    assert (expected != IGNORE).any()
    np.testing.assert_array_equal(label.numpy(), expected)


def test_prototypes_overrule_an_unsure_soft_label():
    soft = torch.tensor([0.6, 0.4]).view(1, 2, 1, 1)
    omega = torch.tensor([0.2, 0.8]).view(1, 2, 1, 1)
    assert int(rectified_label(omega, soft, 0.0, IGNORE)) == 1  # 0.12 against 0.32
    assert int(rectified_label(omega, soft, 0.72, IGNORE)) == 1  # 0.32 / 0.44 = 0.727
    assert int(rectified_label(omega, soft, 0.73, IGNORE)) == IGNORE
    half = torch.full((1, 2, 1, 1), 0.5, dtype=torch.float64)
    assert int(rectified_label(half, half, 0.5, IGNORE)) == 0  # a confidence equal to the threshold


def loop_consistency(teacher: np.ndarray, mask: np.ndarray, cosines: np.ndarray) -> float:
    """Σ t·(ln t − s)·mask / Σ mask; the mean also runs over the classes."""
    total = 0.0
    for b, k, y, x in np.ndindex(B, K, H, W):
        if mask[b, k, y, x]:
            exp = [math.exp(cosines[b, j, y, x] / TAU) for j in range(K)]
            student = math.log(exp[k] / sum(exp))
            t = teacher[b, k, y, x]
            total += t * (math.log(t) - student) if t > 0 else 0.0
    return total / mask.sum()


def consistency_case() -> tuple[Tensor, Tensor, Tensor]:
    teacher, cosines = normal(4, B, K, H, W).softmax(1), normal(5, B, K, H, W).tanh()
    teacher[0, :, 1, 1] = torch.tensor([0.0, 1.0, 0.0, 0.0])
    mask = torch.ones(B, K, H, W, dtype=torch.bool)
    mask[0, :, 0] = False
    mask[1, 2, 1, 1] = False  # a single class: replayed maps may leave out one alone
    return teacher, mask, cosines


def test_consistency_equals_the_plain_loop():
    teacher, mask, cosines = consistency_case()
    replayed = teacher.masked_fill(~mask, 250.0)  # as it comes out of the replay
    value = float(prototype_consistency(replayed, mask, cosines, TAU))
    assert value == pytest.approx(loop_consistency(*(x.numpy() for x in (teacher, mask, cosines))), rel=1e-10)


def test_masked_positions_get_no_gradient_and_an_empty_mask_gives_zero():
    teacher, mask, cosines = consistency_case()
    cosines.requires_grad_()
    prototype_consistency(teacher, mask, cosines, TAU).backward()
    assert not cosines.grad[0, :, 0].any()
    assert cosines.grad[0, :, 1:].any()
    nothing = prototype_consistency(teacher, torch.zeros_like(mask), cosines, TAU)
    assert float(nothing.detach()) == 0.0
