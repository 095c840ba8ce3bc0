"""The loop over whole images for all inference scripts and validation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
import tqdm
from torch import Tensor, nn
from torch.utils.data import DataLoader

from data.batches import of_one_size, read
from data.classes import Classes
from data.labels import thirteen_of_sixteen
from models import Compute, SegmentationOutput
from stages.stage import PLAIN, resize_bilinear
from utils.distributed import ALONE, Processes
from utils.metrics import ConfusionMatrix, nan_mean


class Prediction(NamedTuple):
    """One image (1, 3, H, W) in [0, 1], its name, its label (H, W) int64 or None, and the output.

    mirrored: the output for the mirrored image, or None.
    """

    name: str
    image: Tensor
    label: Tensor | None
    output: SegmentationOutput
    mirrored: SegmentationOutput | None


@contextmanager
def shapes(one: bool) -> Iterator[None]:
    """Let cudnn measure its kernels only if all images have one shape: it measures anew for each shape."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = before and one
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


@torch.no_grad()
def predict(
    network: nn.Module,
    loader: DataLoader,
    device: torch.device,
    title: str = "predicting",
    mirror: bool = False,
    processes: Processes = ALONE,
    compute: Compute = PLAIN,
) -> Iterator[Prediction]:
    """Yield the network's output for each image of an `inference_loader`, in order, in eval mode."""
    network.eval()
    total, one_size = len(loader.dataset), of_one_size(loader)
    with tqdm.tqdm(desc=title, total=total, unit="img", leave=False, disable=processes.no_bar) as bar:
        for batch in read(loader):
            batch = batch.to(device)
            with shapes(one_size):
                output = compute(network, batch.image)
                mirrored = compute(network, batch.image.flip(3)) if mirror else None
            for i, name in enumerate(batch.names):
                label = None if batch.label is None else batch.label[i]
                yield Prediction(name, batch.image[i : i + 1], label, _one(output, i), _one(mirrored, i))
            bar.update(len(batch.names))


def _one(output: SegmentationOutput | None, i: int) -> SegmentationOutput | None:
    """Return the output for image i of a batch, as a batch of one."""
    return None if output is None else SegmentationOutput(*(part[i : i + 1] for part in output))


def mean_probabilities(views: Iterable[tuple[Tensor, bool]], size: Sequence[int]) -> Tensor:
    """Mean probabilities (1, K, H, W) over several predictions of one image, each resized to `size` (H, W).

    views: logits (1, K, h, w), and True if they are of the mirrored image.
    """
    total, count = None, 0
    for logits, mirrored in views:
        probs = resize_bilinear(logits.softmax(dim=1), size)
        probs = probs.flip(3) if mirrored else probs
        total, count = probs if total is None else total + probs, count + 1
    return total / count


def evaluate(
    network: nn.Module,
    loader: DataLoader,
    n_class: int,
    device: torch.device,
    on_prediction: Callable[[Prediction, Tensor], None] | None = None,
    processes: Processes = ALONE,
    compute: Compute = PLAIN,
    after_each: Callable[[], None] | None = None,
) -> dict:
    """Score the network on labelled images.

    on_prediction(item, train ids (H, W)) receives each prediction. after_each() is called after every image,
    equally often by all processes; it may raise.
    """
    matrix = ConfusionMatrix(n_class, device)
    own = len(loader.dataset)
    total = int(processes.sum(torch.tensor(own)))
    spare = -(-total // processes.size) - own if after_each is not None else 0  # some have an image less
    for item in predict(network, loader, device, "evaluating", processes=processes, compute=compute):
        logits = resize_bilinear(item.output.logits, item.label.shape)  # (1, K, H, W)
        prediction = logits.argmax(dim=1)
        matrix.update(item.label[None], prediction)
        if on_prediction is not None:
            on_prediction(item, prediction[0])
        if after_each is not None:
            after_each()
    for _ in range(spare):
        after_each()
    matrix.add_up(processes)
    return matrix.scores()


def add_mean_over_13(scores: dict, classes: Classes) -> None:
    """Add `miou_13`, the second figure of SYNTHIA's tables, to scores over its 16 classes."""
    if len(classes.names) == 16 and classes.built_in:
        scores["miou_13"] = nan_mean([scores["iou"][i] for i in thirteen_of_sixteen()])
