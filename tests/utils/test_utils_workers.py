"""Workers ignore signals, and say nothing when the main process has ended."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).parents[2]


def said_by(lines: str) -> str:
    """The standard error of a worker."""
    program = f"import os, signal, sys\nfrom utils.workers import set_up_worker\nset_up_worker()\n{lines}"
    return subprocess.run([sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True).stderr


def test_a_lost_connection_is_not_told_but_other_errors_are():
    assert said_by("raise EOFError") == said_by("raise ConnectionResetError(104, 'reset by peer')") == ""
    assert said_by("raise OSError(28, 'disk full')").endswith("disk full\n")


def test_signals_are_for_the_other():
    numbers = "signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP"
    lives = f"for number in ({numbers}):\n    os.kill(os.getpid(), number)\nsys.stderr.write('lives')"
    assert said_by(lives) == "lives"
