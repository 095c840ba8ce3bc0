"""What a data set is: a list of image files, where their labels lie, and how a label is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from data.labels import encode, id_table


@dataclass(frozen=True)
class DataSet:
    """Files of one split. size: (W, H) at which images are read. read_ids: path → label ids (H, W)."""

    name: str
    root: Path
    images: tuple[Path, ...]
    labels: tuple[Path, ...]
    scheme: str
    n_class: int
    size: tuple[int, int]
    read_ids: Callable[[Path], np.ndarray]

    def __len__(self) -> int:
        return len(self.images)

    def first(self, count: int | None) -> DataSet:
        """The same with only its first `count` images."""
        return replace(self, images=self.images[:count], labels=self.labels[:count])

    def size_on_disk(self) -> tuple[int, int]:
        """(W, H) of the first image's file; of no more than its header."""
        with _naming(self.images[0]), Image.open(self.images[0]) as image:
            return image.size

    def read_image(self, index: int) -> Image.Image:
        """RGB image of `size`, bilinear where the file has another."""
        image = open_image(self.images[index]).convert("RGB")
        return image if image.size == self.size else image.resize(self.size, Image.Resampling.BILINEAR)

    def read_label(self, index: int) -> np.ndarray:
        """Train ids (H, W) uint8, nearest where the file has another size."""
        path = self.labels[index]
        if not path.is_file():
            raise FileNotFoundError(f"{path}: missing; it is the label of {self.images[index]}")
        train_ids = encode(self.read_ids(path), id_table(self.scheme, self.n_class), path)
        return resize_label(train_ids, self.size)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Errors of an image file that is broken or missing name it and the remedy."""
    try:
        yield
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{path}: no such image; did it vanish or move since the run began?"
        ) from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: not a readable image ({error}); copy or download it again") from None


def open_image(path: Path) -> Image.Image:
    """A wholly decoded image; a broken or missing file is an error that names it."""
    with _naming(path), Image.open(path) as image:
        image.load()
        return image


def read_label_image(path: Path) -> np.ndarray:
    """Label ids (H, W) of an 8-bit grey or palette PNG."""
    image = open_image(path)
    if image.mode not in ("L", "P"):
        raise ValueError(f"{path}: a label PNG has one 8-bit channel of ids, this one is {image.mode}")
    return np.asarray(image)


def resize_label(label: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Label map to size (W, H), nearest."""
    if label.shape == (size[1], size[0]):
        return label
    return np.asarray(Image.fromarray(label).resize(size, Image.Resampling.NEAREST))


def require_folder(path: Path, what: str, option: str) -> None:
    """Refuse a missing folder by name, with the option that says where it is."""
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such folder; {what} are expected there (see {option})")
