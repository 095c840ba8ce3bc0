"""Names, colours and label ids of the classes of the three data sets. Only this file knows the ignore id."""

from __future__ import annotations

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

# By count, as positions in NAMES. SYNTHIA lacks terrain, truck, train; its 13 also wall, fence, pole.
CLASSES = {
    13: [i for i in range(19) if NAMES[i] not in ("terrain", "truck", "train", "wall", "fence", "pole")],
    16: [i for i in range(19) if NAMES[i] not in ("terrain", "truck", "train")],
    19: list(range(19)),
}

# Label ids in the order of NAMES.
CITYSCAPES_IDS = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
SYNTHIA_IDS = [3, 4, 2, 21, 5, 7, 15, 9, 6, 16, 1, 10, 17, 8, 18, 19, 20, 12, 11]
SCHEMES = {
    # scheme: (label ids of the 19 classes, every id that a file of the data set may hold)
    "cityscapes": (CITYSCAPES_IDS, [*range(36), 255]),  # 255: the licence plate's -1 as a byte
    "synthia": (SYNTHIA_IDS, [*range(23), 255]),
}


def class_names(n_class: int) -> list[str]:
    """Names of the K classes in train id order."""
    return [NAMES[i] for i in CLASSES[n_class]]


def palette(n_class: int) -> np.ndarray:
    """(K, 3) uint8 Cityscapes colours in train id order."""
    return PALETTE[CLASSES[n_class]]


def thirteen_of_sixteen() -> list[int]:
    """Positions, among the 16 classes, of the 13 that the second SYNTHIA figure is taken over."""
    return [CLASSES[16].index(i) for i in CLASSES[13]]
