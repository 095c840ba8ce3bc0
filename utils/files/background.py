"""Files written in the background while the device computes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

_THREADS, _WAITING = 2, 8


class BackgroundWriter:
    """Call functions in two threads; at the end of its `with` block all have returned.

    At most 8 wait at a time: then `do` waits too. The first error is raised by the next `do` or by the end of
    the block; calls that have not begun by then are dropped.
    """

    def __init__(self):
        self._pool = ThreadPoolExecutor(_THREADS)
        self._waiting: deque[Future] = deque()

    def __enter__(self) -> BackgroundWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            while self._waiting and kind is None:
                self._waiting.popleft().result()
        finally:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def do(self, function: Callable[..., object], *arguments: Any) -> None:
        """Call a function soon."""
        while self._waiting and (len(self._waiting) >= _WAITING or self._waiting[0].done()):
            self._waiting.popleft().result()
        self._waiting.append(self._pool.submit(function, *arguments))
