"""The processes that split every batch, their messages, and random choices that they make alike."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Processes:
    """Process `rank` of `size`. A batch is cut into `size` equal parts, in the order of the ranks.

    `Processes()` is one process alone: nothing is sent. local_rank: among those of this machine. host: the
    same processes over a channel between CPUs, which waits for the others but for no GPU; None: the default
    channel is such a one. Tensors of a GPU travel between GPUs, where a message is only queued, and those of
    a CPU between hosts. Every method but `print_once` and `part` must be called by all processes, with
    tensors of one shape.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    host: dist.ProcessGroup | None = None

    @property
    def is_main(self) -> bool:
        """True for the process of rank 0, which prints and writes for all."""
        return self.rank == 0

    @property
    def no_bar(self) -> bool | None:
        """Value of tqdm's `disable`: only the main process shows a bar, and only on a terminal."""
        return None if self.is_main else True

    def print_once(self, text: str) -> None:
        """Print once."""
        if self.is_main:
            print(text)

    def part(self, items: Sequence | Tensor) -> Any:
        """This process's part of a batch whose length the number of processes divides."""
        own = len(items) // self.size
        return items[self.rank * own : (self.rank + 1) * own]

    def wait(self) -> None:
        """Return when all processes have come this far."""
        self.any(False)

    @contextmanager
    def one_before_the_others(self) -> Iterator[None]:
        """The first process of each machine does the block alone (a download), then the others do it."""
        if self.local_rank != 0:
            self.wait()
        yield
        if self.local_rank == 0:
            self.wait()

    def any(self, here: bool) -> bool:
        """True if `here` is true on any process; waits for the other processes, but not for a GPU."""
        if self.size == 1:
            return here
        found = torch.tensor(int(here))
        dist.all_reduce(found, dist.ReduceOp.MAX, group=self.host)
        return bool(found)

    def sum(self, x: Tensor) -> Tensor:
        """Summed over the processes, without gradient; `x` is left alone."""
        if self.size == 1 or not x.numel():
            return x
        summed = x.detach().clone()
        dist.all_reduce(summed, group=self._channel(x))
        return summed

    def gather(self, x: Tensor) -> Tensor:
        """(b, …) of each → (b·size, …) in the order of the ranks, without gradient."""
        if self.size == 1:
            return x
        every = x.new_empty(self.size * len(x), *x.shape[1:])
        if every.numel():
            gather = (
                getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
            )  # until torch 2.13
            gather(every, x.detach().contiguous(), group=self._channel(x))
        return every

    def gather_dealt(self, x: Tensor, count: int) -> Tensor:
        """Rows of each, where row j of all `count` was dealt to process j % size → (count, …) in order."""
        if self.size == 1:
            return x
        most = -(-count // self.size)
        padded = torch.cat([x, x.new_zeros(most - len(x), *x.shape[1:])])
        every = self.gather(padded).unflatten(0, (self.size, most))
        return every.transpose(0, 1).flatten(0, 1)[:count]

    def copy_from_first(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite tensors by those of the first process."""
        if self.size > 1:
            for tensor in tensors:
                if tensor.numel():
                    dist.broadcast(tensor, src=0, group=self._channel(tensor))

    def sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Add up the gradients of all processes, in one message."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        if self.size == 1 or not gradients:
            return
        summed = torch.cat([g.flatten() for g in gradients])
        dist.all_reduce(summed, group=self._channel(summed))
        for gradient, total in zip(gradients, summed.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(total.view_as(gradient))

    def _channel(self, x: Tensor) -> dist.ProcessGroup | None:
        return self.host if x.device.type == "cpu" else None


ALONE = Processes()

# --- how processes are started ----------------------------------------------------------------------------

_RANKS, _MEETING = ("RANK", "WORLD_SIZE", "LOCAL_RANK"), ("MASTER_ADDR", "MASTER_PORT")
# Programs that start several processes, and their variables for the number of these and for the own one.
_STARTERS = {
    "srun": ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID"),
    "mpirun": ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    "mpiexec": ("PMI_SIZE", "PMI_RANK"),
}


def is_started_alone(environment: Mapping[str, str]) -> bool:
    """True if no launcher, such as torchrun, gives this process a rank."""
    return not any(environment.get(name) for name in _RANKS)


def environment_problem(environment: Mapping[str, str]) -> str | None:
    """Return what is wrong with the variables that torchrun sets, as one line; None if nothing is.

    MASTER_ADDR and MASTER_PORT by themselves give no rank, and one process does not need them.
    """
    if is_started_alone(environment):
        return None
    found = [name for name in (*_RANKS, *_MEETING) if environment.get(name)]
    needed = _RANKS if environment.get("WORLD_SIZE") == "1" else (*_RANKS, *_MEETING)
    remedy = f"start with torchrun, which sets all of them, or alone after: unset {' '.join(found)}"
    missing = [name for name in needed if name not in found]
    if missing:
        return f"the environment has {', '.join(found)} without {', '.join(missing)}; {remedy}"
    for name in (*_RANKS, "LOCAL_WORLD_SIZE", "MASTER_PORT"):
        value = environment.get(name)
        if value and name in (*needed, "LOCAL_WORLD_SIZE") and not (value.isascii() and value.isdecimal()):
            return f"{name}={value!r} is not a whole number; {remedy}"
    limits = (("RANK", "WORLD_SIZE"), ("LOCAL_RANK", "WORLD_SIZE"), ("LOCAL_RANK", "LOCAL_WORLD_SIZE"))
    for name, limit in limits:
        if environment.get(limit) and int(environment[name]) >= int(environment[limit]):
            values = f"{name}={environment[name]} of {limit}={environment[limit]}"
            return f"{values}: counted from 0, it must be smaller; {remedy}"
    if "MASTER_PORT" in needed and not 0 < int(environment["MASTER_PORT"]) < 2**16:
        return f"MASTER_PORT={environment['MASTER_PORT']} is no port (1 to 65535); {remedy}"
    return None


def started_apart(environment: Mapping[str, str]) -> str | None:
    """Return a warning, for the first of several processes that were started without ranks."""
    for starter, (size, rank) in _STARTERS.items():
        count = environment.get(size, "")
        if count.isdecimal() and int(count) > 1 and environment.get(rank, "0") == "0":
            return (
                f"warning: {starter} started {count} processes without a rank, so each works alone; for one "
                "run of all, start torchrun once on each node"
            )
    return None


class BatchDraws:
    """Random choices about a whole batch, from one CPU generator that is equal on every process.

    Choices about single images are drawn for all of them, and each process takes its part.
    """

    def __init__(self, seed: int, processes: Processes = ALONE):
        self.generator = torch.Generator().manual_seed(seed)
        self.processes = processes

    def cutmix_box(self, height: int, width: int) -> tuple[int, int, int, int] | None:
        """Draw a box (y1, y2, x1, x2) of half the area of H×W with probability 0.5, else None."""
        apply, u, v, w = torch.rand(4, generator=self.generator, dtype=torch.float64).tolist()
        if apply >= 0.5:
            return None
        part = math.exp(u * math.log(0.5))  # of the height: 0.5 to 1
        box_height, box_width = round(height * part), round(width * 0.5 / part)
        y1, x1 = round((height - box_height) * v), round((width - box_width) * w)
        return y1, y1 + box_height, x1, x1 + box_width

    def pixels(self, images: int, positions: int, count: int) -> Tensor:
        """(images, count) int64: for each image of this process, `count` different flat positions."""
        if positions < count:
            raise ValueError(f"a grid of {positions} positions has no {count} pixels to sample; lower --fbs")
        drawn = [
            torch.randperm(positions, generator=self.generator)[:count]
            for _ in range(images * self.processes.size)
        ]
        return self.processes.part(torch.stack(drawn))

    def uniform(self, images: int, channels: int) -> Tensor:
        """(images, channels) in [0, 1), for the dropout of each image of this process."""
        shape = (images * self.processes.size, channels)
        return self.processes.part(torch.rand(shape, generator=self.generator, dtype=torch.float32))


def sent(values: Tensor, device: torch.device) -> Tensor:
    """Copy a CPU tensor to the device without waiting for what a GPU still computes."""
    if device.type == "cuda" and values.device.type == "cpu":
        values = values.pin_memory()
    return values.to(device, non_blocking=True)
