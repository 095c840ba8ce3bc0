"""Set-up of worker processes."""

from __future__ import annotations

import ctypes
import signal
import sys
from contextlib import suppress
from types import TracebackType

# Ask a program to end: Ctrl-C, a scheduler's stop, a scheduler's warning, a lost terminal.
ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h


def set_up_worker(_number: int = 0) -> None:
    """Set up a worker: ignore signals, which the main process handles; it ends its workers.

    A thread of multiprocessing hands tensors to the main process. Its error is not printed when the main
    process has ended.
    """
    for number in ENDING_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    print_error = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not issubclass(kind, ConnectionError | EOFError):
            print_error(kind, error, trace)

    sys.excepthook = hook
    reuse_freed_memory()


def reuse_freed_memory() -> None:
    """Let the next sample use the memory of the last one.

    By default glibc gives large blocks back to the system. To take them again costs a page fault every 4 KB,
    a fifth of a sample's time.
    """
    with suppress(AttributeError, OSError):  # another C library than glibc
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**28)
        libc.mallopt(_M_MMAP_THRESHOLD, 2**25)
