"""Handle signals that ask a run to end: it finishes the iteration, saves, and can be continued."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from types import FrameType
from typing import IO

from utils.distributed import Processes
from utils.workers import ENDING_SIGNALS

_ONE_ASKING = 1.0  # seconds; a copy gets a SIGINT from its sender, and from the process that started it
CAN_CONTINUE = 75  # exit code of a run that was interrupted and saved (EX_TEMPFAIL of sysexits.h: try again)
Handler = Callable[[int, FrameType | None], None]


class Interrupted(Exception):
    """Raised to stop training early after a signal."""


class Interruption:
    """Catches the signals that ask the run to end, within a `with` block.

    SIGINT (Ctrl-C), SIGTERM, SIGUSR1 (a scheduler's warning), SIGHUP. A second Ctrl-C ends the run at once.
    """

    def __init__(self):
        self.asked_by: str | None = None
        self._interrupted = 0.0  # time of the first SIGINT

    def __enter__(self) -> Interruption:
        self._handling = ExitStack()
        self._handling.enter_context(_handled(self._note))
        return self

    def __exit__(self, *_: object) -> None:
        self._handling.close()

    def raise_if_asked(self, processes: Processes) -> None:
        """Raise `Interrupted` on all processes at the same call if any of them has had a signal."""
        if processes.any(self.asked_by is not None):
            raise Interrupted

    def _note(self, number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if number == signal.SIGINT and self._interrupted and now - self._interrupted > _ONE_ASKING:
            with suppress(OSError):
                os.write(2, b"error: ended at once; what was saved before is whole\n")
            os._exit(128 + signal.SIGINT)
        if number == signal.SIGINT:
            self._interrupted = self._interrupted or now
        self.asked_by = signal.Signals(number).name


@contextmanager
def _handled(handler: Handler) -> Iterator[None]:
    """Handle the ending signals in the block, except those that are ignored (nohup)."""
    caught = [number for number in ENDING_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in caught}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def start_apart(
    words: Sequence[str], environment: dict[str, str], output: IO[bytes] | None = None
) -> subprocess.Popen:
    """Start a process in its own session: a Ctrl-C reaches it only through this process.

    output: a file that takes all that it prints.
    """
    errors = None if output is None else subprocess.STDOUT
    return subprocess.Popen(words, env=environment, start_new_session=True, stdout=output, stderr=errors)


@contextmanager
def passed_on(
    children: Sequence[subprocess.Popen], starting: AbstractContextManager | None = None
) -> Iterator[list[int]]:
    """Pass signals on to the children (`start_apart`), which decide what to do; yields the list of signals.

    A child that is not in the list yet misses a signal, so look at the list of signals after adding it.
    starting: a lock instead, which another thread holds while it looks at that list and adds a child.
    """
    passed: list[int] = []

    def send(number: int, _frame: FrameType | None) -> None:
        with starting or nullcontext():
            passed.append(number)
            send_to(children, number)

    with _handled(send):
        yield passed


def send_to(children: Sequence[subprocess.Popen], number: int) -> None:
    """Send a signal to the children that still run."""
    for child in children:
        if child.poll() is None:
            child.send_signal(number)
