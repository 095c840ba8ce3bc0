"""Start `results(rank, size, out)` of a file of this folder as several processes that share one run.

    python programs.py NAME OUT    (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT as torchrun sets them)

Each process writes what it found to OUT/SIZE_RANK.pt.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import torch
import torch.distributed as dist

PROJECT = Path(__file__).parents[2]


def by_rank(name: str, out: Path, size: int) -> list[dict]:
    """Return what each of `size` processes found."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(size)}
    shared |= {"PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, name, out]
    running = [subprocess.Popen(command, env=os.environ | shared | {"RANK": str(r)}) for r in range(size)]
    assert [process.wait(300) for process in running] == [0] * size
    return [torch.load(out / f"{size}_{rank}.pt", weights_only=True) for rank in range(size)]


def main() -> None:
    """Take part in a run."""
    name, out = sys.argv[1], Path(sys.argv[2])
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, size = dist.get_rank(), dist.get_world_size()
    found = import_module(f"tests.distributed.{name}").results(rank, size, out)
    torch.save(found, out / f"{size}_{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
