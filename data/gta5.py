"""GTA5: images/00001.png, labels/00001.png and split.mat with 1-based ids of train, val and test."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.io import loadmat

from data.dataset import DataSet, read_label_image, require_folder

SIZE = (2048, 1024)


def gta5(root: Path, n_class: int, size: tuple[int, int] | None = None) -> DataSet:
    """All images of the three splits together, in order of their numbers."""
    require_folder(root / "images", "the images of GTA5", "--src_rootpath")
    require_folder(root / "labels", "the labels of GTA5", "--src_rootpath")
    files = [f"{i:05d}.png" for i in _read_ids(root / "split.mat")]
    images = tuple(root / "images" / f for f in files)
    labels = tuple(root / "labels" / f for f in files)
    return DataSet("gta5", root, images, labels, "cityscapes", n_class, size or SIZE, read_label_image)


def _read_ids(path: Path) -> list[int]:
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: missing; it comes with GTA5 (read_mapping.zip) and lists its images"
        )
    try:
        content = loadmat(path, variable_names=("trainIds", "valIds", "testIds"))
        ids = np.concatenate([content[key].ravel() for key in ("trainIds", "valIds", "testIds")])
    except KeyError as error:
        raise ValueError(f"{path}: has no {error}; download GTA5's split.mat again") from None
    except Exception as error:  # scipy's reader raises many types on a broken file
        raise ValueError(f"{path}: not a readable .mat file ({error}); download it again") from None
    if not len(ids):
        raise ValueError(f"{path}: lists no images; download it again")
    return sorted({int(i) for i in ids})
