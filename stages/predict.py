"""The one loop over whole images that all inference shares."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
import tqdm
from torch import Tensor, nn

from data.dataset import DataSet
from data.loaders import inference_loader, read
from models import SegmentationOutput
from stages.stage import resize_logits
from utils.metrics import ConfusionMatrix
from utils.processes import ALONE, Processes


class Prediction(NamedTuple):
    """One image (1, 3, H, W) in [0, 1] with its name, label (H, W) uint8 or None, and the output."""

    name: str
    image: Tensor
    label: Tensor | None
    output: SegmentationOutput


@torch.no_grad()
def predict(
    network: nn.Module,
    data: DataSet,
    device: torch.device,
    workers: int,
    with_labels: bool = False,
    title: str = "predicting",
    processes: Processes = ALONE,
) -> Iterator[Prediction]:
    """The network's outputs on every image, in order, in eval mode. Progress goes to the terminal.

    Of several processes each sees every `size`-th image, from the `rank`-th on.
    """
    network.eval()
    loader = inference_loader(data, with_labels, workers, processes, device.type == "cuda")
    bar = tqdm.tqdm(
        read(loader), desc=title, total=len(loader), unit="img", leave=False, disable=processes.no_bar
    )
    for name, image, label in bar:
        image = image.to(device, non_blocking=True)[None].float() / 255
        yield Prediction(name, image, label, network(image))


def evaluate(
    network: nn.Module,
    data: DataSet,
    device: torch.device,
    workers: int,
    on_prediction: Callable[[str, np.ndarray], None] | None = None,
    processes: Processes = ALONE,
) -> dict:
    """Scores on labelled images; on_prediction(name, label map (H, W) uint8) sees each prediction."""
    matrix = ConfusionMatrix(data.n_class, device)
    for item in predict(network, data, device, workers, True, "evaluating", processes):
        logits = resize_logits(item.output.logits, item.label.shape)  # (1, K, H, W)
        prediction = logits.argmax(dim=1)
        matrix.update(item.label.to(device)[None], prediction)
        if on_prediction is not None:
            on_prediction(item.name, prediction[0].to(torch.uint8).cpu().numpy())
    matrix.add_up(processes)
    return matrix.scores()
