"""Parameter groups, SGD with repeated updates, and the polynomial schedule."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class RepeatedSGD(torch.optim.Optimizer):
    """SGD with momentum that applies each group's whole update `repeats` times a step (quirk Q1).

    One repetition: buf ← momentum·buf + (g + wd·p); p ← p − lr·buf. At a tensor's first step every
    repetition starts its buffer anew, buf = g + wd·p. With repeats = 1 it is `torch.optim.SGD`.
    """

    def __init__(
        self, params: Iterable, lr: float, momentum: float = 0.9, weight_decay: float = 2e-4, repeats: int = 1
    ):
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "repeats": repeats}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """One step on the gradients at hand; parameters without one stay."""
        assert closure is None, "closures are not supported"
        for group in self.param_groups:
            with_grad = [p for p in group["params"] if p.grad is not None]
            fresh = [p for p in with_grad if "momentum_buffer" not in self.state[p]]
            known = [p for p in with_grad if "momentum_buffer" in self.state[p]]
            for _ in range(group["repeats"]):
                if fresh:
                    self._start(fresh, group)
                if known:
                    self._continue(known, group)

    def _start(self, params: list[Tensor], group: dict) -> None:
        decayed = torch._foreach_add([p.grad for p in params], params, alpha=group["weight_decay"])
        for p, buffer in zip(params, decayed, strict=True):
            self.state[p]["momentum_buffer"] = buffer
        torch._foreach_add_(params, decayed, alpha=-group["lr"])

    def _continue(self, params: list[Tensor], group: dict) -> None:
        buffers = [self.state[p]["momentum_buffer"] for p in params]
        torch._foreach_mul_(buffers, group["momentum"])
        torch._foreach_add_(buffers, [p.grad for p in params])
        torch._foreach_add_(buffers, params, alpha=group["weight_decay"])
        torch._foreach_add_(params, buffers, alpha=-group["lr"])


def parameter_groups(network: nn.Module, lr: float, head_multiple: float, repeated: bool) -> list[dict]:
    """Groups of a DeepLabV2: backbone at lr, head (`bn_pretrain`, `layer5`) at lr·head_multiple.

    repeated (Q1): block tensors are updated three times a step, those of a projection shortcut four times.
    """
    named: dict[tuple[str, int], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        head = name.startswith(("layer5.", "bn_pretrain."))
        repeats = 1
        if repeated and not head and name.startswith("layer"):
            repeats = 4 if ".downsample." in name else 3
        named.setdefault(("head" if head else "backbone", repeats), []).append(parameter)
    return [
        {
            "params": params,
            "lr": lr * (head_multiple if part == "head" else 1.0),
            "repeats": repeats,
            "name": part,
        }
        for (part, repeats), params in named.items()
    ]


def poly_schedule(optimizer: torch.optim.Optimizer, train_iters: int) -> torch.optim.lr_scheduler.LambdaLR:
    """Iteration j = 1, 2, … uses lr·(1 − (j−1)/train_iters)^0.9; step it once after each iteration."""
    return torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda done: max(0.0, 1.0 - done / train_iters) ** 0.9
    )


def learning_rates(optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """The current rate of each named group."""
    return {group.get("name", "all"): group["lr"] for group in optimizer.param_groups}
