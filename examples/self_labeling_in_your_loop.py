"""Class-balanced self-labeling in somebody else's training loop: `adapt` is `plain` and the numbered lines.

    python -m examples.self_labeling_in_your_loop DATA
    python -m examples.self_labeling_in_your_loop DATA --plain
    python -m examples.self_labeling_in_your_loop DATA --start CHECKPOINT

Draws small street scenes into DATA (or takes those there) and trains a small network on the labelled source
in colours of the target (or takes that of CHECKPOINT). Then adapts it to the unlabelled target by the labels
of an EMA teacher. Prints losses, and mIoU on the target's val images before and after.
docs/method_as_a_part.md explains, with figures.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from torchvision.transforms import v2
from torchvision.tv_tensors import Image, Mask

from data.batches import inference_loader, read
from data.labels import IGNORE
from data.mini import parse_size, write_mini
from data.sets.cityscapes import cityscapes
from data.sets.gta5 import gta5
from engine.inference import evaluate
from loss import ClassBalancedSelfLabeling, class_statistics, cross_entropy  # 1
from models import deeplabv2, ema_copy, ema_update_
from models.weights import load_network
from stages.stage import resize_bilinear, resize_label
from utils.checkpoint import NETWORK, load_checkpoint
from utils.optim import poly_schedule

K = 19  # classes


def plain(model: nn.Module, source: Tensor, labels: Tensor, target: Tensor, iters: int, batch: int) -> None:
    """Train on the labelled source and the teacher's labels of the target."""
    teacher = ema_copy(model).eval()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4)
    schedule = poly_schedule(optimizer, iters)
    for i in range(iters):
        image, label = draw(batch, source, labels)
        (target_image,) = draw(batch, target)
        with torch.no_grad():
            _, logits = teacher(target_image)
        target_label = finer(logits).argmax(dim=1)
        image, label = views(in_colours_of(target_image, image), label)
        target_image, target_label = views(target_image, target_label)
        loss = cost(model, image, label) + cost(model, target_image, target_label)
        step(optimizer, schedule, loss)
        ema_update_(teacher, model, momentum=0.999, average_buffers=True)
        tell(i + 1, iters, loss)


def adapt(model: nn.Module, source: Tensor, labels: Tensor, target: Tensor, iters: int, batch: int) -> None:
    """The same with self-labeling."""
    teacher = ema_copy(model).eval()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4)
    with torch.no_grad():  # 2
        centroids, prior = class_statistics(*teacher(target))  # 3
    part = ClassBalancedSelfLabeling(centroids, prior, queue_length=8192, ignore_index=IGNORE)  # 4
    optimizer.add_param_group({"params": part.parameters(), "lr": 5e-3})  # 5
    schedule = poly_schedule(optimizer, iters)
    for i in range(iters):
        image, label = draw(batch, source, labels)
        (target_image,) = draw(batch, target)
        with torch.no_grad():
            feats, logits = teacher(target_image)
        target_label = part.rectify(feats, finer(logits).softmax(dim=1))  # 6
        image, label = views(in_colours_of(target_image, image), label)
        target_image, target_label = views(target_image, target_label)
        loss = cost(model, image, label) + cost(model, target_image, target_label)
        loss = loss + 0.1 * part(feats, logits)  # 7
        step(optimizer, schedule, loss)
        ema_update_(teacher, model, momentum=0.999, average_buffers=True)
        part.update_ema_()  # 8
        tell(i + 1, iters, loss)


# --- what any loop has --------------------------------------------------------------------------------------


def train_on_source(
    model: nn.Module, source: Tensor, labels: Tensor, target: Tensor, iters: int, batch: int
) -> None:
    """Train on labelled source images in colours of the target, before any adaptation."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    schedule = poly_schedule(optimizer, iters)
    for i in range(iters):
        image, label = draw(batch, source, labels)
        (target_image,) = draw(batch, target)
        loss = cost(model, *views(in_colours_of(target_image, image), label))
        step(optimizer, schedule, loss)
        tell(i + 1, iters, loss)


def cost(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy at the labels' size."""
    return cross_entropy(resize_bilinear(model(images).logits, labels.shape[1:]), labels, IGNORE)


