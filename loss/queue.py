"""Queues of pixels from earlier batches (paper, section 3.3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def take_pixels(maps: Tensor, pixels: Tensor) -> Tensor:
    """maps (B, C, h, w) at flat positions (B, P) → (B, P, C)."""
    index = pixels[:, None].expand(-1, maps.shape[1], -1)
    return maps.flatten(2).gather(2, index).transpose(1, 2)


class RingQueue(nn.Module):
    """The newest N rows of a stream, as buffers: `rows` (N, C), next position, number of rows written."""

    def __init__(self, length: int, channels: int):
        super().__init__()
        self.register_buffer("rows", torch.zeros(length, channels))
        self.register_buffer("position", torch.zeros((), dtype=torch.int64))
        self.register_buffer("written", torch.zeros((), dtype=torch.int64))
        self._host = None  # (position, written) on the host, so that no step waits for the device

    def _counters(self) -> tuple[int, int]:
        if self._host is None:
            self._host = (int(self.position), int(self.written))
        return self._host

    @property
    def filled(self) -> int:
        """Number of rows that have been written, at most N."""
        return self._counters()[1]

    @property
    def is_full(self) -> bool:
        """True if every row has been written."""
        return self.filled >= len(self.rows)

    @torch.no_grad()
    def enqueue_(self, new: Tensor) -> None:
        """Overwrite the oldest rows by `new` (P, C), P ≤ N."""
        position, written = self._counters()
        length = len(self.rows)
        if len(new) > length:
            raise ValueError(
                f"{len(new)} rows do not fit a queue of {length}; make it longer, or sample fewer pixels"
            )
        start = (position - len(new)) % length  # backwards, so that `newest_first` is one roll
        before_wrap = min(len(new), length - start)
        self.rows[start : start + before_wrap] = new[:before_wrap]
        self.rows[: len(new) - before_wrap] = new[before_wrap:]
        self._host = (start, min(written + len(new), length))
        self.position.fill_(self._host[0])
        self.written.fill_(self._host[1])

    def newest_first(self) -> Tensor:
        """(N, C): the rows of the last `enqueue_` first, each call's rows in their own order."""
        return self.rows.roll(-self._counters()[0], dims=0)

    def _load_from_state_dict(self, *args, **kwargs) -> None:
        self._host = None
        super()._load_from_state_dict(*args, **kwargs)
