"""Contrast of anchors with a labelled queue against a plain loop."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from loss import queue_contrast

TAU = 0.08


def case(seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Seven anchors, eleven queue rows, labels 0..2 and void; anchor 0 has a label that no row has."""
    rng = np.random.default_rng(seed)
    anchors, queue = rng.normal(size=(7, 6)), rng.normal(size=(11, 6))
    anchor_labels = np.array([7, 0, 1, 2, 250, 1, 0])
    queue_labels = np.array([0, 1, 2, 250, 0, 1, 2, 250, 0, 1, 1])
    queue = queue / np.linalg.norm(queue, axis=1, keepdims=True)
    return tuple(torch.from_numpy(x) for x in (anchors, anchor_labels, queue, queue_labels))


def loop_contrast(anchors, anchor_labels, queue, queue_labels) -> float:
    """−mean over anchors of Σ_pos [l − ln(e^l + Σ_neg e^l)] / (n_pos + 1e-5)."""
    anchors, queue = anchors.numpy(), queue.numpy()
    total = 0.0
    for a in range(len(anchors)):
        direction = anchors[a] / math.sqrt(sum(v * v for v in anchors[a]))
        logits = [float(direction @ queue[n]) / TAU for n in range(len(queue))]
        top = max(logits)
        logits = [value - top for value in logits]
        same = [int(label) == int(anchor_labels[a]) for label in queue_labels]
        negatives = sum(math.exp(v) for v, positive in zip(logits, same, strict=True) if not positive)
        terms = [v - math.log(math.exp(v) + negatives) for v, s in zip(logits, same, strict=True) if s]
        total += sum(terms) / (len(terms) + 1e-5)
    return -total / len(anchors)


def test_equals_the_plain_loop():
    """An anchor without positives adds nothing and counts; void equals void; labels may be floats."""
    anchors, labels, queue, queue_labels = arguments = case()
    value = float(queue_contrast(*arguments))  # by default at the paper's temperature
    assert value == pytest.approx(loop_contrast(*arguments), rel=1e-6)
    assert value == float(queue_contrast(anchors, labels, queue, queue_labels.float(), TAU))
    assert float(queue_contrast(anchors, torch.full_like(labels, 77), queue, queue_labels)) == 0.0


@pytest.mark.parametrize("labels", [None, 0, 77])
def test_gradient_is_that_of_the_plain_form(labels, monkeypatch):
    """Also of more anchors than are worked on at once, of anchors that are all positive, and none."""
    monkeypatch.setattr("loss.contrast._PAIRS_AT_ONCE", 3 * 11)
    anchors, anchor_labels, queue, queue_labels = case()
    if labels is not None:
        anchor_labels = torch.full_like(anchor_labels, labels)
        queue_labels = torch.zeros_like(queue_labels)
    grads = []
    for form in (queue_contrast, plain_contrast):
        x = anchors.clone().requires_grad_()
        (2.5 * form(x, anchor_labels, queue, queue_labels, TAU)).backward()
        grads.append(x.grad)
    torch.testing.assert_close(*grads, rtol=1e-9, atol=1e-12)
    assert (grads[0].abs().max() > 0) == (labels is None)


def plain_contrast(anchors, anchor_labels, queue, queue_labels, temperature) -> Tensor:
    """All pairs at once, differentiated by torch."""
    logits = F.normalize(anchors, dim=1) @ queue.t() / temperature
    positive = anchor_labels[:, None] == queue_labels
    negatives = (logits.exp() * ~positive).sum(dim=1, keepdim=True)
    terms = (logits - (logits.exp() + negatives).log()) * positive
    return -(terms.sum(dim=1) / (positive.sum(dim=1).double() + 1e-5)).mean()


def test_known_answer_of_one_positive_and_one_orthogonal_negative():
    """l = 1/τ and 0: the loss is ln(1 + e^(−1/τ)), but for the 1e-5."""
    queue = torch.eye(2, dtype=torch.float64)
    value = queue_contrast(queue[:1] * 3, torch.tensor([4]), queue, torch.tensor([4, 5]), 0.5)
    assert float(value) == pytest.approx(math.log(1 + math.exp(-2)) / (1 + 1e-5), rel=1e-6)


def test_gradients_go_to_the_anchors_only():
    anchors, labels, queue, queue_labels = case()
    anchors.requires_grad_()
    queue.requires_grad_()
    queue_contrast(anchors, labels, queue, queue_labels, TAU).backward()
    assert queue.grad is None
    assert not anchors.grad[0].any()  # no positives
    assert anchors.grad[1:].any(dim=1).all()


@pytest.mark.parametrize("temperature", [0.08, 0.005])
def test_far_apart_rows_stay_finite_in_float32(temperature):
    """The logits span up to 2/τ: e^l of a positive far below the maximum vanishes in float32."""
    anchor = torch.tensor([[1.0, 0.0]])
    queue = F.normalize(torch.tensor([[1.0, 0.1], [-1.0, 0.1]]), dim=1)
    anchor.requires_grad_()
    value = queue_contrast(anchor, torch.tensor([3]), queue, torch.tensor([9, 3]), temperature)
    value.backward()
    expected = float((queue[0, 0] - queue[1, 0]) / temperature)  # ln(e^l + 1) − l with l far below 0
    assert float(value.detach()) == pytest.approx(expected, rel=1e-4)
    assert torch.isfinite(anchor.grad).all()
    alone = queue_contrast(queue[:1], torch.tensor([3]), queue, torch.tensor([3, 3]), temperature)
    assert float(alone) == pytest.approx(0.0, abs=1e-6)  # without negatives every term is l − ln e^l
