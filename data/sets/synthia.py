"""SYNTHIA-RAND-CITYSCAPES: RGB/*.png and GT/LABELS/*.png, 16-bit RGB with the class in channel 0.

Both lie in the folder that is given, or in RAND_CITYSCAPES, as the download unpacks.
"""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import numpy as np

from data.augment.weak import Size
from data.classes import id_format
from data.sets.dataset import DataSet, crossings, nearest_crossings, require_folder
from data.sets.files import listed, listed_labels, located
from utils.files.image_file import LABEL_FORMATS, opened

SIZE = (1280, 760)
_NAME, _UNPACKED = "SYNTHIA", "RAND_CITYSCAPES"  # folders of the README and of the download


def synthia(root: Path, n_class: int, size: tuple[int, int] | None = None) -> DataSet:
    """All images, sorted by name."""
    root = _place(root)
    folder, labels = root / "RGB", root / "GT" / "LABELS"
    require_folder(folder, f"the images of SYNTHIA, or {_UNPACKED} beside it,", "--src_rootpath")
    require_folder(labels, "the labels of SYNTHIA", "--src_rootpath")
    images = listed(folder, (".png",), depth=0)
    if not images:
        raise FileNotFoundError(f"{folder}: no *.png in it; unpack SYNTHIA-RAND-CITYSCAPES there")
    return DataSet(
        "synthia",
        root,
        tuple(images),
        located(labels / image.name for image in images),
        id_format("synthia", n_class, read_synthia_ids),
        size or SIZE,
        all_labels=partial(listed_labels, labels, ".png", depth=0),
    )


def _place(root: Path) -> Path:
    """The first of these folders that has RGB: `root`, the download in it, the download beside SYNTHIA."""
    beside = [root.with_name(_UNPACKED)] if root.name == _NAME else []
    return next((place for place in (root, root / _UNPACKED, *beside) if (place / "RGB").is_dir()), root)


def read_synthia_ids(path: Path, size: Size, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Label ids uint16 read at `size`, at the crossings of rows and columns.

    Pillow would cut the 16 bits to the upper 8, that is to zeros.
    """
    import cv2  # of all scripts only this needs it, and it takes a while to import

    with opened(path, LABEL_FORMATS) as image:
        if path.stat().st_size > 2**20 + 8 * math.prod(image.size):
            raise ValueError("longer than its pixels")
        image.verify()  # checksums; the decoder below would print its own message
    level = cv2.utils.logging.setLogLevel(0)  # it prints messages of its own about damaged files
    try:
        pixels = cv2.imdecode(np.fromfile(path, dtype=np.uint8), cv2.IMREAD_UNCHANGED)  # (H, W, 3), BGR
    except cv2.error as error:
        raise ValueError(f"{path}: not a readable PNG ({error.err}); copy or download it again") from None
    finally:
        cv2.utils.logging.setLogLevel(level)
    if pixels is None:
        raise ValueError(f"{path}: not a readable PNG; copy or download it again")
    if pixels.dtype != np.uint16 or pixels.ndim != 3 or pixels.shape[2] != 3:
        found = f"{pixels.shape[2] if pixels.ndim == 3 else 1} channels of {pixels.dtype}"
        raise ValueError(f"{path}: a SYNTHIA label is a 16-bit RGB PNG, this one has {found}")
    file = pixels.shape[1], pixels.shape[0]
    return crossings(pixels[..., 2], *nearest_crossings(file, size, rows, columns))
