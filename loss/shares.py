"""Losses of a batch that several processes share.

Each process returns its share: the sum over its own pixels, divided by the count over the whole batch. The
shares, and the gradients, add up to those of the loss of the whole batch. A count is summed over the
processes by a `Total`; with one process that is `alone`.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

Total = Callable[[Tensor], Tensor]


def alone(x: Tensor) -> Tensor:
    """What one process has is all there is."""
    return x
