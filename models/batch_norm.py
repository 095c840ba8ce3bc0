"""Batch norms: frozen ones, and statistics over a batch that several processes share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

_KERNELS = ("stats", "gather_stats_with_counts", "elemt", "backward_reduce", "backward_elemt")


def freeze_batch_norm(network: nn.Module) -> None:
    """Put every batch norm in eval mode and stop its affine from learning (`--freeze_bn`).

    Call it again after `network.train()`, which would undo the first half. Group norms are left alone.
    """
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.eval()
            module.weight.requires_grad_(False)
            module.bias.requires_grad_(False)


def share_batch_norm(
    network: nn.Module, device: torch.device, tell: Callable[[str], object] = print
) -> nn.Module:
    """The network with every batch norm taking its statistics over all processes; names stay as they are."""
    on_gpu = device.type == "cuda"
    if on_gpu and not all(hasattr(torch, f"batch_norm_{kernel}") for kernel in _KERNELS):
        tell("this torch lacks kernels of batch norm; nn.SyncBatchNorm is slower and makes the host wait")
        return nn.SyncBatchNorm.convert_sync_batchnorm(network)
    for module in network.modules():
        if type(module) is BatchNorm2d:  # the same parameters and buffers, another forward
            module.__class__ = FusedSharedBatchNorm2d if on_gpu else SharedBatchNorm2d
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
    """Batch norm over the batches of all processes, on any device.

    In eval mode it is its parent. Every process must hold a batch of the same shape.
    """

    def forward(self, x: Tensor) -> Tensor:
        return self._over_all(x) if self.training else super().forward(x)

    def _over_all(self, x: Tensor) -> Tensor:
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


class FusedSharedBatchNorm2d(SharedBatchNorm2d):
    """The same by the kernels and messages of nn.SyncBatchNorm, for GPUs.

    That one leaves empty processes out by a mask, for which the host waits in every forward pass.
    """

    def _over_all(self, x: Tensor) -> Tensor:
        statistics = self.running_mean, self.running_var, self.momentum, self.eps
        return _FusedNorm.apply(x, self.weight, self.bias, *statistics)


class _FusedNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        running_mean: Tensor,
        running_var: Tensor,
        momentum: float,
        eps: float,
    ) -> Tensor:
        x = _dense(x)
        every = _gathered(torch.stack(torch.batch_norm_stats(x, eps)))  # (processes, 2, C)
        counts = running_mean.new_full((len(every),), x.numel() // x.shape[1])
        mean, invstd = torch.batch_norm_gather_stats_with_counts(
            x, *every.unbind(1), running_mean, running_var, momentum, eps, counts
        )
        ctx.save_for_backward(x, weight, mean, invstd, counts.int())
        return torch.batch_norm_elemt(x, weight, bias, mean, invstd, eps)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, invstd, counts = ctx.saved_tensors
        gradient, needed = _dense(gradient), ctx.needs_input_grad[:3]
        *sums, by_weight, by_bias = torch.batch_norm_backward_reduce(
            gradient, x, mean, invstd, weight, *needed
        )
        by_x = None
        if needed[0]:
            total = torch.stack(sums)
            dist.all_reduce(total)
            by_x = torch.batch_norm_backward_elemt(gradient, x, mean, invstd, weight, *total, counts)
        return by_x, by_weight, by_bias, None, None, None, None


def _dense(x: Tensor) -> Tensor:
    return x if x.is_contiguous(memory_format=torch.channels_last) else x.contiguous()


def _gathered(x: Tensor) -> Tensor:
    """x of each process → (processes, …)."""
    every = x.new_empty(dist.get_world_size() * len(x), *x.shape[1:])
    gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor  # until torch 2.13
    gather(every, x)
    return every.unflatten(0, (-1, len(x)))


class _GatherFromProcesses(torch.autograd.Function):
    """x of each process → (processes, …); the gradient is that of all processes' losses by this one's x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _gathered(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total[dist.get_rank()]
