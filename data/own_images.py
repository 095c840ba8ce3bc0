"""The user's own images, of any size and without labels: their list and their loading."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from data.augment.weak import Size
from data.batches import guarded_loader
from data.sets.files import IMAGE_ENDINGS, listed_images
from utils.distributed import ALONE, Processes
from utils.files.image_file import read_upright


class OwnImage(NamedTuple):
    """path of the file; name: path below the folder, without ending; pixels (H, W, 3) uint8, upright.

    resized (h, w, 3) uint8: for the network; None if the network gets the pixels as they are.
    """

    path: str
    name: str
    pixels: Tensor
    resized: Tensor | None


@dataclass(frozen=True)
class OwnImages(Dataset):
    """Image files below `root`. size: (W, H) that the network gets, None for each one's own."""

    root: Path
    images: tuple[Path, ...]
    size: Size | None = None

    def __len__(self) -> int:
        return len(self.images)

    def name(self, index: int) -> str:
        """Stem of the files derived from an image, with its sub-folders."""
        return self.images[index].relative_to(self.root).with_suffix("").as_posix()

    def __getitem__(self, index: int) -> OwnImage:
        path = self.images[index]
        pixels, resized = np.array(read_upright(path)), None
        own = pixels.shape[1], pixels.shape[0]
        if self.size not in (None, own):
            whole = Image.fromarray(pixels).resize(self.size, Image.Resampling.BILINEAR)  # as data sets do
            resized = torch.from_numpy(np.array(whole))
        return OwnImage(str(path), self.name(index), torch.from_numpy(pixels), resized)


def own_images(path: Path, size: Size | None = None, count: int | None = None) -> OwnImages:
    """Find one image file, or the first `count` below a folder, sorted by path.

    Only endings of IMAGE_ENDINGS; see `listed`.
    """
    if path.is_file():
        return OwnImages(path.parent, (path,), size)
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such file or folder; give images of your own as --images")
    found = listed_images(path)
    if not found:
        endings = ", ".join(IMAGE_ENDINGS)
        raise FileNotFoundError(f"{path}: no {endings} in it; give images of your own as --images")
    return OwnImages(path, tuple(found[:count]), size)


def own_loader(
    images: OwnImages, workers: int, processes: Processes = ALONE, pin: bool = False
) -> DataLoader:
    """Yield each `OwnImage` of this process in order, or the error if it cannot be read."""
    own = range(processes.rank, len(images), processes.size)
    workers = min(workers, len(own))
    return guarded_loader(Subset(images, own), workers, batch_size=None, pin_memory=pin)


def clashes(outputs: Sequence[Sequence[Path]], images: OwnImages) -> str | None:
    """Return why the outputs of the images cannot all be written; None if they can."""
    sources = {path.resolve() for path in images.images}
    written_by: dict[Path, Path] = {}
    for image, paths in zip(images.images, outputs, strict=True):
        for path in paths:
            if path.resolve() in sources:
                return f"{path}: is one of the images and would be overwritten; give another --save_dir"
            if path in written_by:
                return f"{written_by[path]} and {image}: both would be written to {path}; rename one"
            written_by[path] = image
    return None
