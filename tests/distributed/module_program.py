"""The public self-labeling module on four images that 1 or 2 processes share (see programs.py).

Losses of four steps, gradients of the last, and the state after them. The network's gradients are averaged by
DistributedDataParallel, as in any loop; of the module nothing is.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from loss import ClassBalancedSelfLabeling, class_statistics, cross_entropy
from tests.golden import inputs

IMAGES, K, D, STEPS = 4, 5, 6, 4


def results(rank: int, size: int, _: object = None) -> dict:
    net = nn.Conv2d(3, D, 1)
    inputs.fill(net.state_dict())
    head = nn.Conv2d(D, K, 1).requires_grad_(False)
    inputs.fill(head.state_dict(), "head.")
    learner = DistributedDataParallel(net) if size > 1 else net
    images = [inputs.normal(f"image {i}", IMAGES, 3, 8, 9).chunk(size)[rank] for i in range(STEPS)]
    with torch.no_grad():
        feats = net(images[0])
        start = class_statistics(feats, head(feats))
    ours = ClassBalancedSelfLabeling(*start, pixels=8, queue_length=40, momentum=0.5)
    optimizer = torch.optim.SGD([*net.parameters(), *ours.parameters()], lr=0.1, momentum=0.9)
    losses = []
    for image in images:
        optimizer.zero_grad()
        feats = learner(image)
        logits = head(feats)
        labels = ours.rectify(feats, logits.detach().softmax(dim=1))
        value = ours(feats, logits, labels)
        (cross_entropy(logits, labels, 255) + value).backward()
        optimizer.step()
        ours.update_ema_()
        losses.append(value.detach())
    states = {"state": ours.state_dict(), "net": net.state_dict()}
    return states | {"start": start, "losses": losses, "gradient": ours.prototypes.grad}
