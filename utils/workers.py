"""Work beside the main thread: worker processes, and files written in the background."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from multiprocessing.queues import Queue
from types import TracebackType
from typing import Any

import tqdm
from torch.utils.data import DataLoader

from utils.errors import one_line

# Ask a program to end: Ctrl-C, a scheduler's stop, a scheduler's warning, a lost terminal.
ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h
_THREADS, _WAITING = 2, 8  # of a `BackgroundWriter`


def cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def set_up_worker(_number: int = 0) -> None:
    """Set up a worker: ignore signals, which the main process handles; it ends its workers.

    Threads of multiprocessing hand tensors to the main process. Where one fails, the main process would wait
    for ever: the error goes there instead of the tensors, or it ends the worker. It is not printed when the
    main process has ended.
    """
    for number in ENDING_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    Queue._on_queue_feeder_error = _hand_over_error
    print_error = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not issubclass(kind, ConnectionError | EOFError):
            message = one_line(error)
            print_error(kind, error, trace) if message is None else sys.stderr.write(f"error: {message}\n")
            os._exit(1)

    sys.excepthook = hook
    reuse_freed_memory()


class HandOverError(RuntimeError):
    """Raised where a worker could not hand an item over."""


def _hand_over_error(queue: Queue, error: Exception, item: tuple) -> None:
    """Send why an item (index, value) cannot be sent; a method of the worker's queue."""
    queue.put((item[0], HandOverError(f"DataLoader worker cannot hand over what it read ({error})")))


def received(loader: DataLoader) -> Iterator[Any]:
    """Yield the loader's items; an error of the machine, such as a lost worker, ends the iteration."""
    try:
        items = iter(loader)
    except OSError as error:
        raise OSError(f"processes that load data cannot start ({error})") from None
    try:
        for item in items:
            if isinstance(item, HandOverError):
                raise item
            yield item
    except (ConnectionError, EOFError) as error:  # the worker ended while it handed a tensor over
        raise RuntimeError(f"DataLoader worker was lost ({error})") from None
    finally:
        del items  # ends the workers, even where a traceback keeps this frame


def reuse_freed_memory() -> None:
    """Let the next sample use the memory of the last one.

    By default glibc gives large blocks back to the system. To take them again costs a page fault every 4 KB,
    a fifth of a sample's time.
    """
    with suppress(AttributeError, OSError):  # another C library than glibc
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**28)
        libc.mallopt(_M_MMAP_THRESHOLD, 2**25)


def parallel_map(
    function: Callable[[Any], Any], items: Sequence, workers: int, title: str, no_bar: bool | None = None
) -> Iterator[Any]:
    """Yield function(item) of each item, in order, with a progress bar; workers 0: in this process.

    no_bar: for tqdm's `disable`; None shows the bar in terminals only.
    """
    workers = min(workers, len(items))
    loader = DataLoader(
        items, batch_size=None, collate_fn=function, num_workers=workers, worker_init_fn=set_up_worker
    )
    yield from tqdm.tqdm(
        received(loader), desc=title, total=len(items), unit="img", leave=False, disable=no_bar
    )


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
