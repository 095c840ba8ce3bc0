"""The size of the network's output, for everything that knows only the size of an image."""

from __future__ import annotations

import math

import numpy as np


def grid_size(width: int, height: int) -> tuple[int, int]:
    """(w, h) of the network's output for an image of size (W, H): half, half (ceil mode), half."""
    halves = [((n - 1) // 2 + 1) for n in (width, height)]
    quarters = [-(-(n - 1) // 2) + 1 for n in halves]
    return (quarters[0] - 1) // 2 + 1, (quarters[1] - 1) // 2 + 1


def aligned_index(length: int, count: int) -> np.ndarray:
    """(count,) positions of `length` that a bilinear resize with aligned corners is nearest to."""
    return np.linspace(0, length - 1, count).round().astype(np.int64)


def crop_problem(crop: tuple[int, int], whole: tuple[int, int]) -> str | None:
    """The reason why stage 1 cannot learn from crops of images of these sizes (W, H), as one line."""
    if math.prod(grid_size(*crop)) <= math.prod(grid_size(*whole)):
        return None
    return f"--rcrop {crop[0]},{crop[1]}: larger than the images, which stage 1 cannot label"
