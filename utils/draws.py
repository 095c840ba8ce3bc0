"""Random choices about a whole batch."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from utils.distributed import ALONE, Processes


class BatchDraws:
    """Random choices about a whole batch, from one CPU generator that is equal on every process.

    Choices about single images are drawn for all of them, and each process takes its part.
    """

    def __init__(self, seed: int, processes: Processes = ALONE):
        self.generator = torch.Generator().manual_seed(seed)
        self.processes = processes

    def cutmix_box(self, height: int, width: int) -> tuple[int, int, int, int] | None:
        """Draw a box (y1, y2, x1, x2) of half the area of H×W with probability 0.5, else None."""
        apply, u, v, w = torch.rand(4, generator=self.generator, dtype=torch.float64).tolist()
        if apply >= 0.5:
            return None
        part = math.exp(u * math.log(0.5))  # of the height: 0.5 to 1
        box_height, box_width = round(height * part), round(width * 0.5 / part)
        y1, x1 = round((height - box_height) * v), round((width - box_width) * w)
        return y1, y1 + box_height, x1, x1 + box_width

    def pixels(self, images: int, positions: int, count: int) -> Tensor:
        """(images, count) int64: for each image of this process, `count` different flat positions."""
        if positions < count:
            raise ValueError(f"a grid of {positions} positions has no {count} pixels to sample; lower --fbs")
        drawn = [
            torch.randperm(positions, generator=self.generator)[:count]
            for _ in range(images * self.processes.size)
        ]
        return self.processes.part(torch.stack(drawn))

    def uniform(self, images: int, channels: int) -> Tensor:
        """(images, channels) in [0, 1), for the dropout of each image of this process."""
        shape = (images * self.processes.size, channels)
        return self.processes.part(torch.rand(shape, generator=self.generator, dtype=torch.float32))
