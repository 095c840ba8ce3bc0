"""Workers ignore signals; files are written in the background and errors come out."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from utils.workers import BackgroundWriter

PROJECT = Path(__file__).parents[2]


def said_by(lines: str) -> str:
    """The standard error of a worker."""
    program = f"import os, signal, sys\nfrom utils.workers import set_up_worker\nset_up_worker()\n{lines}"
    return subprocess.run([sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True).stderr


def test_a_worker_ignores_signals_and_lost_connections_but_not_other_errors():
    numbers = "signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP"
    lives = f"for number in ({numbers}):\n    os.kill(os.getpid(), number)\nsys.stderr.write('lives')"
    assert said_by(f"{lives}\nraise EOFError") == "lives"
    assert said_by("raise ConnectionResetError(104, 'reset by peer')") == ""
    assert said_by("raise OSError(28, 'disk full')").endswith("disk full\n")


def test_no_more_than_ten_are_held_and_all_is_done_at_the_end():
    """Two at work and eight that wait: an eleventh must wait for the first."""
    gate, submitted, done = threading.Event(), [], []
    with BackgroundWriter() as writer:

        def submit() -> None:
            for i in range(20):
                writer.do(lambda i=i: (gate.wait(10), done.append(i)))
                submitted.append(i)

        thread = threading.Thread(target=submit)
        thread.start()
        time.sleep(0.3)
        held = len(submitted)
        gate.set()
        thread.join()
    assert held <= 10 and sorted(done) == list(range(20))


def fail() -> None:
    raise OSError("the disk is full")


def test_an_error_is_raised_at_the_end_of_the_block_or_by_a_later_call():
    with pytest.raises(OSError, match="disk is full"), BackgroundWriter() as writer:
        writer.do(fail)
    count = 0
    with pytest.raises(OSError, match="disk is full"), BackgroundWriter() as writer:
        writer.do(fail)
        for _ in range(1000):
            time.sleep(0.005)
            count += 1
            writer.do(time.sleep, 0)
    assert count < 100


def test_an_error_of_the_block_is_not_hidden_and_nothing_new_begins():
    begun = []
    with pytest.raises(ValueError, match="of the block"), BackgroundWriter() as writer:
        for i in range(8):
            writer.do(lambda i=i: (begun.append(i), time.sleep(0.2), fail()))
        raise ValueError("of the block")
    assert len(begun) <= 4
