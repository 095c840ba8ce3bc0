"""Label ids, train ids, names and colours of the three data sets. The only file that knows the ignore id."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

IGNORE = 250  # train id of every pixel that losses and scores leave out

NAMES = [
    "road", "sidewalk", "building", "wall", "fence", "pole", "light", "sign", "vegetation", "terrain",
    "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
]  # fmt: skip

PALETTE = np.array(
    [
        [128, 64, 128], [244, 35, 232], [70, 70, 70], [102, 102, 156], [190, 153, 153], [153, 153, 153],
        [250, 170, 30], [220, 220, 0], [107, 142, 35], [152, 251, 152], [70, 130, 180], [220, 20, 60],
        [255, 0, 0], [0, 0, 142], [0, 0, 70], [0, 60, 100], [0, 80, 100], [0, 0, 230], [119, 11, 32],
    ],
    dtype=np.uint8,
)  # fmt: skip

# The 16 classes of SYNTHIA lack terrain, truck and train; the 13 also lack wall, fence and pole.
_CLASSES = {
    19: list(range(19)),
    16: [i for i in range(19) if NAMES[i] not in ("terrain", "truck", "train")],
    13: [i for i in range(19) if NAMES[i] not in ("terrain", "truck", "train", "wall", "fence", "pole")],
}

# Label ids in the order of NAMES.
CITYSCAPES_IDS = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
SYNTHIA_IDS = [3, 4, 2, 21, 5, 7, 15, 9, 6, 16, 1, 10, 17, 8, 18, 19, 20, 12, 11]
_SCHEMES = {
    # scheme: (label ids of the 19 classes, every id that a file of the data set may hold)
    "cityscapes": (CITYSCAPES_IDS, [*range(36), 255]),  # 255: the licence plate's -1 as a byte
    "synthia": (SYNTHIA_IDS, [*range(23), 255]),
}
UNKNOWN = 251  # in look-up tables: no file of the data set may hold this value
_REMEDY = "is this a file of label ids (not of train ids or colours), and the right --src_dataset?"


@dataclass(frozen=True)
class LabelFormat:
    """The content of the label files of a data set, and its meaning.

    read: (path, size (W, H), rows (h,), columns (w,)) → stored ids (h, w) or colours (h, w, 3) of the label
    read at `size`; encode: (stored, path) → train ids (h, w) uint8, ValueError naming the file for
    others; key: differs between formats, for a cache.
    """

    key: str
    read: Callable[[Path, tuple[int, int], np.ndarray, np.ndarray], np.ndarray]
    encode: Callable[..., np.ndarray]


def class_names(n_class: int) -> list[str]:
    """Names of the K classes in train id order."""
    return [NAMES[i] for i in _CLASSES[n_class]]


def palette(n_class: int) -> np.ndarray:
    """(K, 3) uint8 Cityscapes colours in train id order."""
    return PALETTE[_CLASSES[n_class]]


def supported_class_counts() -> list[int]:
    """The numbers of classes of Cityscapes that have known ids."""
    return sorted(_CLASSES)


def thirteen_of_sixteen() -> list[int]:
    """Positions, among the 16 classes, of the 13 that the second SYNTHIA figure is taken over."""
    return [_CLASSES[16].index(i) for i in _CLASSES[13]]


def ids_by_name(scheme: str) -> dict[str, int]:
    """Label id of each of the 19 names; scheme as in `id_table`."""
    return dict(zip(NAMES, _SCHEMES[scheme][0], strict=True))


def existing_ids(scheme: str) -> list[int]:
    """Every id that a label may hold; scheme as in `id_table`."""
    return _SCHEMES[scheme][1]


def id_table(scheme: str, n_class: int) -> np.ndarray:
    """(256,) uint8 look-up table from label id to train id, for `encode`.

    scheme: "cityscapes" (GTA5 uses the same ids) or "synthia".
    """
    ids, allowed = _SCHEMES[scheme]
    table = np.full(256, UNKNOWN, dtype=np.uint8)
    table[allowed] = IGNORE
    for train_id, i in enumerate(_CLASSES[n_class]):
        table[ids[i]] = train_id
    return table


def id_format(scheme: str, n_class: int, read: Callable[..., np.ndarray]) -> LabelFormat:
    """Ids of a scheme (see `id_table`), as `read` reads them."""
    return LabelFormat(f"{scheme} {n_class}", read, partial(encode, table=id_table(scheme, n_class)))


def encode(label_ids: np.ndarray, table: np.ndarray, path: object, remedy: str = _REMEDY) -> np.ndarray:
    """Label ids (H, W) of any integer type → train ids (H, W) uint8; others are an error."""
    if label_ids.dtype != np.uint8 and label_ids.size and (label_ids.min() < 0 or label_ids.max() > 255):
        bad = int(label_ids.min()) if label_ids.min() < 0 else int(label_ids.max())
        raise ValueError(f"{path}: label id {bad} does not exist in this data set")
    train_ids = np.take(table, label_ids)
    if (train_ids == UNKNOWN).any():
        bad = sorted(np.unique(label_ids[train_ids == UNKNOWN]).tolist())
        raise ValueError(f"{path}: label ids {bad[:8]} do not exist in this data set; {remedy}")
    return train_ids
