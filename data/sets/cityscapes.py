"""Cityscapes: leftImg8bit/<split>/<city>/*_leftImg8bit.png, gtFine/<split>/<city>/*_gtFine_labelIds.png."""

from __future__ import annotations

from pathlib import Path

from data.labels import id_format
from data.sets.dataset import DataSet, read_label_image, require_folder

SIZE = (2048, 1024)


def cityscapes(root: Path, split: str, n_class: int, size: tuple[int, int] | None = None) -> DataSet:
    """The split "train" or "val", sorted by path. Labels need not exist until one is read."""
    folder = root / "leftImg8bit" / split
    require_folder(folder, f"the {split} images of Cityscapes", "--tgt_rootpath")
    images = sorted(folder.glob("*/*_leftImg8bit.png"))
    if not images:
        raise FileNotFoundError(
            f"{folder}: no */*_leftImg8bit.png in it; unpack leftImg8bit_trainvaltest there"
        )
    labels = [_label_of(image, root, split) for image in images]
    return DataSet(
        "cityscapes",
        root,
        tuple(images),
        tuple(labels),
        id_format("cityscapes", n_class, read_label_image),
        size or SIZE,
        all_labels=f"gtFine/{split}/*/*_gtFine_labelIds.png",
    )


def _label_of(image: Path, root: Path, split: str) -> Path:
    name = image.name.removesuffix("_leftImg8bit.png") + "_gtFine_labelIds.png"
    return root / "gtFine" / split / image.parent.name / name
