"""Problems of one image of a data set, its label and its pseudo label; every byte of them is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
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
OTHER_SIZE = "labels of another size than their image, resized like it"
OTHER_PSEUDO_SIZE = "pseudo labels of another size than images are read at, resized"
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


class Finding(NamedTuple):
    """Result for one image. size: (W, H), None if it cannot be read; bytes: of image and label on disk;

    pseudo_bytes: of the pseudo label; notes: remarks that are no problems.
    """

    size: Size | None
    bytes: int
    pseudo_bytes: int
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]


def examine(part: Part, index: int) -> Finding:
    """Read all files of an image, with every row and checksum."""
    problems: list[Problem] = []
    notes: list[str] = []
    data = replace(part.data, cache=None)
    name, files = data.image_name(index), [data.images[index]]
    size = _attempt(problems, "images", lambda: _image_size(data, index))
    if part.labelled:
        files.append(data.labels[index])
        _examine_label(data, index, size, problems, notes)
    if part.pseudo is not None:
        _examine_pseudo(part, name, data.size or size, problems, notes)
    pseudo = [] if part.pseudo is None else part.pseudo.files(name, part.soft)
    return Finding(size, _bytes(files), _bytes(pseudo), tuple(problems), tuple(notes))


def _attempt(problems: list[Problem], what: str, read: Callable[[], Any]) -> Any:
    """Return what `read` returns; if it fails, add a problem and return None."""
    try:
        return read()
    except FileNotFoundError as error:
        problems.append(Problem(f"missing {what}", str(error)))
    except (OSError, ValueError) as error:
        problems.append(Problem(f"damaged {what}", str(error)))
    return None


def _image_size(data: DataSet, index: int) -> Size:
    """(W, H) of an image, after decoding all of it."""
    size = intact_size(data.images[index])
    replace(data, size=size).read_image(index)
    return size


def _examine_label(
    data: DataSet, index: int, size: Size | None, problems: list[Problem], notes: list[str]
) -> None:
    """Examine a label. size: of its image, None if that cannot be read."""
    path = data.labels[index]
    if not path.is_file():
        message = f"{path}: missing; it is the label of {data.images[index]}"
        problems.append(Problem("missing labels", message))
        return
    stored = _attempt(problems, "labels", lambda: _all_stored(data, path))
    if stored is None:
        return
    try:
        data.stored.encode(stored, path=path)
    except ValueError as error:
        problems.append(Problem("labels with ids that do not exist", str(error)))
    found = stored.shape[1], stored.shape[0]
    if size is None or found == size:
        return
    if _alike(found, size):
        notes.append(OTHER_SIZE)
    else:
        sizes = f"size {found}, its image {size}"
        problems.append(Problem("labels of another shape than their image", f"{path}: {sizes}"))


def _all_stored(data: DataSet, path: Path) -> np.ndarray:
    """Read a label as stored, (H, W) or (H, W, 3)."""
    width, height = size = intact_size(path)
    return data.stored.read(path, size, np.arange(height), np.arange(width))


def _examine_pseudo(
    part: Part, name: str, size: Size | None, problems: list[Problem], notes: list[str]
) -> None:
    """Examine a pseudo label. size: at which the image is read, None if it cannot be."""
    if size is None:
        return
    pseudo, grid = part.pseudo, grid_size(*size)
    if part.soft:
        _attempt(problems, "pseudo labels", lambda: pseudo.verify_soft(name, grid))
        return
    found = _attempt(problems, "pseudo labels", lambda: pseudo.verify_hard(name))
    if found is None or found in (size, grid):
        return
    if _alike(found, size):
        notes.append(OTHER_PSEUDO_SIZE)
    else:
        message = f"{pseudo.folder / name}.png: size {found}, its image is read at {size}"
        problems.append(Problem("pseudo labels of another shape than their image", message))


def _alike(first: Size, second: Size) -> bool:
    """True if two sizes have nearly the same width / height."""
    return abs(first[0] * second[1] / (first[1] * second[0]) - 1) <= _ASPECT


def _bytes(files: list[Path]) -> int:
    return sum(file.stat().st_size for file in files if file.is_file())
