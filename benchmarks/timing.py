"""Medians."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np


def median_ms(call: Callable[[int], object], count: int, warm_up: int = 1) -> float:
    """Median of `count` calls with 0, 1, …, after some that warm up."""
    for i in range(warm_up):
        call(i)
    times = []
    for i in range(count):
        start = time.perf_counter()
        call(i)
        times.append(time.perf_counter() - start)
    return 1000 * float(np.median(times))
