"""The process from which tests fork a process for each script; see `cli_tools.start`."""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2  # noqa: F401  imported once here, not in each script
import scipy.io  # noqa: F401
import torch.utils.data

import stages.build  # noqa: F401


def run_script(words: Sequence[str], cwd: str, environment: dict[str, str], outputs: Sequence[str]) -> None:
    """Run `python words` in `cwd`, with standard output and error written to two files."""
    for number, path in enumerate(outputs, start=1):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(file, number)
        os.close(file)
    for name in ("PYTHONPATH", "PYTHONWARNINGS"):
        os.environ.pop(name, None)
    os.environ |= environment
    os.chdir(cwd)
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    sys.argv = list(words)
    sys.path[0] = str(Path(words[0]).parent)
    runpy.run_path(words[0], run_name="__main__")
