"""Find losses and gradients that are not finite, without waiting for the device."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from utils.distributed import ALONE, Processes


class NotFinite(NamedTuple):
    """The first iteration with a loss or a gradient that is not finite, and its losses."""

    iteration: int
    losses: dict[str, float]

    def __str__(self) -> str:
        values = ", ".join(f"{name} {value:.6g}" for name, value in self.losses.items())
        wrong = [name for name, value in self.losses.items() if not abs(value) < float("inf")]
        what = f"loss {', '.join(wrong)} is" if wrong else "a gradient is"
        return f"iteration {self.iteration}: {what} not finite ({values})"


def finite(tensors: Iterable[Tensor]) -> Tensor:
    """Return a 0-d bool on the device of the tensors (one at least): True if all numbers are finite."""
    by_dtype: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        by_dtype.setdefault(tensor.dtype, []).append(tensor.detach())
    sums = [torch.stack(torch._foreach_norm(same)).double().sum() for same in by_dtype.values()]
    return sum(sums).isfinite()


class FiniteWatch:
    """Collects the result of `finite` for each iteration; only `first_bad` waits for the device."""

    def __init__(self, processes: Processes = ALONE):
        self._processes = processes
        self._waiting: list[tuple[int, dict[str, Tensor], Tensor]] = []

    def add(self, iteration: int, losses: dict[str, Tensor], ok: Tensor) -> None:
        """Add an iteration: this process's part of the losses, and `finite` of losses and gradients."""
        self._waiting.append((iteration, losses, ok))

    def first_bad(self) -> NotFinite | None:
        """Return the first bad iteration since the last call, the same on all processes, or None."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return None
        bad = self._processes.sum(torch.stack([~ok for *_, ok in waiting]).double()).tolist()
        for count, (iteration, losses, _) in zip(bad, waiting, strict=True):
            if count:
                whole = self._processes.sum(torch.stack([loss.double() for loss in losses.values()]))
                return NotFinite(iteration, dict(zip(losses, whole.tolist(), strict=True)))
        return None
