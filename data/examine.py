"""Problems of one image of a data set, its label and its pseudo label; every byte of them is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data.augment.weak import Size
from data.pseudo_labels import PseudoLabels
from data.sets.dataset import DataSet, intact_size
from utils.grid import grid_size

_AGAIN = "copy or download them again"
_ANEW = "make them anew with generate_pseudo_label.py and this run's --n_class and --img_size"
REMEDIES = {
    "missing images": _AGAIN,
    "damaged images": _AGAIN,
    "missing labels": _AGAIN,
    "damaged labels": _AGAIN,
    "labels with ids that do not exist": "take the files of label ids and the right --src_dataset, or name "
    "them in the file of --classes",
    "labels of another shape than their image": "take image and label of one download",
    "labels without an image": "copy or download the images again, or remove the labels",
    "image names that occur twice": "rename one of each: pseudo labels are named after their image",
    "missing pseudo labels": "run generate_pseudo_label.py: it adds what is missing",
    "damaged pseudo labels": _ANEW,
    "pseudo labels of another shape than their image": _ANEW,
    "data sets that are not there": "give the right folders",
}
_ASPECT = 0.05  # relative difference of width / height that rounding to a grid may cause


class Problem(NamedTuple):
    """kind: a key of REMEDIES; message: one line that names the file."""

    kind: str
    message: str


@dataclass(frozen=True)
class Part:
    """A data set as a run reads it: with labels or not, with soft or hard pseudo labels or none."""

    title: str
    data: DataSet
    labelled: bool
    pseudo: PseudoLabels | None = None
    soft: bool = False


@dataclass
class Finding:
    """Result for one image. size: (W, H), None if it cannot be read; bytes: of image and label on disk;

    pseudo_bytes: of the pseudo label; notes: remarks that are no problems.
    """

    size: Size | None = None
    bytes: int = 0
    pseudo_bytes: int = 0
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def attempt(self, what: str, read: Callable[[], Any], wrong: str | None = None) -> Any:
        """Return what `read` returns; if it fails, add a problem and return None."""
        try:
            return read()
        except FileNotFoundError as error:
            self.problems.append(Problem(f"missing {what}", str(error)))
        except (OSError, ValueError) as error:
            self.problems.append(Problem(wrong or f"damaged {what}", str(error)))
        return None

    def compare(self, what: str, path: Path, found: Size, image: str, wanted: Size, note: str) -> None:
        """Add a problem, or a note if the two sizes have nearly the same width / height."""
        if abs(found[0] * wanted[1] / (found[1] * wanted[0]) - 1) > _ASPECT:
            kind = f"{what} of another shape than their image"
            self.problems.append(Problem(kind, f"{path}: size {found}, {image} {wanted}"))
        elif found != wanted:
            self.notes.append(f"{what} of another size than {note}")


def examine(part: Part, index: int) -> Finding:
    """Read all files of an image, with every row and checksum."""
    data, found = replace(part.data, cache=None), Finding()
    name, files = data.image_name(index), [data.images[index]]
    found.size = found.attempt("images", lambda: _image_size(data, index))
    if part.labelled:
        files.append(data.labels[index])
        _examine_label(data, index, found)
    if part.pseudo is not None:
        found.pseudo_bytes = _bytes(part.pseudo.files(name, part.soft))
        if data.size or found.size:
            _examine_pseudo(part, name, data.size or found.size, found)
    found.bytes = _bytes(files)
    return found


def _image_size(data: DataSet, index: int) -> Size:
    """(W, H) of an image, after decoding all of it."""
    size = intact_size(data.images[index])
    replace(data, size=size).read_image(index)
    return size


def _examine_label(data: DataSet, index: int, found: Finding) -> None:
    path = data.labels[index]
    if not path.is_file():
        message = f"{path}: missing; it is the label of {data.images[index]}"
        found.problems.append(Problem("missing labels", message))
        return
    stored = found.attempt("labels", lambda: _all_stored(data, path))
    if stored is not None:
        unknown = "labels with ids that do not exist"
        found.attempt("labels", lambda: data.stored.encode(stored, path=path), unknown)
        if found.size is not None:
            size = stored.shape[1], stored.shape[0]
            found.compare("labels", path, size, "its image", found.size, "their image, resized like it")


def _all_stored(data: DataSet, path: Path) -> np.ndarray:
    """Read a label as stored, (H, W) or (H, W, 3)."""
    width, height = size = intact_size(path)
    return data.stored.read(path, size, np.arange(height), np.arange(width))


def _examine_pseudo(part: Part, name: str, size: Size, found: Finding) -> None:
    """Examine the pseudo label of an image that is read at `size`."""
    pseudo, grid = part.pseudo, grid_size(*size)
    if part.soft:
        found.attempt("pseudo labels", lambda: pseudo.verify_soft(name, grid))
        return
    own = found.attempt("pseudo labels", lambda: pseudo.verify_hard(name))
    if own not in (None, grid):
        path = pseudo.folder / f"{name}.png"
        image, note = "its image is read at", "images are read at, resized"
        found.compare("pseudo labels", path, own, image, size, note)


def _bytes(files: list[Path]) -> int:
    return sum(file.stat().st_size for file in files if file.is_file())
