"""Predict images that belong to no data set, such as photographs or frames of a video."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tqdm
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader

from data.batches import image_batch
from data.own_images import OwnImage, OwnImages, clashes
from engine.inference import mean_probabilities, on_host
from models import Compute
from stages.stage import PLAIN, resize_bilinear
from utils.distributed import ALONE, Processes
from utils.errors import one_line
from utils.files.whole import save_image
from utils.render import save_prediction
from utils.workers import BackgroundWriter, received

SHORTEST_SIDE = 8  # pixels, the network's stride


@dataclass(frozen=True)
class Predictor:
    """A network and the scales and mirror images over which it predicts.

    scales: multiples of the image's size; mirror: each scale mirrored too. A single unscaled image is
    predicted as for scores: by the largest logit at full size. Otherwise by the largest mean probability.
    """

    network: nn.Module
    device: torch.device
    scales: Sequence[float] = (1.0,)
    mirror: bool = False
    compute: Compute = PLAIN

    @torch.no_grad()
    def __call__(self, item: OwnImage) -> np.ndarray:
        """Return train ids (H, W) uint8 at the image's own size.

        ValueError if a scale is too small or a score is not finite.
        """
        pixels, full = item.pixels if item.resized is None else item.resized, item.pixels.shape[:2]
        height, width = pixels.shape[:2]
        sizes = [(round(height * scale), round(width * scale)) for scale in self.scales]
        smallest = min(sizes)
        if min(smallest) < SHORTEST_SIDE:
            raise ValueError(
                f"{item.path}: {smallest[1]}×{smallest[0]} pixels are too few, a side needs {SHORTEST_SIDE}; "
                "give --img_size W,H or larger --scales"
            )
        image = image_batch(pixels[None].to(self.device, non_blocking=True))
        if not self.mirror and sizes == [image.shape[2:]]:
            scores = resize_bilinear(self.compute(self.network, image).logits, full)
        else:
            scores = mean_probabilities(self._views(image, sizes), full)
        label = scores[0].argmax(dim=0).to(torch.uint8)
        return on_host(label, ~scores.isfinite().all(), item.path)

    def _views(self, image: Tensor, sizes: Sequence[tuple[int, int]]) -> Iterator[tuple[Tensor, bool]]:
        """Yield the logits of each scale and True if mirrored, one by one to save memory."""
        for size in sizes:
            scaled = image if size == image.shape[2:] else resize_bilinear(image, size)
            yield self.compute(self.network, scaled).logits, False
            if self.mirror:
                yield self.compute(self.network, scaled.flip(3)).logits, True


@dataclass(frozen=True)
class Products:
    """Files of each image in `folder`: NAME.png and NAME_color.png as in `save_prediction`, NAME_overlay.png
    with `overlay`, and labelIds/NAME_labelIds.png with `label_ids` (K,) uint8 of the classes."""

    folder: Path
    colours: np.ndarray
    overlay: bool = False
    label_ids: np.ndarray | None = None

    def require_room(self, images: OwnImages, given: Path) -> None:
        """Raise ValueError if a file would overwrite another one or lie in the folder of images."""
        folder = self.folder.resolve()
        if given.resolve() in (folder, *folder.parents):
            raise ValueError(f"{self.folder}: lies in --images {given}; give --save_dir another place")
        problem = clashes([self.paths(images.name(i)) for i in range(len(images))], images)
        if problem:
            raise ValueError(problem)

    def paths(self, name: str) -> list[Path]:
        """Return every file of one image."""
        endings = ("", "_color", *["_overlay"] * self.overlay)
        paths = [self.folder / f"{name}{ending}.png" for ending in endings]
        return paths if self.label_ids is None else [*paths, self._ids_path(name)]

    def _ids_path(self, name: str) -> Path:
        """Label ids are apart, because Cityscapes' evaluator takes every picture in a folder."""
        return self.folder / "labelIds" / f"{name}_labelIds.png"

    def write(self, name: str, prediction: np.ndarray, pixels: np.ndarray) -> None:
        """Write the files of one image: prediction (H, W) train ids, pixels (H, W, 3), both uint8."""
        save_prediction(self.folder, name, prediction, self.colours)
        if self.overlay:
            coloured = Image.fromarray(self.colours[prediction])
            half = Image.blend(Image.fromarray(pixels), coloured, 0.5)
            save_image(half, self.folder / f"{name}_overlay.png")
        if self.label_ids is not None:
            save_image(Image.fromarray(self.label_ids[prediction]), self._ids_path(name))


def predict_own_images(
    predictor: Predictor, loader: DataLoader, products: Products, processes: Processes = ALONE
) -> int:
    """Write the files of an `own_loader`'s images; return the number of failures over all processes.

    Each failure is one line on standard error, and the other images go on.
    """
    predictor.network.eval()
    failed = 0
    with BackgroundWriter() as writer:
        bar = {"total": len(loader), "unit": "img", "leave": False, "disable": processes.no_bar}
        for item in tqdm.tqdm(received(loader), "predicting", **bar):
            try:
                if isinstance(item, Exception):
                    raise item
                prediction = predictor(item)
            except (OSError, ValueError) as error:
                failed += 1
                tqdm.tqdm.write(f"error: {one_line(error)}", file=sys.stderr)
                continue
            writer.do(products.write, item.name, prediction, item.pixels.numpy())
    return int(processes.sum(torch.tensor(failed)))
