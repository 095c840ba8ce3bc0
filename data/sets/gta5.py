"""GTA5: images/00001.png, labels/00001.png and split.mat with 1-based ids of train, val and test."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import numpy as np
from scipy.io import loadmat, whosmat
from scipy.io.matlab import matfile_version

from data.labels import id_format
from data.mat_file import read_matrices
from data.sets.dataset import DataSet, read_label_image, require_folder

SIZE = (2048, 1024)
_LISTS = ("trainIds", "valIds", "testIds")
_NUMBERS = ("double", "single", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)))
_MAX_IDS = 99_999  # of the 24,966 images; file names have five digits
_SPLIT_LIMIT = 2**20  # bytes; split.mat has a fifth of it


def gta5(root: Path, n_class: int, size: tuple[int, int] | None = None) -> DataSet:
    """All images of the three splits together, in order of their numbers."""
    require_folder(root / "images", "the images of GTA5", "--src_rootpath")
    require_folder(root / "labels", "the labels of GTA5", "--src_rootpath")
    files = [f"{i:05d}.png" for i in _read_ids(root / "split.mat")]
    images = tuple(root / "images" / f for f in files)
    labels = tuple(root / "labels" / f for f in files)
    stored = id_format("cityscapes", n_class, read_label_image)
    return DataSet("gta5", root, images, labels, stored, size or SIZE)


def _read_ids(path: Path) -> list[int]:
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: missing; it comes with GTA5 (read_mapping.zip) and lists its images"
        )
    try:
        ids = _lists_of_ids(path)
    except Exception as error:  # scipy's reader raises many types on a broken file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path}: not GTA5's split.mat ({reason}); download it again") from None
    return sorted({int(i) for i in ids})


def _lists_of_ids(path: Path) -> np.ndarray:
    """The three lists in one, whole positive numbers; an error of any type for a file that holds others."""
    if path.stat().st_size > _SPLIT_LIMIT:
        raise ValueError(f"larger than {_SPLIT_LIMIT} bytes")
    if matfile_version(path)[0] == 1:
        lists = read_matrices(path.read_bytes(), _LISTS, _MAX_IDS)
    else:
        lists = _old_lists(path)
    missing = [name for name in _LISTS if name not in lists]
    if missing:
        raise ValueError(f"it has no {missing[0]}")
    ids = np.concatenate([lists[name] for name in _LISTS])
    if not len(ids):
        raise ValueError("it lists no images")
    if not ((ids >= 1) & (ids <= _MAX_IDS)).all() or (ids % 1).any():
        raise ValueError("an id is no number of an image")
    return ids


def _old_lists(path: Path) -> dict[str, np.ndarray]:
    """The same of the format before MATLAB 5."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # scipy only warns of a variable that it cannot read
        for name, shape, kind in whosmat(path):
            if name in _LISTS and (kind not in _NUMBERS or math.prod(shape) > _MAX_IDS):
                raise ValueError(f"{name} is {kind} of shape {shape}")
        content = loadmat(path, variable_names=_LISTS)
    return {name: content[name].ravel() for name in _LISTS if name in content}
