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
            for p in fresh:
                self.state[p]["momentum_buffer"] = torch.empty_like(p)
            self._update(fresh, group, first=True)
            self._update(known, group, first=False)

    def _update(self, params: list[Tensor], group: dict, first: bool) -> None:
        """Apply all repetitions, each in one fused pass over the numbers instead of four."""
        if not params:
            return
        for p in params:  # a state may have been saved with channels first and go on with channels last
            self.state[p]["momentum_buffer"] = _laid_out_as(p, self.state[p]["momentum_buffer"])
        buffers = [self.state[p]["momentum_buffer"] for p in params]
        gradients = [_laid_out_as(p, p.grad) for p in params]
        constants = {name: group[name] for name in ("weight_decay", "momentum", "lr")}
        constants |= {"dampening": 0.0, "nesterov": False, "maximize": False, "is_first_step": first}
        for _ in range(group["repeats"]):
            torch._fused_sgd_(params, gradients, buffers, **constants)


def _laid_out_as(p: Tensor, x: Tensor) -> Tensor:
    """x in the memory order of p, which the fused update takes for granted."""
    formats = (torch.contiguous_format, torch.channels_last) if p.ndim == 4 else (torch.contiguous_format,)
    if any(p.is_contiguous(memory_format=f) and x.is_contiguous(memory_format=f) for f in formats):
        return x
    return torch.empty_like(p).copy_(x)


def parameter_groups(
    network: nn.Module, lr: float, head_multiple: float, repeated: bool, backbone_multiple: float = 1.0
) -> list[dict]:
    """Groups of a DeepLabV2: head (`bn_pretrain`, `layer5`) and backbone, each at lr times its multiple.

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
            "lr": lr * (head_multiple if part == "head" else backbone_multiple),
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
