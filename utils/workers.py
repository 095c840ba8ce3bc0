"""Set-up of worker processes that load data."""

from __future__ import annotations

import signal
import sys
from types import TracebackType

# Ask a program to end: Ctrl-C, a scheduler's stop, a scheduler's warning, a lost terminal.
ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)


def set_up_worker() -> None:
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
