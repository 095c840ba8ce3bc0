"""Cityscapes: leftImg8bit/<split>/<city>/*_leftImg8bit.png, gtFine/<split>/<city>/*_gtFine_labelIds.png."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from data.classes import id_format
from data.sets.dataset import DataSet, read_label_image, require_folder
from data.sets.files import listed, located

SIZE = (2048, 1024)
_IMAGE, _LABEL = "_leftImg8bit.png", "_gtFine_labelIds.png"


def cityscapes(root: Path, split: str, n_class: int, size: tuple[int, int] | None = None) -> DataSet:
    """The split "train" or "val", sorted by path. Labels need not exist until one is read."""
    folder = root / "leftImg8bit" / split
    require_folder(folder, f"the {split} images of Cityscapes", "--tgt_rootpath")
    images = listed(folder, (_IMAGE,), depth=1)
    if not images:
        raise FileNotFoundError(f"{folder}: no */*{_IMAGE} in it; unpack leftImg8bit_trainvaltest there")
    labels = root / "gtFine" / split
    return DataSet(
        "cityscapes",
        root,
        tuple(images),
        located(labels / image.parent.name / f"{image.name[: -len(_IMAGE)]}{_LABEL}" for image in images),
        id_format("cityscapes", n_class, read_label_image),
        size or SIZE,
        all_labels=partial(listed, labels, (_LABEL,), depth=1),
    )
