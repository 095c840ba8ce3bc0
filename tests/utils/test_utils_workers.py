"""Workers ignore signals; files are written in the background and errors come out."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from utils.workers import BackgroundWriter, HandOverError, parallel_map

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
    files = "sys.excepthook(OSError, OSError(24, 'Too many open files'), None)\nsys.stderr.write('lives')"
    said = said_by(files)  # in the thread that hands tensors over, which would go on
    assert said.count("\n") == 1 and "lives" not in said and "ulimit -n" in said


def unsendable(_: int) -> Callable[[], None]:
    return lambda: None


def test_what_a_worker_cannot_hand_over_ends_the_iteration():
    def late(*_: object) -> None:
        raise TimeoutError("the main process waits for ever")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(60)
    try:
        with pytest.raises(HandOverError, match=r"DataLoader worker cannot hand over .*lambda"):
            list(parallel_map(unsendable, [1, 2], 1, "title"))
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def test_a_script_ends_though_its_workers_ignore_the_signal_to_end():
    program = """
import multiprocessing, signal, time
from utils.errors import run_script

def work(ready):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    ready.set()
    time.sleep(1000)

def main():
    fork = multiprocessing.get_context("fork")
    ready = fork.Event()
    fork.Process(target=work, args=(ready,), daemon=True).start()
    ready.wait()
    raise OSError(24, "Too many open files")

run_script(main)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and "Too many open files; raise the limit (ulimit -n" in done.stderr


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
