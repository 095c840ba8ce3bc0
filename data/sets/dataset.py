"""A data set: a list of image files, where their labels lie, and how a label is read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from data.augment.weak import Box, Size, nearest_index, needed_box, resize_box
from data.image_cache import ImageCache
from utils.files.image_file import LABEL_FORMATS, as_rgb, opened

UNKNOWN = 251  # in look-up tables: no file of the data set may hold this value
ASPECT = 0.05  # relative difference of width / height that rounding to a grid may cause
_NAMED = 8  # at most this many values stand in a message


@dataclass(frozen=True)
class LabelFormat:
    """The content of the label files of a data set, and its meaning.

    read: (path, size (W, H), rows (h,), columns (w,)) → stored ids (h, w) or colours (h, w, 3) of the label
    read at `size`; encode: (stored, path) → train ids (h, w) uint8, ValueError naming the file for
    others; key: differs between formats, for a cache; scheme: of `data.labels`, if the ids are one's.
    """

    key: str
    read: Callable[[Path, Size, np.ndarray, np.ndarray], np.ndarray]
    encode: Callable[..., np.ndarray]
    scheme: str | None = None


@dataclass(frozen=True)
class DataSet:
    """Files of one split. size: (W, H) at which images are read, None for each one's own.

    stored: the format of their labels. names: stems of the files derived from each image (pseudo labels,
    predictions); by default the image's own. all_labels: lists label files that all belong to images; None
    where others may lie there. cache: keeps decoded images and labels, if given.
    """

    name: str
    root: Path
    images: tuple[Path, ...]
    labels: tuple[Path, ...]
    stored: LabelFormat
    size: Size | None
    cache: ImageCache | None = None
    names: tuple[str, ...] = ()
    all_labels: Callable[[], list[Path]] | None = None

    def __len__(self) -> int:
        return len(self.images)

    def image_name(self, index: int) -> str:
        """Stem of the files derived from an image; a path where images lie in the user's own folders."""
        return self.names[index] if self.names else self.images[index].stem

    def only(self, indices: Sequence[int]) -> DataSet:
        """The data set with only these of its images."""
        images, labels, names = (
            tuple(parts[i] for i in indices) if parts else ()
            for parts in (self.images, self.labels, self.names)
        )
        return replace(self, images=images, labels=labels, names=names)

    def first(self, count: int | None) -> DataSet:
        """The data set with only its first `count` images."""
        return self.only(range(len(self))[:count])

    def size_of(self, index: int) -> Size:
        """(W, H) at which an image is read."""
        return self.size or self.size_on_disk(index)

    @property
    def common_size(self) -> Size:
        """(W, H) where all images need the same size: that of the first, if each is read at its own."""
        return self.size_of(0)

    def size_on_disk(self, index: int = 0) -> Size:
        """(W, H) of an image file, read from its header."""
        with opened(self.images[index]) as image:
            return image.size

    def read_image(self, index: int) -> np.ndarray:
        """The whole image (H, W, 3) uint8 RGB, bilinear where the file has another size."""
        return self.read_region(index, (0, 0, *self.size_of(index)))

    def read_region(self, index: int, box: Box) -> np.ndarray:
        """`read_image` in a box, (h, w, 3), without decoding and resizing the rest."""
        path, size = self.images[index], self.size_of(index)
        (left, top, right, bottom), shape = box, (size[1], size[0], 3)
        rows = self.cache and self.cache.rows(
            path, f"RGB {size}", shape, top, bottom, lambda: read_rgb(path, size, (0, 0, *size))
        )
        return read_rgb(path, size, box) if rows is None else rows[:, left:right]

    def read_label(self, index: int) -> np.ndarray:
        """Train ids (H, W) uint8 of the image as it is read, nearest where the file has another size."""
        width, height = self.size_of(index)
        return self.read_label_at(index, np.arange(height), np.arange(width))

    def read_label_at(self, index: int, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """`read_label` at the crossings of rows (h,) and columns (w,), (h, w)."""
        path = self.labels[index]
        if not path.is_file():
            raise FileNotFoundError(f"{path}: missing; it is the label of {self.images[index]}")
        size = self.size_of(index)

        def decode(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
            self._require_shape(index)
            return self.stored.encode(self.stored.read(path, size, rows, columns), path=path)

        top, bottom, shape = int(rows.min()), int(rows.max()) + 1, (size[1], size[0])
        cached = self.cache and self.cache.rows(
            path, f"{self.stored.key} {size}", shape, top, bottom, lambda: decode(*map(np.arange, shape))
        )
        return decode(rows, columns) if cached is None else crossings(cached, rows - top, columns)

    def _require_shape(self, index: int) -> None:
        """Refuse a label of another shape than its image; another size is resized."""
        with opened(self.labels[index], LABEL_FORMATS) as label:
            size, wanted = label.size, self.size_on_disk(index)
        if not same_shape(size, wanted):
            path = self.labels[index]
            raise ValueError(f"{path}: size {size}, its image {wanted}; take image and label of one download")


def same_shape(size: Size, other: Size) -> bool:
    """True if two sizes have nearly the same width / height."""
    return abs(size[0] * other[1] / (size[1] * other[0]) - 1) <= ASPECT


def intact_size(path: Path) -> Size:
    """(W, H) of an image file; ValueError for wrong checksums, which decoding does not check."""
    with opened(path) as image:
        size = image.size
        image.verify()
    return size


def stored_form(image: Image.Image) -> str:
    """Mode and bits of an opened PNG, such as "L", "P;4" or "L;4", whose values Pillow multiplies."""
    form = image.tile[0].args if image.tile else image.mode
    return form if isinstance(form, str) else image.mode


def load_rows(image: Image.Image, rows: int) -> None:
    """Decode an opened image; of a PNG only the first `rows` rows, the others stay empty."""
    if image.format == "PNG" and len(image.tile) == 1 and not image.info.get("interlace"):
        image.tile = [image.tile[0]._replace(extents=(0, 0, image.width, min(rows, image.height)))]
    image.load()


def read_rgb(path: Path, size: Size, box: Box) -> np.ndarray:
    """`box` (h, w, 3) uint8 RGB of an image file read at `size`; ValueError naming it if it is none."""
    with opened(path) as image:
        needed = needed_box(image.size, size, box)
        load_rows(image, needed[3])
    file = image.size
    if needed != (0, 0, *file):
        image = image.crop(needed)
    return np.array(resize_box(as_rgb(image, path), needed[:2], file, size, box))


def read_label_image(path: Path, size: Size, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Ids of an 8-bit grey or palette PNG read at `size`, at the crossings of rows and columns."""
    with opened(path, LABEL_FORMATS) as image:
        rows, columns = nearest_crossings(image.size, size, rows, columns)
        form = stored_form(image)
        load_rows(image, int(rows.max()) + 1)
    if form not in ("L", *(f"P{bits}" for bits in ("", ";1", ";2", ";4"))):
        message = f"a label PNG has one 8-bit channel of ids, this one is {form}"
        raise ValueError(f"{path}: {message}; save the ids as grey of 8 bits")
    return crossings(np.asarray(image), rows, columns)


def read_colour_label(path: Path, size: Size, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Colours (h, w, 3) uint8 of a label PNG read at `size`, at the crossings of rows and columns."""
    with opened(path, LABEL_FORMATS) as image:
        rows, columns = nearest_crossings(image.size, size, rows, columns)
        load_rows(image, int(rows.max()) + 1)
    if image.mode not in ("RGB", "RGBA", "P", "L"):
        raise ValueError(f"{path}: a label of colours is a PNG of 8 bits a channel, this one is {image.mode}")
    left, top = int(columns.min()), int(rows.min())
    part = image.crop((left, top, int(columns.max()) + 1, int(rows.max()) + 1))
    return crossings(np.asarray(as_rgb(part, path)), rows - top, columns - left)


def encode(stored: np.ndarray, path: object, table: np.ndarray, remedy: str) -> np.ndarray:
    """Ids (H, W) of an unsigned type or colours (H, W, 3) uint8 → train ids (H, W) uint8.

    table: train id of each id or colour code, UNKNOWN at its end; ValueError for a value that is UNKNOWN.
    """
    codes = stored if stored.ndim == 2 else colour_codes(stored)
    train_ids = np.take(table, codes, mode="clip")
    if (train_ids == UNKNOWN).any():
        bad = np.unique(codes[train_ids == UNKNOWN])[:_NAMED].tolist()
        named = f"label ids {bad}" if stored.ndim == 2 else f"colours {', '.join(f'#{c:06x}' for c in bad)}"
        raise ValueError(f"{path}: {named} do not exist in this data set; {remedy}")
    return train_ids


def colour_codes(colours: np.ndarray) -> np.ndarray:
    """(…, 3) uint8 → (…) uint32, one number a colour."""
    red, green, blue = (colours[..., i].astype(np.uint32) for i in range(3))
    return red << 16 | green << 8 | blue


def nearest_crossings(
    file: Size, size: Size, rows: np.ndarray, columns: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of a map read at `size` → those of its file, nearest."""
    return nearest_index(file[1], size[1])[rows], nearest_index(file[0], size[0])[columns]


def crossings(values: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """values (H, W, …) at the crossings of rows (h,) and columns (w,), (h, w, …)."""
    return values[_as_slice(rows)][:, _as_slice(columns)]


def _as_slice(index: np.ndarray) -> np.ndarray | slice:
    """Return a slice, which copies nothing, for an index without gaps."""
    run = len(index) and (np.diff(index) == 1).all()
    return slice(int(index[0]), int(index[-1]) + 1) if run else index


def require_folder(path: Path, what: str, option: str) -> None:
    """Refuse a missing folder; the message names it and the option that gives its place."""
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such folder; {what} are expected there (see {option})")
