"""The loop over whole images, apart from what it predicts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from data.batches import inference_loader
from data.sets.dataset import DataSet, LabelFormat
from engine.inference import evaluate
from models import SegmentationOutput

K = 3


class Looking(nn.Module):
    """Predicts anything, and notes whether cudnn may measure its kernels."""

    def __init__(self):
        super().__init__()
        self.measured: list[bool] = []

    def forward(self, images: Tensor) -> SegmentationOutput:
        self.measured.append(torch.backends.cudnn.benchmark)
        maps = torch.zeros(len(images), K, 2, 2)
        return SegmentationOutput(maps, maps)


@pytest.mark.parametrize("size", [None, (8, 8)])
@pytest.mark.parametrize("before", [True, False])
def test_cudnn_measures_no_images_of_many_sizes(tmp_path, monkeypatch, size, before):
    """Kernels are measured once a shape. Training, which has one, goes on measuring after a validation."""
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", before)
    images = tuple(tmp_path / f"{width}.png" for width in (8, 12))
    for path in images:
        Image.new("RGB", (int(path.stem), 8)).save(path)
    road = LabelFormat(
        "road",
        lambda path, size, *crossing: np.zeros(list(map(len, crossing)), np.uint8),
        lambda ids, path: ids,
    )
    data = DataSet("folder", tmp_path, images, images, road, size)
    network, seen = Looking(), []
    evaluate(
        network,
        inference_loader(data, True, 0),
        K,
        torch.device("cpu"),
        on_prediction=lambda *_: seen.append(torch.backends.cudnn.benchmark),
    )
    assert network.measured == 2 * [before and size is not None]
    assert seen == [before, before] and torch.backends.cudnn.benchmark == before
