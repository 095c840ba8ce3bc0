"""The prior from predictions, against plain counting."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from loss import ClassCounter, class_frequencies, occurrences

B, K, H, W = 2, 5, 3, 4


def logits(seed: int) -> torch.Tensor:
    return torch.randn(B, K, H, W, generator=torch.Generator().manual_seed(seed))


def test_counts_equal_plain_loops():
    counter, expected = ClassCounter(K), np.zeros(K, np.int64)
    for seed in range(3):
        counter.add_(logits(seed))
        for b, y, x in np.ndindex(B, H, W):
            expected[int(np.argmax(logits(seed)[b, :, y, x].numpy()))] += 1
    np.testing.assert_array_equal(counter.counts.numpy(), expected)
    assert expected.min() > 0
    np.testing.assert_allclose(counter.take_().numpy(), expected / expected.sum(), rtol=1e-6)
    assert not counter.counts.any()


def test_counting_asks_the_device_for_nothing():
    """A meta tensor has no values: what needs one on the host fails."""
    occurrences(torch.zeros(7, dtype=torch.int64, device="meta"), K)
    ClassCounter(K).to("meta").add_(logits(0).to("meta"))


def test_processes_are_added_up():
    counter = ClassCounter(K, total=lambda counts: 3 * counts)
    counter.add_(logits(0))
    assert int(counter.counts.sum()) == 3 * B * H * W


@pytest.mark.parametrize("counts", [[0, 10**12, 1, 10**6, 0], [1, 0, 0, 0, 0]])
def test_no_class_is_given_up(counts):
    """Absent classes get the least frequency; the others keep their ratios."""
    found = class_frequencies(torch.tensor(counts), least=1e-3).double().numpy()
    raised = [max(count / sum(counts), 1e-3) for count in counts]
    np.testing.assert_allclose(found, np.array(raised) / sum(raised), rtol=1e-6)
    assert found.min() > 1e-3 / (1 + K * 1e-3) * 0.999999
    assert found.sum() == pytest.approx(1, abs=1e-6)
