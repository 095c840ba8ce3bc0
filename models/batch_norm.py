"""Batch norms: frozen ones, and statistics over a batch that several processes share."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm


def freeze_batch_norm(network: nn.Module) -> None:
    """Put every batch norm in eval mode and stop its affine from learning (`--freeze_bn`).

    Call it again after `network.train()`, which would undo the first half. Group norms are left alone.
    """
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.eval()
            module.weight.requires_grad_(False)
            module.bias.requires_grad_(False)


def share_batch_norm(network: nn.Module, device: torch.device) -> nn.Module:
    """The network with every batch norm taking its statistics over all processes; names stay as they are."""
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(network)
    for module in network.modules():
        if type(module) is BatchNorm2d:
            module.__class__ = SharedBatchNorm2d  # the same parameters and buffers, another forward
    return network


class BatchNorm2d(nn.BatchNorm2d):
    """Batch norm that does not count its batches: `count_batch` counts for all norms of a network at once."""

    def forward(self, x: Tensor) -> Tensor:
        statistics = self.running_mean, self.running_var
        return F.batch_norm(x, *statistics, self.weight, self.bias, self.training, self.momentum, self.eps)


@torch.no_grad()
def count_batch(network: nn.Module) -> None:
    """Count a batch in every norm that takes its statistics from it, in one operation on the device."""
    norms = (m for m in network.modules() if isinstance(m, BatchNorm2d) and m.training)
    if counts := [norm.num_batches_tracked for norm in norms]:
        torch._foreach_add_(counts, 1)


class SharedBatchNorm2d(BatchNorm2d):
    """Batch norm over the batches of all processes, on any device; torch's SyncBatchNorm refuses CPU tensors.

    In eval mode it is its parent. Every process must hold a batch of the same shape.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        given, x = x.dtype, x.to(self.weight.dtype)  # statistics of autocast's bf16 are taken in float32
        count = x.numel() // x.shape[1] * dist.get_world_size()
        variances, means = torch.var_mean(x, dim=(0, 2, 3), correction=0)
        every = _GatherFromProcesses.apply(torch.stack([means, variances]))  # (processes, 2, C)
        mean = every[:, 0].mean(dim=0)  # (C,)
        var = every[:, 1].mean(dim=0) + (every[:, 0] - mean).square().mean(dim=0)
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * count / (count - 1), self.momentum)
        scale = self.weight * (var + self.eps).rsqrt()
        return ((x - mean[:, None, None]) * scale[:, None, None] + self.bias[:, None, None]).to(given)


class _GatherFromProcesses(torch.autograd.Function):
    """x of each process → (processes, …); the gradient is that of all processes' losses by this one's x."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.stack(parts)

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total[dist.get_rank()]
