"""Class-balanced self-labeling in somebody else's training loop: `adapt` is `plain` and the numbered lines.

    python -m examples.self_labeling_in_your_loop DATA
    python -m examples.self_labeling_in_your_loop DATA --plain

Draws small street scenes into DATA (or takes those there), trains torchvision's LR-ASPP on the labelled
source from random weights, then adapts it to the unlabelled target by an EMA teacher's labels. Prints losses,
and mIoU on the target's val images before and after. docs/method_as_a_part.md explains, with figures.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision.models.segmentation import lraspp_mobilenet_v3_large

from data.batches import inference_loader, read
from data.labels import IGNORE
from data.mini import parse_size, write_mini
from data.sets.cityscapes import cityscapes
from data.sets.gta5 import gta5
from engine.inference import evaluate
from loss import ClassBalancedSelfLabeling, class_statistics, cross_entropy  # 1
from models import SegmentationOutput, ema_copy, ema_update_
from stages.stage import resize_bilinear

K = 19  # classes


def plain(model: Network, source: Tensor, labels: Tensor, target: Tensor, iters: int, batch: int) -> Network:
    """Trains on the labelled source and the teacher's labels of the target; returns the teacher."""
    teacher = ema_copy(model).eval()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4)
    for i in range(iters):
        image, label = draw(batch, source, labels)
        (target_image,) = draw(batch, target)
        with torch.no_grad():
            _, logits = teacher(target_image)
        target_label = logits.argmax(dim=1)
        loss = model.loss(jittered(image), label) + model.loss(jittered(target_image), target_label)
        step(optimizer, loss)
        ema_update_(teacher, model, momentum=0.99, average_buffers=True)
        tell(i + 1, iters, loss)
    return teacher


def adapt(model: Network, source: Tensor, labels: Tensor, target: Tensor, iters: int, batch: int) -> Network:
    """The same with self-labeling."""
    teacher = ema_copy(model).eval()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4)
    with torch.no_grad():  # 2
        centroids, prior = class_statistics(*teacher(target))  # 3
    part = ClassBalancedSelfLabeling(centroids, prior, queue_length=8192, ignore_index=IGNORE)  # 4
    optimizer.add_param_group({"params": part.parameters(), "lr": 5e-3})  # 5
    for i in range(iters):
        image, label = draw(batch, source, labels)
        (target_image,) = draw(batch, target)
        with torch.no_grad():
            feats, logits = teacher(target_image)
        target_label = part.rectify(feats, logits.softmax(dim=1))  # 6
        loss = model.loss(jittered(image), label) + model.loss(jittered(target_image), target_label)
        loss = loss + 0.1 * part(feats, logits, target_label)  # 7
        step(optimizer, loss)
        ema_update_(teacher, model, momentum=0.99, average_buffers=True)
        part.update_ema_()  # 8
        tell(i + 1, iters, loss)
    return teacher


# --- what any loop has --------------------------------------------------------------------------------------


class Network(nn.Module):
    """torchvision's LR-ASPP on MobileNetv3, which also hands out what its last layer sees."""

    def __init__(self):
        super().__init__()
        self.net = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=K)
        for module in self.net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 0.1  # with 0.01 the statistics lag too far behind so short a training

    def forward(self, images: Tensor) -> SegmentationOutput:
        """images (B, 3, H, W) → feats (B, 128, H/8, W/8), logits (B, K, H/8, W/8)."""
        seen, head = self.net.backbone(images), self.net.classifier
        feats = head.cbr(seen["high"]) * head.scale(seen["high"])
        feats = F.interpolate(feats, seen["low"].shape[2:], mode="bilinear")
        return SegmentationOutput(feats, head.high_classifier(feats) + head.low_classifier(seen["low"]))

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy at the labels' size."""
        return cross_entropy(resize_bilinear(self(images).logits, labels.shape[1:]), labels, IGNORE)


def train_on_source(model: Network, source: Tensor, labels: Tensor, iters: int, batch: int) -> None:
    """Train on labelled source images only, before any adaptation."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for i in range(iters):
        image, label = draw(batch, source, labels)
        loss = model.loss(jittered(image), label)
        step(optimizer, loss)
        tell(i + 1, iters, loss)


def step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """Backward pass and update."""
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def draw(count: int, *tensors: Tensor) -> list[Tensor]:
    """`count` images, and their labels, at random; half of the batches mirrored."""
    chosen, mirrored = torch.randint(len(tensors[0]), (count,)), bool(torch.rand(()) < 0.5)
    return [x[chosen].flip(-1) if mirrored else x[chosen] for x in tensors]


def jittered(images: Tensor) -> Tensor:
    """Contrast and brightness of each channel changed at random."""
    shape = (len(images), 3, 1, 1)
    return images * (0.6 + 0.8 * torch.rand(shape)) + 0.2 * torch.randn(shape)


def tell(done: int, total: int, loss: Tensor) -> None:
    """A line at each fifth."""
    if done * 5 // total > (done - 1) * 5 // total:
        print(f"[{done}/{total}] loss {float(loss.detach()):.3f}", flush=True)


def miou(model: Network, val: DataLoader) -> float:
    """In percent, by the network in eval mode, in which it stays."""
    return 100 * evaluate(model, val, K, torch.device("cpu"))["miou"]


def run(o: argparse.Namespace) -> None:
    """Data, source training, adaptation."""
    write_mini(o.data, o.size, 0, o.images, o.images, o.val)
    source = gta5(o.data / "GTA5", K, o.size)
    target, val = (cityscapes(o.data / "cityscapes", split, K, o.size) for split in ("train", "val"))
    (source,) = read(inference_loader(source, with_labels=True, workers=0, batch=o.images))
    (target,) = read(inference_loader(target, with_labels=False, workers=0, batch=o.images))
    source, target = source.to("cpu"), target.to("cpu")
    val = inference_loader(val, with_labels=True, workers=0)

    torch.manual_seed(o.seed)
    model = Network()
    train_on_source(model, source.image, source.label, o.source_iters, o.batch)
    print(f"before: mIoU {miou(model, val):.1f}", flush=True)
    how = plain if o.plain else adapt
    teacher = how(model.train(), source.image, source.label, target.image, o.iters, o.batch)
    print(f"after: mIoU {miou(teacher, val):.1f}")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.self_labeling_in_your_loop", description=__doc__.splitlines()[0]
    )
    add = parser.add_argument
    add("data", type=Path, help="folder of the drawn scenes; made if it is not there")
    add("--plain", action="store_true", help="the loop without self-labeling, to compare")
    add("--size", default="256,128", type=parse_size, help="W,H of the images (256,128)")
    add("--images", default=100, type=int, help="images of source and of target (100)")
    add("--val", default=30, type=int, help="labelled images of the target to score on (30)")
    add("--source_iters", default=200, type=int, help="iterations on the source alone (200)")
    add("--iters", default=150, type=int, help="iterations of adaptation (150)")
    add("--batch", default=4, type=int, help="images of each domain an iteration (4)")
    add("--seed", default=0, type=int, help="of weights and draws (0)")
    options = parser.parse_args(arguments)
    if options.batch < 2:
        parser.error("--batch: at least 2 images, which the network's batch norm needs")
    if min(options.source_iters, options.iters) < 1:
        parser.error("--source_iters and --iters: at least 1")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 0, or 2 after one line that says what cannot be done."""
    try:
        run(parse(arguments))
    except (ValueError, OSError) as error:
        print(f"self_labeling_in_your_loop: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
