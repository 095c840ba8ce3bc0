"""Known and own classes: names, colours, and train ids of what labels hold, compared with plain loops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import Cityscapes

from data.classes import folder_format, id_format, known_classes, named_format, own_classes, value_format
from data.labels import CLASSES, IGNORE, class_names, thirteen_of_sixteen
from data.sets.dataset import LabelFormat, read_label_image
from data.sets.synthia import read_synthia_ids
from utils.classes_file import ClassesFile, read_classes_file

SIZE = (13, 9)  # W, H


def file_of(folder: Path, text: str) -> ClassesFile:
    (folder / "my.yaml").write_text(text)
    return read_classes_file(folder / "my.yaml")


def read(stored: LabelFormat, path: Path, size: tuple[int, int] = SIZE) -> np.ndarray:
    return stored.encode(stored.read(path, size, np.arange(size[1]), np.arange(size[0])), path=path)


def save_ids(path: Path, ids: np.ndarray, palette: bool = False) -> Path:
    image = Image.fromarray(ids.astype(np.uint8))
    if palette:
        image.putpalette([level for i in range(256) for level in (i, 255 - i, i // 2)])
    image.save(path)
    return path


# --- ids and colours --------------------------------------------------------------------------------------


MEANING = {3: 0, 200: 0, 0: 2, 7: IGNORE, 255: IGNORE}
FORMS = [("ids", "L"), ("ids", "P"), ("colours", "RGB"), ("colours", "RGBA"), ("colours", "P")]


@pytest.mark.parametrize(("kind", "mode"), FORMS)
def test_each_value_becomes_the_train_id_of_its_class(tmp_path, kind, mode):
    """Colours: those of the palette of `save_ids`."""
    ids = np.random.default_rng(0).choice(list(MEANING), SIZE[::-1])
    path = save_ids(tmp_path / "x.png", ids, palette=mode != "L")
    if mode.startswith("RGB"):
        with Image.open(path) as image:
            image.convert(mode).save(path)
    values, ignore = [[3, 200], [], [0]], [7, 255]
    if kind == "colours":
        values = [[(3, 252, 1), (200, 55, 100)], [], [(0, 255, 0)]]
        ignore = [(7, 248, 3), (255, 0, 127)]
    found = read(value_format(values, ignore, kind, ""), path)
    assert found.dtype == np.uint8
    assert found.tolist() == [[MEANING[value] for value in row] for row in ids.tolist()]


def test_many_colours_at_the_ends_of_the_range():
    ends = np.array([[0, 0, 0], [255, 255, 255], [0, 0, 255], [255, 0, 0]])
    colours = np.unique(np.r_[ends, np.random.default_rng(1).integers(0, 256, (240, 3))], axis=0)
    stored = value_format([[tuple(colour)] for colour in colours.tolist()], None, "colours", "")
    image = np.r_[colours, [[1, 2, 3], [254, 255, 255]]].astype(np.uint8)[None]
    assert stored.encode(image, path="x").tolist() == [[*range(len(colours)), IGNORE, IGNORE]]


def test_unknown_values_are_named(tmp_path):
    path = save_ids(tmp_path / "x.png", np.full((9, 13), 77))
    with pytest.raises(ValueError, match=r"x\.png: label ids \[77\] do not exist in this data set; mend it"):
        read(value_format([[1], [2]], [3], "ids", "mend it"), path)
    with pytest.raises(ValueError, match=r"x\.png: colours #4d4d4d do not exist in this data set; mend it"):
        read(value_format([[(1, 2, 3)], []], [], "colours", "mend it"), path)
    assert (read(value_format([[1], [2]], None, "ids", ""), path) == IGNORE).all()
    assert (read(value_format([[(1, 2, 3)], []], None, "colours", ""), path) == IGNORE).all()


def test_labels_at_another_size_are_nearest(tmp_path):
    ids = np.arange(6).reshape(2, 3)
    path = save_ids(tmp_path / "x.png", ids)
    doubled = read(value_format([[i] for i in range(6)], [], "ids", ""), path, (6, 4))
    np.testing.assert_array_equal(doubled, ids.repeat(2, axis=0).repeat(2, axis=1))
    colours = value_format([[(i, i, i)] for i in range(6)], [], "colours", "")
    np.testing.assert_array_equal(read(colours, path, (6, 4)), doubled)


def test_a_picture_where_ids_are_expected(tmp_path):
    Image.new("RGB", SIZE).save(tmp_path / "x.png")
    with pytest.raises(ValueError, match=r"x\.png: a label PNG has one 8-bit channel of ids"):
        read(value_format([[0], [1]], [], "ids", ""), tmp_path / "x.png")
    Image.new("I;16", SIZE).save(tmp_path / "x.png")
    with pytest.raises(ValueError, match=r"x\.png: a label of colours is a PNG of 8 bits a channel"):
        read(value_format([[(0, 0, 0)], []], [], "colours", ""), tmp_path / "x.png")


def test_formats_that_differ_have_other_keys():
    stored = [
        value_format([[0], [1]], [], "ids", ""),
        value_format([[1], [0]], [], "ids", ""),
        value_format([[0], [1]], None, "ids", ""),
        value_format([[(0, 0, 0)], [(1, 1, 1)]], [], "colours", ""),
        id_format("cityscapes", 19, read_label_image),
    ]
    assert len({one.key for one in stored}) == len(stored)
    assert value_format([(0,), (1,)], (), "ids", "else").key == stored[0].key


# --- what a file says -------------------------------------------------------------------------------------


def test_without_values_labels_hold_train_ids(tmp_path):
    file = file_of(tmp_path, "classes: [road, lane, sky]\nsource: {ignore: [255, 254]}")
    ids = np.array([[0, 1, 2, 255, 254]])
    found = folder_format(file, "source", own_classes(file)).encode(ids, path="x")
    assert found.tolist() == [[0, 1, 2, IGNORE, IGNORE]]
    with pytest.raises(ValueError, match=r"label ids \[254\] .* or to 'ignore' of 'target' in .*my\.yaml"):
        folder_format(file, "target", own_classes(file)).encode(ids, path="x")


def test_without_values_colours_are_those_of_the_pictures(tmp_path):
    file = file_of(tmp_path, "classes: [road, {name: lane, colour: [1, 2, 3]}]\ntarget: {kind: colours}")
    image = np.array([[(128, 64, 128), (1, 2, 3)]], dtype=np.uint8)
    assert folder_format(file, "target", own_classes(file)).encode(image, path="x").tolist() == [[0, 1]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("classes: [{name: road, target: 3}, lane]", "my.yaml: class 'lane' has no 'target' as others have"),
        (
            'classes: [{name: a, colour: "#010203"}, {name: b, colour: "#010203"}]\ntarget: {kind: colours}',
            r"label \(1, 2, 3\) belongs to two classes; .*my.yaml",
        ),
        ("classes: [a, b, c]\ntarget: {ignore: [1]}", "'ignore' of 'target' in .*my.yaml"),
        (
            "classes: [{name: a, colour: '#000001'}, {name: b, colour: '#000002'}]\n"
            "target: {kind: colours, ignore: ['#000002']}",
            "'ignore' of 'target' in .*my.yaml",
        ),
    ],
)
def test_each_value_has_one_meaning(tmp_path, text, message):
    file = file_of(tmp_path, text)
    with pytest.raises(ValueError, match=message):
        folder_format(file, "target", own_classes(file))
    with pytest.raises(ValueError, match="no class has a label"):
        value_format([[], []], None, "colours", "mend it")


@pytest.mark.parametrize(
    ("n_class", "meaning"), [(19, {7: 0, 22: 9, 31: 16, 33: 18}), (16, {7: 0, 23: 9, 33: 15})]
)
def test_known_classes_in_folders(tmp_path, n_class, meaning):
    ids = np.array([[*meaning, 0, 35, 255]])
    expected = [[*meaning.values(), IGNORE, IGNORE, IGNORE]]
    classes = known_classes(n_class)
    assert folder_format(None, "target", classes).encode(ids, path="x").tolist() == expected
    file = file_of(tmp_path, "target: {images: frames, ignore: [99]}")
    stored = folder_format(file, "target", classes)
    assert stored.encode(np.append(ids, [[99]], axis=1), path="x").tolist() == [[*expected[0], IGNORE]]
    with pytest.raises(ValueError, match="99"):
        folder_format(None, "target", classes).encode(np.array([[99]]), path="x")
    file = file_of(tmp_path, "target: {kind: colours, ignore: rest}")
    image = np.array([[(128, 64, 128), (0, 0, 0), (119, 11, 32)]], dtype=np.uint8)
    found = folder_format(file, "target", classes).encode(image, path="x")
    assert found.tolist() == [[0, IGNORE, n_class - 1]]


def test_own_classes_in_known_data_sets(tmp_path):
    text = "classes: [sky, {name: cars, source: [26, 27], target: [8, 17]}, road]"
    file, known = file_of(tmp_path, text), id_format("cityscapes", 19, read_label_image)
    stored = named_format(known, file, "source", "gta5", "cityscapes")
    assert stored.read is read_label_image
    found = stored.encode(np.array([[7, 23, 26, 27, 28, 0, 255]]), path="x")
    assert found.tolist() == [[2, 0, 1, 1, IGNORE, IGNORE, IGNORE]]
    with pytest.raises(ValueError, match=r"label ids \[99\] do not exist"):
        stored.encode(np.array([[99]]), path="x")
    synthia = id_format("synthia", 19, read_synthia_ids)
    stored = named_format(synthia, file, "target", "synthia", "synthia")
    assert stored.read is read_synthia_ids
    found = stored.encode(np.array([[3, 1, 8, 17, 2]], np.uint16), path="x")
    assert found.tolist() == [[2, 0, 1, 1, IGNORE]]
    file = file_of(tmp_path, "classes: [sky, lane]\nsource: {kind: colours}")
    with pytest.raises(ValueError, match=r"class 'lane' is none of road, sidewalk, .*, which cityscapes has"):
        named_format(known, file, "target", "cityscapes", "cityscapes")
    with pytest.raises(ValueError, match="labels of gta5 hold ids, not colours"):
        named_format(known, file, "source", "gta5", "cityscapes")


# --- names, pictures, ids of the benchmark ----------------------------------------------------------------


def test_names_and_colours(tmp_path):
    classes = own_classes(file_of(tmp_path, "classes: [sky, {name: road, colour: [1, 2, 3]}, lane, kerb]"))
    assert classes.names == ("sky", "road", "lane", "kerb")
    assert classes.palette.dtype == np.uint8 and classes.palette.shape == (4, 3)
    assert classes.palette[:2].tolist() == [[70, 130, 180], [1, 2, 3]]
    assert len({tuple(colour) for colour in classes.palette.tolist()}) == 4
    with pytest.raises(ValueError, match="class 'lane' is none of Cityscapes'"):
        classes.cityscapes_ids()


@pytest.mark.parametrize("n_class", [19, 16, 13])
def test_known_classes_are_known_by_their_names(tmp_path, n_class):
    known = known_classes(n_class)
    assert known.built_in
    own = own_classes(file_of(tmp_path, f"classes: [{', '.join(known.names)}]"))
    assert own.built_in and own.palette.tolist() == known.palette.tolist()
    swapped = own_classes(file_of(tmp_path, f"classes: [{', '.join(reversed(known.names))}]"))
    assert not swapped.built_in
    assert swapped.cityscapes_ids().tolist() == known.cityscapes_ids().tolist()[::-1]


def test_colours_that_labels_hold_decide(tmp_path):
    text = "classes: [{name: a, colour: '#000001'}, {name: b, colour: '#000002'}]\nsource: {kind: KIND}"
    digests = {}
    for kind in ("colours", "ids"):
        one = text.replace("KIND", kind)
        other = one.replace("001", "003")
        digests[kind] = [file_of(tmp_path, each).digest for each in (one, other)]
    assert digests["colours"][0] != digests["colours"][1] and digests["ids"][0] == digests["ids"][1]


# --- the three data sets ----------------------------------------------------------------------------------

ABSENT = {19: (), 16: ("terrain", "truck", "train")}
ABSENT[13] = (*ABSENT[16], "wall", "fence", "pole")
KNOWN = sorted((c for c in Cityscapes.classes if 0 <= c.train_id < 19), key=lambda c: c.train_id)
SYNTHIA = {
    19: [3, 4, 2, 21, 5, 7, 15, 9, 6, 16, 1, 10, 17, 8, 18, 19, 20, 12, 11],
    16: [3, 4, 2, 21, 5, 7, 15, 9, 6, 1, 10, 17, 8, 19, 12, 11],
    13: [3, 4, 2, 15, 9, 6, 1, 10, 17, 8, 19, 12, 11],
}
IDS = {
    "cityscapes": {n: [c.id for c in KNOWN if c.name not in ABSENT[n]] for n in ABSENT},
    "synthia": SYNTHIA,
}
EXISTING = {"cityscapes": range(34), "synthia": range(23)}


def encoded(scheme: str, n_class: int, ids: np.ndarray) -> list[list[int]]:
    train_ids = id_format(scheme, n_class, np.load).encode(ids, path="somewhere/b.png")
    assert train_ids.dtype == np.uint8
    return train_ids.tolist()


@pytest.mark.parametrize("n_class", [19, 16, 13])
@pytest.mark.parametrize("scheme", ["cityscapes", "synthia"])
def test_every_existing_id_becomes_its_train_id_or_void(scheme, n_class):
    ids, existing = IDS[scheme][n_class], EXISTING[scheme]
    expected = [ids.index(i) if i in ids else IGNORE for i in existing]
    for dtype in (np.uint8, np.uint16):
        assert encoded(scheme, n_class, np.array([existing], dtype)) == [expected]


@pytest.mark.parametrize(("scheme", "bad"), [("cityscapes", 77), ("synthia", 23), ("synthia", 128)])
def test_ids_of_another_data_set_name_the_file(scheme, bad):
    with pytest.raises(ValueError, match=rf"somewhere/b\.png.*{bad}"):
        encoded(scheme, 19, np.array([[3, bad]], dtype=np.uint8))


@pytest.mark.parametrize("bad", [256, 300, 65535])
def test_ids_beyond_a_byte_name_the_file(bad):
    with pytest.raises(ValueError, match=rf"somewhere/b\.png.*{bad}"):
        encoded("synthia", 19, np.array([[3, bad]], dtype=np.uint16))


@pytest.mark.parametrize("n_class", ABSENT)
def test_names_colours_and_ids_are_those_of_torchvision(n_class):
    kept, ours = [c for c in KNOWN if c.name not in ABSENT[n_class]], known_classes(n_class)
    assert list(ours.names) == [c.name.removeprefix("traffic ") for c in kept]
    assert [tuple(colour) for colour in ours.palette.tolist()] == [c.color for c in kept]
    assert ours.cityscapes_ids().tolist() == [c.id for c in kept]


def test_thirteen_of_sixteen_leaves_out_wall_fence_and_pole():
    assert list(CLASSES) == [13, 16, 19]
    assert [class_names(16)[i] for i in thirteen_of_sixteen()] == class_names(13)
