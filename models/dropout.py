"""Channel dropout whose masks can be drawn for a whole batch, of which a process holds a part."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn


class BatchDropout2d(nn.Dropout2d):
    """torch's Dropout2d; with `uniform` set it takes its random numbers from there.

    uniform(b, C) → (b, C) numbers in [0, 1), one for each channel of each of this process's images.
    """

    uniform: Callable[[int, int], Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0 or self.uniform is None:
            return super().forward(x)
        keep = self.uniform(*x.shape[:2]) >= self.p
        scale = (keep / (1.0 - self.p)).to(x.device, x.dtype, non_blocking=True)
        return x * scale[:, :, None, None]


def draw_dropout_from(network: nn.Module, uniform: Callable[[int, int], Tensor]) -> None:
    """Give every dropout of a network its source of random numbers."""
    for module in network.modules():
        if isinstance(module, BatchDropout2d):
            module.uniform = uniform
