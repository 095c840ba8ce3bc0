"""Cross-entropies and regularisers against plain loops written from their formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from loss import confidence_regulariser, cross_entropy, reverse_cross_entropy, symmetric_cross_entropy

IGNORE = 250
B, K, H, W = 2, 5, 3, 4


@pytest.fixture
def logits() -> Tensor:
    return torch.randn(B, K, H, W, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3


@pytest.fixture
def label() -> Tensor:
    """A third of the first image is void, none of the second: a mean of means would differ."""
    label = torch.randint(0, K, (B, H, W), generator=torch.Generator().manual_seed(1))
    label[0, 0] = IGNORE
    return label


def probabilities(logits: Tensor) -> np.ndarray:
    """Softmax over the classes, by loops."""
    scores = logits.numpy()
    probs = np.empty_like(scores)
    for b, y, x in np.ndindex(B, H, W):
        total = sum(math.exp(scores[b, k, y, x]) for k in range(K))
        for k in range(K):
            probs[b, k, y, x] = math.exp(scores[b, k, y, x]) / total
    return probs


def loop_cross_entropy(logits: Tensor, label: Tensor) -> float:
    probs, losses = probabilities(logits), []
    for b, y, x in np.ndindex(B, H, W):
        if label[b, y, x] != IGNORE:
            losses.append(-math.log(probs[b, int(label[b, y, x]), y, x]))
    return sum(losses) / len(losses)


def loop_reverse_cross_entropy(logits: Tensor, label: Tensor) -> float:
    probs, total, valid = probabilities(logits), 0.0, 0
    for b, y, x in np.ndindex(B, H, W):
        if label[b, y, x] == IGNORE:
            continue
        valid += 1
        for k in range(K):
            p = min(max(probs[b, k, y, x], 1e-7), 1.0)
            one_hot = 1.0 if k == int(label[b, y, x]) else 0.0
            total -= p * math.log(min(max(one_hot, 1e-4), 1.0))
    return total / (valid + 1e-6)


def test_cross_entropy_is_the_mean_over_labelled_pixels(logits, label):
    assert float(cross_entropy(logits, label, IGNORE)) == pytest.approx(
        loop_cross_entropy(logits, label), rel=1e-12
    )


def test_without_labels_the_losses_are_zero_with_zero_gradients(logits):
    logits.requires_grad_()
    void = torch.full((B, H, W), IGNORE)
    loss = cross_entropy(logits, void, IGNORE)
    loss.backward()
    assert float(loss.detach()) == float(reverse_cross_entropy(logits.detach(), void, IGNORE)) == 0.0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_void_pixels_get_no_gradient(logits, label):
    for function in (cross_entropy, reverse_cross_entropy, symmetric_cross_entropy):
        scores = logits.clone().requires_grad_()
        function(scores, label, IGNORE).backward()
        assert not scores.grad[0, :, 0].any()
        assert scores.grad[1].any()


def test_reverse_cross_entropy(logits, label):
    expected = loop_reverse_cross_entropy(logits, label)
    assert float(reverse_cross_entropy(logits, label, IGNORE)) == pytest.approx(expected, rel=1e-6)


def test_reverse_cross_entropy_clamps_the_prediction():
    """Certain and right: the K − 1 other classes count 1e-7 each; certain and wrong: 1 + (K − 2)·1e-7."""
    logits = torch.zeros(1, 3, 1, 2, dtype=torch.float64)
    logits[0, 1] = 100.0
    right, wrong = torch.tensor([[[1, IGNORE]]]), torch.tensor([[[0, IGNORE]]])
    ln = -math.log(1e-4)
    denominator = 1 + 1e-6
    assert float(reverse_cross_entropy(logits, right, IGNORE)) == pytest.approx(2e-7 * ln / denominator)
    assert float(reverse_cross_entropy(logits, wrong, IGNORE)) == pytest.approx((1 + 1e-7) * ln / denominator)


def test_symmetric_cross_entropy_weighs_the_two(logits, label):
    before = label.clone()
    expected = 0.3 * loop_cross_entropy(logits, label) + 2.0 * loop_reverse_cross_entropy(logits, label)
    value = float(symmetric_cross_entropy(logits, label, IGNORE, alpha=0.3, beta=2.0))
    assert value == pytest.approx(expected, rel=1e-6)
    default = 0.1 * loop_cross_entropy(logits, label) + 1.0 * loop_reverse_cross_entropy(logits, label)
    assert float(symmetric_cross_entropy(logits, label, IGNORE)) == pytest.approx(default, rel=1e-6)
    assert torch.equal(label, before)  # which is left alone


def test_regularisers(logits):
    probs = probabilities(logits)
    assert float(confidence_regulariser(logits, "MRKLD")) == pytest.approx(-np.log(probs).mean(), rel=1e-12)
    entropy = sum(
        probs[b, k, y, x] * math.log(probs[b, k, y, x]) for b, k, y, x in np.ndindex(B, K, H, W)
    ) / (B * H * W)
    assert float(confidence_regulariser(logits, "MRENT")) == pytest.approx(entropy, rel=1e-12)
    certain = torch.tensor([1000.0, 0.0, 0.0, 0.0]).view(1, 4, 1, 1)
    assert float(confidence_regulariser(certain, "MRENT")) == 0.0
    with pytest.raises(ValueError, match="MRXYZ"):
        confidence_regulariser(logits, "MRXYZ")
