"""The loss of sampled pixels, against a plain form that shifts arrays and reads their last row."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from loss import ClassBalancedSelfLabeling, RingQueue

B, P, D, K = 3, 4, 6, 5
TAU, EPSILON, ITERATIONS = 0.08, 0.05, 3
PRIOR = np.array([0.4, 0.25, 0.2, 0.1, 0.05])


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def plain_sinkhorn(scores: np.ndarray) -> np.ndarray:
    q = np.exp(scores / EPSILON).T
    q = q / q.sum()
    for _ in range(ITERATIONS):
        q = q / q.sum(axis=1, keepdims=True) * PRIOR[:, None]
        q = q / q.sum(axis=0, keepdims=True) / len(scores)
    return (q * len(scores)).T


class PlainSelfLabeling:
    """Queues start as zeros, the newest rows at the front; a queue is full when its last row is not zero."""

    def __init__(self, length: int, raw: bool):
        self.features, self.labels = np.zeros((length, D)), np.zeros(length)
        self.predictions, self.raw = np.zeros((length, K)), raw

    @staticmethod
    def pushed(queue: np.ndarray, new: np.ndarray) -> np.ndarray:
        return np.concatenate([new, queue])[: len(queue)]

    def __call__(self, feats, logits, labels, prototypes) -> tuple[float, bool]:
        found_full, first, second = False, [], []
        for image in range(len(feats)):
            pixels, predicted = unit(feats[image]), unit(logits[image])
            scores = pixels @ unit(prototypes).T
            rows = scores
            if (self.features[-1] != 0).any():
                found_full = True
                queue_centres = prototypes if self.raw else unit(prototypes)
                rows = np.concatenate([self.features @ queue_centres.T, scores])
            q1 = plain_sinkhorn(rows)[-len(pixels) :]
            self.features = self.pushed(self.features, pixels)
            self.labels = self.pushed(self.labels, labels[image])

            rows = predicted
            if (self.predictions[-1] != 0).any():
                rows = np.concatenate([self.predictions, predicted])
            q2 = plain_sinkhorn(rows)[-len(pixels) :]
            self.predictions = self.pushed(self.predictions, predicted)

            exp = np.exp(scores / TAU)
            log_probs = np.log(exp / exp.sum(axis=1, keepdims=True))
            first.append(-(q1 * log_probs).sum(axis=1).mean())
            second.append(-(q2 * log_probs).sum(axis=1).mean())
        return float(np.mean(first) + np.mean(second)), found_full


def draw(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(B, P, D)), rng.normal(size=(B, P, K)), rng.integers(0, K, (B, P)).astype(float)


def prototypes() -> np.ndarray:
    """Drifted off the unit sphere, so that raw and normalised scores differ."""
    rng = np.random.default_rng(99)
    return unit(rng.normal(size=(K, D))) * rng.uniform(0.5, 1.4, (K, 1))


def module(length: int, raw: bool = True) -> ClassBalancedSelfLabeling:
    start, prior = torch.from_numpy(prototypes()), torch.from_numpy(PRIOR)
    built = ClassBalancedSelfLabeling(start, prior, 1, length, TAU, EPSILON, ITERATIONS, raw_queue_scores=raw)
    built.double().load_state_dict(built.state_dict() | {"prototypes": start, "prior": prior})
    return built


# One batch brings 12 rows. 1000: never full. 24: full after two whole batches. 8: fills inside the first.
# 10, 13: lengths that neither image nor batch divides. 4: one image fills it.
@pytest.mark.parametrize("length", [1000, 24, 8, 10, 13, 4])
@pytest.mark.parametrize("raw", [True, False])
def test_three_batches_equal_the_plain_form(length, raw):
    ours, plain = module(length, raw), PlainSelfLabeling(length, raw)
    for step in range(3):
        feats, logits, labels = draw(step)
        value, found_full, _ = ours.sampled_loss(*arguments(step))
        expected, expected_full = plain(feats, logits, labels, prototypes())
        assert float(value.detach()) == pytest.approx(expected, rel=1e-10)
        assert found_full is expected_full
        if expected_full:
            for name, rows in (("features", plain.features), ("predictions", plain.predictions)):
                np.testing.assert_allclose(ours.queues[name].newest_first().numpy(), rows, atol=1e-12)
            np.testing.assert_allclose(ours.queues.labels.newest_first()[:, 0].numpy(), plain.labels)


def arguments(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    feats, logits, labels = map(torch.from_numpy, draw(seed))
    return F.normalize(feats, dim=2), F.normalize(logits, dim=2), labels[..., None]


def test_the_expected_image_is_the_first_to_find_the_queue_full():
    ours = module(2 * B * P)
    assert [ours.sampled_loss(*arguments(s)).queue_was_full for s in range(4)] == [False, False, True, True]
    assert module(P * (B - 1)).sampled_loss(*arguments()).queue_was_full is True  # its next image meets it
    assert module(P * B).sampled_loss(*arguments()).queue_was_full is False


def test_losses_of_own_images_add_up_and_fill_the_same_queues():
    whole, parts = module(P), [module(P), module(P)]
    loss = whole.sampled_loss(*arguments()).loss
    own = (range(1), range(1, B))
    found = [ours.sampled_loss(*arguments(), of).loss for ours, of in zip(parts, own, strict=True)]
    torch.testing.assert_close(sum(found), loss)
    for ours in parts:
        torch.testing.assert_close(ours.state_dict(), whole.state_dict(), rtol=0, atol=0)


def test_assignments_are_returned_on_request():
    """For each image by features and by predictions; of queue rows, then of its own pixels."""
    found = module(P).sampled_loss(*arguments(), show=True).assignments
    assert [x.shape for x in found] == [(P, K), (P, K), *[(2 * P, K)] * (2 * B - 2)]
    expected = plain_sinkhorn(unit(arguments()[1][0].numpy()))
    np.testing.assert_allclose(found[1].numpy(), expected, rtol=1e-6)
    assert module(P).sampled_loss(*arguments()).assignments == []


def test_the_gradient_is_that_of_a_constant_assignment_and_reaches_the_prototypes_only():
    """q carries no gradient: finite differences with q held fixed give the same slope."""
    feats, logits, labels = arguments()
    feats.requires_grad_()
    logits.requires_grad_()
    ours = module(1000)
    ours.sampled_loss(feats, logits, labels).loss.backward()
    assert [name for name, _ in ours.named_parameters()] == ["prototypes"]
    assert feats.grad is None and logits.grad is None
    feats, logits = feats.detach().numpy(), logits.detach().numpy()
    centres = unit(prototypes()).T
    constant = [plain_sinkhorn(unit(feats[i]) @ centres) + plain_sinkhorn(unit(logits[i])) for i in range(B)]

    def loss(at: np.ndarray) -> float:
        total = 0.0
        for i in range(B):
            exp = np.exp(unit(feats[i]) @ unit(at).T / TAU)
            total -= (constant[i] * np.log(exp / exp.sum(axis=1, keepdims=True))).sum(axis=1).mean() / B
        return total

    for k, d in ((0, 0), (2, 3), (4, 5)):
        up, down = prototypes(), prototypes()
        up[k, d] += 1e-6
        down[k, d] -= 1e-6
        slope = (loss(up) - loss(down)) / 2e-6
        assert float(ours.prototypes.grad[k, d]) == pytest.approx(slope, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("length", [4, 6, 7, 12, 13, 100])
def test_ring_queue_equals_a_shifted_array(length):
    """Also of lengths that no push divides, pushed in pieces of unequal size."""
    rng = np.random.default_rng(length)
    ring, shifted, seen = RingQueue(length, 2), np.zeros((length, 2)), 0
    for count in (3, 1, 4, 4, 2, 3, 3, 4, 1, 4):
        rows = rng.normal(size=(count, 2)).astype(np.float32)
        assert ring.is_full == (seen >= length)
        ring.enqueue_(torch.from_numpy(rows))
        shifted, seen = np.concatenate([rows, shifted])[:length], seen + count
        np.testing.assert_array_equal(ring.newest_first().numpy(), shifted)


def test_ring_queue_refuses_more_rows_than_it_has():
    with pytest.raises(ValueError, match=r"6 rows.*5.*make it longer"):
        RingQueue(5, 1).enqueue_(torch.zeros(6, 1))
