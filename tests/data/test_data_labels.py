"""Label ids, train ids, names and colours as the data sets define them."""

from __future__ import annotations

import numpy as np
import pytest
from torchvision.datasets import Cityscapes

from data.classes import id_format, known_classes
from data.labels import CLASSES, class_names, palette, thirteen_of_sixteen

IGNORE = 250
CITYSCAPES = {
    19: [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33],
    16: [7, 8, 11, 12, 13, 17, 19, 20, 21, 23, 24, 25, 26, 28, 32, 33],
    13: [7, 8, 11, 19, 20, 21, 23, 24, 25, 26, 28, 32, 33],
}
SYNTHIA = {
    19: [3, 4, 2, 21, 5, 7, 15, 9, 6, 16, 1, 10, 17, 8, 18, 19, 20, 12, 11],
    16: [3, 4, 2, 21, 5, 7, 15, 9, 6, 1, 10, 17, 8, 19, 12, 11],
    13: [3, 4, 2, 15, 9, 6, 1, 10, 17, 8, 19, 12, 11],
}
IDS = {"cityscapes": CITYSCAPES, "synthia": SYNTHIA}
EXISTING = {"cityscapes": range(34), "synthia": range(23)}
CLASSES_19 = (
    "road sidewalk building wall fence pole light sign vegetation terrain sky person rider car truck bus "
    "train motorcycle bicycle"
)
CLASSES_16 = (
    "road sidewalk building wall fence pole light sign vegetation sky person rider car bus motorcycle bicycle"
)
CLASSES_13 = "road sidewalk building light sign vegetation sky person rider car bus motorcycle bicycle"


def encode(scheme: str, n_class: int, ids: np.ndarray) -> list[list[int]]:
    train_ids = id_format(scheme, n_class, np.load).encode(ids, path="somewhere/b.png")
    assert train_ids.dtype == np.uint8
    return train_ids.tolist()


@pytest.mark.parametrize("n_class", [19, 16, 13])
@pytest.mark.parametrize("scheme", ["cityscapes", "synthia"])
def test_every_existing_id_becomes_its_train_id_or_void(scheme, n_class):
    ids, existing = IDS[scheme][n_class], EXISTING[scheme]
    expected = [ids.index(i) if i in ids else IGNORE for i in existing]
    for dtype in (np.uint8, np.uint16):
        assert encode(scheme, n_class, np.array([existing], dtype)) == [expected]


@pytest.mark.parametrize(("scheme", "bad"), [("cityscapes", 77), ("synthia", 23), ("synthia", 128)])
def test_ids_of_another_data_set_name_the_file(scheme, bad):
    with pytest.raises(ValueError, match=rf"somewhere/b\.png.*{bad}"):
        encode(scheme, 19, np.array([[3, bad]], dtype=np.uint8))


@pytest.mark.parametrize("bad", [256, 300, 65535])
def test_ids_beyond_a_byte_name_the_file(bad):
    with pytest.raises(ValueError, match=rf"somewhere/b\.png.*{bad}"):
        encode("synthia", 19, np.array([[3, bad]], dtype=np.uint16))


def test_class_names_in_order():
    assert class_names(19) == CLASSES_19.split()
    assert class_names(16) == CLASSES_16.split()
    assert class_names(13) == CLASSES_13.split()
    assert list(CLASSES) == [13, 16, 19]


def test_thirteen_of_sixteen_leaves_out_wall_fence_and_pole():
    assert [class_names(16)[i] for i in thirteen_of_sixteen()] == class_names(13)


def test_palette_is_that_of_cityscapes():
    colours = dict(zip(class_names(19), map(tuple, palette(19).tolist()), strict=True))
    assert colours["road"] == (128, 64, 128)
    assert colours["sky"] == (70, 130, 180)  # not the released code's 0, 130, 180
    assert colours["car"] == (0, 0, 142)
    assert colours["person"] == (220, 20, 60)
    assert colours["vegetation"] == (107, 142, 35)
    assert colours["bicycle"] == (119, 11, 32)
    assert len(set(colours.values())) == 19
    for n_class in (16, 13):
        expected = [colours[name] for name in class_names(n_class)]
        assert [tuple(colour) for colour in palette(n_class).tolist()] == expected


ABSENT = {19: (), 16: ("terrain", "truck", "train")}
ABSENT[13] = (*ABSENT[16], "wall", "fence", "pole")


@pytest.mark.parametrize("n_class", ABSENT)
def test_names_colours_and_ids_are_those_of_torchvision(n_class):
    known = sorted((c for c in Cityscapes.classes if 0 <= c.train_id < 19), key=lambda c: c.train_id)
    kept = [c for c in known if c.name not in ABSENT[n_class]]
    ours = known_classes(n_class)
    assert list(ours.names) == [c.name.removeprefix("traffic ") for c in kept]
    assert [tuple(colour) for colour in ours.palette.tolist()] == [c.color for c in kept]
    assert ours.cityscapes_ids().tolist() == [c.id for c in kept]