def step(optimizer: torch.optim.Optimizer, schedule: LambdaLR, loss: Tensor) -> None:
    """Backward pass and update."""
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    schedule.step()


def draw(count: int, *tensors: Tensor) -> list[Tensor]:
    """`count` images, and their labels, at random."""
    chosen = torch.randint(len(tensors[0]), (count,))
    return [x[chosen] for x in tensors]


def finer(logits: Tensor) -> Tensor:
    """Twice as large, so that labels keep thin objects."""
    return resize_bilinear(logits, tuple(2 * side for side in logits.shape[2:]))


def in_colours_of(other: Tensor, images: Tensor) -> Tensor:
    """Give each image the mean and the deviation, channel by channel, of another one."""
    mean, other_mean = (x.mean(dim=(2, 3), keepdim=True) for x in (images, other))
    std, other_std = (x.std(dim=(2, 3), keepdim=True) for x in (images, other))
    return (images - mean) / std * other_std + other_mean


def views(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Images (B, 3, H, W) and their labels (B, h, w), each scaled, cropped to ¾ and mirrored by itself."""
    height, width = images.shape[2:]
    labels = resize_label(labels, (height, width))
    changed = v2.Compose(
        [
            v2.RandomResizedCrop((3 * height // 4, 3 * width // 4), (0.25, 1), (width / height,) * 2),
            v2.RandomHorizontalFlip(),
        ]
    )
    pairs = [changed(Image(image), Mask(label)) for image, label in zip(images, labels, strict=True)]
    images, labels = map(torch.stack, zip(*pairs, strict=True))
    return images.as_subclass(Tensor), labels.as_subclass(Tensor)


def tell(done: int, total: int, loss: Tensor) -> None:
    """A line at each fifth."""
    if done * 5 // total > (done - 1) * 5 // total:
        print(f"[{done}/{total}] loss {float(loss.detach()):.3f}", flush=True)


def miou(model: nn.Module, val: DataLoader) -> float:
    """In percent, by the network in eval mode, in which it stays."""
    return 100 * evaluate(model, val, K, torch.device("cpu"))["miou"]


def run(o: argparse.Namespace) -> None:
    """Data, source training, adaptation."""
    start = deeplabv2("mini", K)
    if o.start is not None:
        saved = load_checkpoint(o.start, "give a checkpoint of train.py --backbone mini")
        load_network(start, saved[NETWORK]["model_state"], str(o.start))
    write_mini(o.data, o.size, 0, o.images, o.images, o.val)
    source = gta5(o.data / "GTA5", K, o.size)
    target, val = (cityscapes(o.data / "cityscapes", split, K, o.size) for split in ("train", "val"))
    (source,) = read(inference_loader(source, with_labels=True, workers=0, batch=o.images))
    (target,) = read(inference_loader(target, with_labels=False, workers=0, batch=o.images))
    source, target = source.to("cpu"), target.to("cpu")
    val = inference_loader(val, with_labels=True, workers=0)

    torch.manual_seed(o.seed)
    model = deeplabv2("mini", K)
    if o.start is None:
        train_on_source(model, source.image, source.label, target.image, o.source_iters, o.batch)
    else:
        model.load_state_dict(start.state_dict())
    print(f"before: mIoU {miou(model, val):.1f}", flush=True)
    how = plain if o.plain else adapt
    how(model.train(), source.image, source.label, target.image, o.iters, o.batch)
    print(f"after: mIoU {miou(model, val):.1f}")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.self_labeling_in_your_loop", description=__doc__.splitlines()[0]
    )
    add = parser.add_argument
    add("data", type=Path, help="folder of the drawn scenes; made if it is not there")
    add("--plain", action="store_true", help="the loop without self-labeling, to compare")
    add("--start", type=Path, help="a checkpoint of train.py --backbone mini, to start from")
    add("--size", default="256,128", type=parse_size, help="W,H of the images (256,128)")
    add("--images", default=300, type=int, help="images of source and of target (300)")
    add("--val", default=60, type=int, help="labelled images of the target to score on (60)")
    add("--source_iters", default=500, type=int, help="iterations on the source alone (500)")
    add("--iters", default=450, type=int, help="iterations of adaptation (450)")
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
