"""Two processes whose messages between GPUs are only queued, as NCCL's are (see programs.py).

The second process comes late and then writes OUT/arrived.
"""

from __future__ import annotations

import time
from pathlib import Path

import torch
import torch.distributed as dist

from utils.distributed import Processes

QUEUED: list[str] = []  # names of messages between GPUs

MESSAGES = ("all_reduce", "all_gather_into_tensor", "all_gather_single", "all_gather", "broadcast")
MESSAGES = tuple(name for name in MESSAGES if hasattr(dist, name))  # one of them is new in torch 2.14


def queue(name: str) -> None:
    """Make a collective return at once where it is given no group, and so goes between GPUs."""
    real = getattr(dist, name)

    def queued(*args: object, group: dist.ProcessGroup | None = None, **kwargs: object) -> object:
        return QUEUED.append(name) if group is None else real(*args, group=group, **kwargs)

    setattr(dist, name, queued)


def found(processes: Processes, out: Path) -> dict:
    rank, arrived = processes.rank, out / "arrived"
    result = {}
    for name, wait in {"wait": processes.wait, "only the others": lambda: others_wait(processes)}.items():
        if rank == 1:
            time.sleep(1.0)
            arrived.touch()
        wait()
        result[name] = arrived.exists()
        processes.any(False)
        arrived.unlink(missing_ok=True)
        processes.any(False)
    own = torch.tensor([[rank + 1, 5]])
    result["sum"] = processes.sum(own)
    result["gather"] = processes.gather(own)
    result["dealt"] = processes.gather_dealt(torch.arange(rank, 3, 2, dtype=torch.uint8), 3)
    processes.copy_from_first([own])
    result["copied"] = own
    return result | {"queued": list(QUEUED)}


def others_wait(processes: Processes) -> None:
    """The second process is the first of its machine, and is waited for."""
    swapped = Processes(processes.rank, 2, local_rank=1 - processes.rank, host=processes.host)
    with swapped.one_before_the_others():
        pass


def empty(processes: Processes) -> dict:
    """Nothing is sent of tensors without a number."""
    sent = len(QUEUED)
    for name in MESSAGES:
        setattr(dist, name, lambda *_, **__: QUEUED.append("empty"))
    x = torch.zeros(1, 0)
    result = {"gather": processes.gather(x), "sum": processes.sum(x)}
    result["dealt"] = processes.gather_dealt(x[:0], 0)
    processes.copy_from_first([x])
    processes.sum_gradients([])
    return result | {"sent": QUEUED[sent:]}


def results(rank: int, size: int, out: Path) -> dict:
    """The outcome of each message, and of messages without a number."""
    for name in MESSAGES:
        queue(name)
    processes = Processes(rank, size, host=dist.new_group(backend="gloo"))
    return {"found": found(processes, out), "empty": empty(processes)}
