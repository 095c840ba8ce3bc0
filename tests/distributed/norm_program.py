"""Batch norms over the images of all processes, also those for GPUs (see programs.py).

By kind of norm and case: what two forward and backward passes and an evaluation gave. Formulas in float64
stand for torch's kernels for GPUs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules._functions import SyncBatchNorm

from models import freeze_batch_norm, share_batch_norm
from models.batch_norm import BatchNorm2d, count_batch
from tests.golden import inputs
from tests.operations import Operations

IMAGES, PASSES, NORMS = 4, 2, 2


@dataclass(frozen=True)
class Case:
    """learn: the affine learns; frozen: as --freeze_bn; bf16: under autocast, with float32 parameters."""

    channels_last: bool = False
    learn: bool = True
    frozen: bool = False
    bf16: bool = False
    momentum: float = 0.3


CASES = {
    "plain": Case(),
    "channels last": Case(channels_last=True),
    "affine that does not learn": Case(learn=False),
    "frozen": Case(frozen=True),
    "recomputed": Case(momentum=0.0),
    "bf16": Case(bf16=True),
    "bf16, channels last": Case(bf16=True, channels_last=True),
}


# --- torch's kernels --------------------------------------------------------------------------------------


def over(x: Tensor) -> Tensor:
    """(C,) beside (B, C, H, W)."""
    return x.double()[:, None, None]


def accumulated(x: Tensor) -> torch.dtype:
    """The type that statistics of x have."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def dense(*tensors: Tensor) -> bool:
    return all(x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last) for x in tensors)


def stats(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    assert dense(x)
    var, mean = torch.var_mean(x.double(), dim=(0, 2, 3), correction=0)
    return mean.to(accumulated(x)), (var + eps).rsqrt().to(accumulated(x))


def gather_stats_with_counts(
    x: Tensor,
    means: Tensor,
    invstds: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    momentum: float,
    eps: float,
    counts: Tensor,
) -> tuple[Tensor, Tensor]:
    assert counts.dtype == running_mean.dtype == means.dtype == accumulated(x) and counts.ndim == 1
    share = (counts.double() / counts.double().sum())[:, None]
    mean = (means.double() * share).sum(dim=0)
    apart = (means.double() - mean).square()
    var = ((invstds.double().pow(-2) - eps + apart) * share).sum(dim=0)
    total = counts.double().sum()
    running_mean.lerp_(mean.to(running_mean.dtype), momentum)
    running_var.lerp_((var * total / (total - 1)).to(running_var.dtype), momentum)
    return mean.to(means.dtype), (var + eps).rsqrt().to(means.dtype)


def elemt(x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, invstd: Tensor, eps: float) -> Tensor:
    return ((x.double() - over(mean)) * over(invstd) * over(weight) + over(bias)).to(x.dtype)


def backward_reduce(
    gradient: Tensor,
    x: Tensor,
    mean: Tensor,
    invstd: Tensor,
    weight: Tensor,
    by_x: bool,
    by_weight: bool,
    by_bias: bool,
) -> tuple[Tensor | None, ...]:
    assert dense(gradient, x) and gradient.dtype == x.dtype
    total = gradient.double().sum(dim=(0, 2, 3)).to(mean.dtype)
    product = (gradient.double() * (x.double() - over(mean))).sum(dim=(0, 2, 3)).to(mean.dtype)
    sums = (total, product) if by_x else (None, None)
    return *sums, product * invstd if by_weight else None, total if by_bias else None


def backward_elemt(
    gradient: Tensor,
    x: Tensor,
    mean: Tensor,
    invstd: Tensor,
    weight: Tensor,
    sum_dy: Tensor,
    sum_dy_xmu: Tensor,
    counts: Tensor,
) -> Tensor:
    assert counts.dtype == torch.int32 and weight.dtype == mean.dtype == sum_dy.dtype
    total = counts.sum()
    along = (x.double() - over(mean)) * over(invstd.square() * sum_dy_xmu) / total
    return ((gradient.double() - over(sum_dy) / total - along) * over(invstd * weight)).to(x.dtype)


KERNELS = (stats, gather_stats_with_counts, elemt, backward_reduce, backward_elemt)
FORMULAS = {f"batch_norm_{kernel.__name__}": kernel for kernel in KERNELS}

# --- kinds of norms ---------------------------------------------------------------------------------------


class TorchsOwn(nn.BatchNorm2d):
    """nn.SyncBatchNorm past its refusal of CPU tensors."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        self.num_batches_tracked.add_(1)
        statistics = self.running_mean, self.running_var, self.eps, self.momentum
        return SyncBatchNorm.apply(x, self.weight, self.bias, *statistics, dist.group.WORLD, 2)


def torchs_own(network: nn.Module) -> nn.Module:
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.__class__ = TorchsOwn
    return network


KINDS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "of CPUs": lambda network: share_batch_norm(network, torch.device("cpu")),
    "of GPUs": lambda network: share_batch_norm(network, torch.device("cuda")),
    "torch's": torchs_own,
}

# --- passes -----------------------------------------------------------------------------------------------


def passed(kind: Callable[[nn.Module], nn.Module], case: Case, rank: int = 0, size: int = 1) -> dict:
    """Outputs, gradients and buffers of this process's images."""
    dtype = torch.float32 if case.bf16 else torch.float64
    network = nn.Sequential(
        nn.Conv2d(3, 5, 3, bias=False), BatchNorm2d(5, momentum=case.momentum), nn.ReLU(),
        nn.Conv2d(5, 4, 1, bias=False), BatchNorm2d(4, momentum=case.momentum),
    ).to(dtype)  # fmt: skip
    inputs.fill(network.state_dict())
    network = kind(network).train()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.requires_grad_(case.learn)
    if case.frozen:
        freeze_batch_norm(network)
    layout = torch.channels_last if case.channels_last else torch.contiguous_format
    network.to(memory_format=layout)

    def images(name: str, *shape: int) -> Tensor:
        own = inputs.normal(name, IMAGES, *shape).to(dtype).chunk(size)[rank]
        return own.contiguous(memory_format=layout)

    result, launched = {}, Operations()
    for i in range(PASSES):
        x = images(f"x{i}", 3, 9, 8).requires_grad_(True)
        with launched:
            count_batch(network)
            with torch.autocast("cpu", torch.bfloat16, enabled=case.bf16):
                output = network(x)
            (output.to(dtype) * images(f"loss{i}", 4, 7, 6)).sum().backward()
        result |= {f"output {i}": output.detach(), f"gradient of x{i}": x.grad}
    network.eval()
    result["evaluated"] = network(images("x0", 3, 9, 8)).detach()
    sums = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    counted = {"buffers": dict(network.named_buffers()), "launched": dict(launched.names)}
    return counted | {"images": result, "sums": sums}


def results(rank: int, size: int, _: object) -> dict:
    """By kind and case."""
    with mock.patch.multiple(torch, **FORMULAS):
        return {
            kind: {name: passed(change, case, rank, size) for name, case in CASES.items()}
            for kind, change in KINDS.items()
        }
