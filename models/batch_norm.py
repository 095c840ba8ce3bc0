"""What is done to the batch norms of a network as a whole."""

from __future__ import annotations

from torch import nn


def freeze_batch_norm(network: nn.Module) -> None:
    """Put every batch norm in eval mode and stop its affine from learning (`--freeze_bn`).

    Call it again after `network.train()`, which would undo the first half. Group norms are left alone.
    """
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
            module.weight.requires_grad_(False)
            module.bias.requires_grad_(False)
