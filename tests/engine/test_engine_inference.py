"""The loop over whole images, apart from what it predicts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from data.batches import inference_loader
from data.sets.dataset import DataSet, LabelFormat
from engine.inference import evaluate, on_host
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


class Broken(nn.Module):
    """Scores of red images are spoilt: `value` stands at one place of one of the two outputs."""

    def __init__(self, part: int, value: float):
        super().__init__()
        self.part, self.value = part, value

    def forward(self, images: Tensor) -> SegmentationOutput:
        maps = [torch.zeros(len(images), K, 2, 2) for _ in range(2)]
        maps[self.part][images[:, 0, 0, 0] > 0.5, 1, 0, 1] = self.value
        return SegmentationOutput(*maps)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(
    ("part", "value"), [(0, np.nan), (0, np.inf), (1, np.nan), (1, np.inf), (1, -np.inf)]
)
def test_scores_that_are_not_finite_stop_at_their_image(tmp_path, batch, part, value):
    images = tuple(tmp_path / f"{name}.png" for name in ("a", "b", "c"))
    for path in images:
        Image.new("RGB", (8, 8), "red" if path.stem == "b" else "blue").save(path)
    road = LabelFormat(
        "road",
        lambda path, size, *crossing: np.zeros(list(map(len, crossing)), np.uint8),
        lambda ids, path: ids,
    )
    loader = inference_loader(DataSet("folder", tmp_path, images, images, road, (8, 8)), True, 0, batch=batch)
    seen: list[str] = []
    arguments = Broken(part, value), loader, K, torch.device("cpu"), lambda item, _: seen.append(item.name)
    with pytest.raises(ValueError, match=r"^b: .*not finite"):
        evaluate(*arguments, must_be_finite=True)
    assert seen == (["a"] if batch == 1 else [])
    assert evaluate(*arguments)["images"] == 3  # in a training, whose parameters are watched


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_what_is_copied_to_the_host_says_if_it_is_broken(dtype):
    values = torch.arange(6, dtype=dtype).reshape(2, 3)
    np.testing.assert_array_equal(on_host(values, torch.tensor(False), "x"), values.numpy())
    with pytest.raises(ValueError, match=r"^x: .*not finite"):
        on_host(values, torch.tensor(True), "x")
