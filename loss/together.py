"""Images of all processes of torch.distributed, brought together; of one process alone where none runs.

Every process must call these, with the same number of images. group: the processes meant, by default all.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def place(group: dist.ProcessGroup | None = None) -> tuple[int, int]:
    """(rank, size) of this process in the group; (0, 1) where torch.distributed is not initialised."""
    if not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    return dist.get_rank(group), dist.get_world_size(group)


@torch.no_grad()
def gathered(x: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    """(b, …) of each process → (b·size, …) in the order of the ranks, without gradient."""
    _, size = place(group)
    if size == 1:
        return x.detach()
    own = x.detach().contiguous()
    parts = [torch.empty_like(own) for _ in range(size)]
    dist.all_gather(parts, own, group=group)
    return torch.cat(parts)


def summed(x: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    """Of any shape, added up over the processes, without gradient; a `Total` of loss.shares."""
    return gathered(x[None], group).sum(dim=0)
