"""GTA5: images/00001.png, labels/00001.png and split.mat with 1-based ids of train, val and test."""

from __future__ import annotations

import io
import math
import warnings
from pathlib import Path

from scipy.io import whosmat

from data.classes import id_format
from data.sets.dataset import DataSet, read_label_image, require_folder
from data.sets.files import located
from utils.errors import reading_remedy

SIZE = (2048, 1024)
_ARCHIVE = "read_mapping.zip of GTA5's page"
_LISTS = {"trainIds", "valIds", "testIds"}
_NUMBERS = {"double", "single", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))}
_MOST_IMAGES = 99_999  # there are 24,966; file names have five digits
_SPLIT_LIMIT = 2**18  # bytes; 24,966 numbers of 8 bytes have 200,000


def gta5(root: Path, n_class: int, size: tuple[int, int] | None = None) -> DataSet:
    """All images of the three splits together, in order of their numbers."""
    for part in ("images", "labels"):
        require_folder(root / part, f"the {part} of GTA5", "--src_rootpath")
    unpacked = root / "read_mapping" / "split.mat"
    split = unpacked if unpacked.is_file() and not (root / "split.mat").exists() else root / "split.mat"
    files = [f"{i:05d}.png" for i in range(1, _image_count(split) + 1)]
    images, labels = (located(root / part / file for file in files) for part in ("images", "labels"))
    stored = id_format("cityscapes", n_class, read_label_image)
    return DataSet("gta5", root, images, labels, stored, size or SIZE)


def _image_count(path: Path) -> int:
    """The number of ids in the three lists of split.mat: all that the released code uses of them.

    Only the headers are read. The ids are 1, 2, …; scipy's reader may crash on damaged numbers.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: missing, it is in {_ARCHIVE}; unpack it there")
    try:
        return _listed_ids(path)
    except Exception as error:  # scipy's reader raises many types on a broken file
        remedy = reading_remedy(error, "take it from there")
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path}: not the file of {_ARCHIVE} ({reason}); {remedy}") from None


def _listed_ids(path: Path) -> int:
    if path.stat().st_size > _SPLIT_LIMIT:
        raise ValueError(f"larger than {_SPLIT_LIMIT} bytes")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # scipy only warns of a variable that it cannot read
        lists = [found for found in whosmat(io.BytesIO(path.read_bytes())) if found[0] in _LISTS]
    if sorted(name for name, _, _ in lists) != sorted(_LISTS):
        raise ValueError(f"it must hold each of {', '.join(sorted(_LISTS))} once")
    for name, shape, kind in lists:
        if kind not in _NUMBERS or min(shape) < 0:
            raise ValueError(f"{name} is {kind} of shape {shape}, not a list of numbers")
    count = sum(math.prod(shape) for _, shape, _ in lists)
    if not 0 < count <= _MOST_IMAGES:
        raise ValueError(f"it lists {count} images")
    return count
