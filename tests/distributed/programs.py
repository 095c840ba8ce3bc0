"""Starting a test program as several processes that share one run."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).parents[2]


def run_program(name: str, out: Path, size: int) -> None:
    """Run `python name OUT`, a file of this folder, as `size` processes to their good end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(size)}
    shared |= {"PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, Path(__file__).with_name(name), out]
    running = [subprocess.Popen(command, env=os.environ | shared | {"RANK": str(r)}) for r in range(size)]
    assert [process.wait(300) for process in running] == [0] * size
