"""What a data set is: a list of image files, where their labels lie, and how a label is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from data.image_cache import ImageCache
from data.labels import encode, id_table
from data.resize import Box, Size, nearest_index, needed_box, resize_box
from utils.image_file import opened

ReadIds = Callable[[Path, Size, np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class DataSet:
    """Files of one split. size: (W, H) at which images are read.

    read_ids: (path, size, rows (h,), columns (w,)) → label ids (h, w) of the label read at `size`.
    cache: keeps decoded images and labels, if given.
    """

    name: str
    root: Path
    images: tuple[Path, ...]
    labels: tuple[Path, ...]
    scheme: str
    n_class: int
    size: Size
    read_ids: ReadIds
    cache: ImageCache | None = None

    def __len__(self) -> int:
        return len(self.images)

    def first(self, count: int | None) -> DataSet:
        """The same with only its first `count` images."""
        return replace(self, images=self.images[:count], labels=self.labels[:count])

    def with_cache(self, cache: ImageCache | None) -> DataSet:
        """The same, kept in a cache."""
        return replace(self, cache=cache)

    def size_on_disk(self) -> Size:
        """(W, H) of the first image's file; of no more than its header."""
        with opened(self.images[0]) as image:
            return image.size

    def read_image(self, index: int) -> np.ndarray:
        """The whole image (H, W, 3) uint8 RGB, bilinear where the file has another size."""
        return self.read_region(index, (0, 0, *self.size))

    def read_region(self, index: int, box: Box) -> np.ndarray:
        """`box` of `read_image`, (h, w, 3), without decoding and resizing all the rest."""
        path, whole = self.images[index], (0, 0, *self.size)
        if self.cache is None:
            return read_rgb(path, self.size, box)
        left, top, right, bottom = box
        rows = self.cache.rows(
            path, f"RGB {self.size}", top, bottom, lambda: read_rgb(path, self.size, whole)
        )
        return read_rgb(path, self.size, box) if rows is None else rows[:, left:right]

    def read_label(self, index: int) -> np.ndarray:
        """Train ids (H, W) uint8, nearest where the file has another size."""
        return self.read_label_at(index, np.arange(self.size[1]), np.arange(self.size[0]))

    def read_label_at(self, index: int, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """`read_label` where rows (h,) and columns (w,) cross, (h, w)."""
        path = self.labels[index]
        if not path.is_file():
            raise FileNotFoundError(f"{path}: missing; it is the label of {self.images[index]}")
        if self.cache is None:
            return self._decode_label(path, rows, columns)
        top, bottom = int(rows.min()), int(rows.max()) + 1
        whole = np.arange(self.size[1]), np.arange(self.size[0])
        kind = f"{self.scheme} {self.n_class} {self.size}"
        kept = self.cache.rows(path, kind, top, bottom, lambda: self._decode_label(path, *whole))
        if kept is None:
            return self._decode_label(path, rows, columns)
        return crossings(kept, rows - top, columns)

    def _decode_label(self, path: Path, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        ids = self.read_ids(path, self.size, rows, columns)
        return encode(ids, id_table(self.scheme, self.n_class), path)


def intact_size(path: Path) -> Size:
    """(W, H) of an image file; ValueError if its checksums, which decoding does not look at, are wrong."""
    with opened(path) as image:
        size = image.size
        image.verify()
    return size


def load_rows(image: Image.Image, rows: int) -> None:
    """Decode an opened image; of a PNG no more than its first `rows` rows, the others stay empty."""
    if image.format == "PNG" and len(image.tile) == 1 and not image.info.get("interlace"):
        image.tile = [image.tile[0]._replace(extents=(0, 0, image.width, min(rows, image.height)))]
    image.load()


def read_rgb(path: Path, size: Size, box: Box) -> np.ndarray:
    """`box` (h, w, 3) uint8 RGB of an image file read at `size`; ValueError naming it if it is none."""
    with opened(path) as image:
        needed = needed_box(image.size, size, box)
        load_rows(image, needed[3])
    if image.mode[0] in "IF":
        raise ValueError(f"{path}: an image of 8 bits a channel is expected, this one is {image.mode}")
    file = image.size
    if needed != (0, 0, *file):
        image = image.crop(needed)
    if image.mode != "RGB":
        image = image.convert("RGB")
    return np.array(resize_box(image, needed[:2], file, size, box))


def read_label_image(path: Path, size: Size, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Ids of an 8-bit grey or palette PNG read at `size`, where rows and columns cross."""
    with opened(path) as image:
        rows, columns = nearest_crossings(image.size, size, rows, columns)
        load_rows(image, int(rows.max()) + 1)
    if image.mode not in ("L", "P"):
        raise ValueError(f"{path}: a label PNG has one 8-bit channel of ids, this one is {image.mode}")
    return crossings(np.asarray(image), rows, columns)


def nearest_crossings(
    file: Size, size: Size, rows: np.ndarray, columns: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of a map read at `size` → those of its file, nearest."""
    return nearest_index(file[1], size[1])[rows], nearest_index(file[0], size[0])[columns]


def crossings(values: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """values (H, W) where rows (h,) and columns (w,) cross, (h, w)."""
    return values[_as_slice(rows)][:, _as_slice(columns)]


def _as_slice(index: np.ndarray) -> np.ndarray | slice:
    """A slice, which copies nothing, where the index is a run."""
    run = len(index) and (np.diff(index) == 1).all()
    return slice(int(index[0]), int(index[-1]) + 1) if run else index


def require_folder(path: Path, what: str, option: str) -> None:
    """Refuse a missing folder by name, with the option that says where it is."""
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such folder; {what} are expected there (see {option})")
