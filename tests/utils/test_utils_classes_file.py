"""The file of --classes: what it says, and what is refused."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from utils.classes_file import LAYOUTS, Layout, drawn_colour, read_classes_file

GOOD = """
classes:
  - {name: road, colour: "#804080", source: 7, target: [0, 1]}
  - {name: lane marking, colour: [1, 2, 3], source: [], target: []}
source:
  {images: rgb, labels: "ids/{split}", list: "{split}.txt", train: all, image_suffix: _rgb.jpg, ignore: rest}
target: {label_suffix: _id.png, ignore: [2, 254]}
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "my.yaml"
    path.write_text(text)
    return path


def test_what_a_file_says(tmp_path):
    file = read_classes_file(write(tmp_path, GOOD))
    assert file.names == ("road", "lane marking")
    assert file.colours == ((128, 64, 128), (1, 2, 3))
    assert file.layouts["source"] == Layout(
        images="rgb",
        labels="ids/{split}",
        list="{split}.txt",
        image_suffix="_rgb.jpg",
        label_suffix=".png",
        train="all",
        values=((7,), ()),
        ignore=None,
    )
    assert file.layouts["target"] == Layout(
        images="images/{split}",
        labels="labels/{split}",
        label_suffix="_id.png",
        values=((0, 1), ()),
        ignore=(2, 254),
    )
    assert file.layouts["source"].place("ids/{split}", "train") == "ids/all"
    assert file.layouts["source"].place("ids/{split}", "val") == "ids/val"


def test_the_shortest_file(tmp_path):
    file = read_classes_file(write(tmp_path, "classes: [road, sky, lane]"))
    assert file.names == ("road", "sky", "lane") and file.colours == (None,) * 3
    for domain, layout in file.layouts.items():
        assert layout.values == (None,) * 3 and layout.ignore == (255,)
        assert (layout.images, layout.labels) == (LAYOUTS[domain].images, LAYOUTS[domain].labels)


def test_a_file_that_only_says_where_files_lie(tmp_path):
    file = read_classes_file(write(tmp_path, "target: {images: frames}"))
    assert file.names == () and file.layouts["target"].images == "frames"


def test_colours_in_every_form(tmp_path):
    text = 'classes:\n- {name: a, source: "#0102ff"}\n- {name: b, source: [3, 4, 5]}\n'
    text += '- {name: c, source: [[6, 7, 8], "#09000A"]}\n- {name: d, source: []}\nsource: {kind: colours}'
    layout = read_classes_file(write(tmp_path, text)).layouts["source"]
    assert layout.values == (((1, 2, 255),), ((3, 4, 5),), ((6, 7, 8), (9, 0, 10)), ())
    assert layout.ignore == ()  # black may be a class


def test_the_digest_is_of_what_decides(tmp_path):
    file = read_classes_file(write(tmp_path, "classes: [road, sky]"))
    (tmp_path / "moved").mkdir()
    text = 'classes: [{name: road, colour: "#000000"}, "sky"]\nsource: {images: elsewhere}'
    moved = read_classes_file(write(tmp_path / "moved", text))
    other = read_classes_file(write(tmp_path, "classes: [sky, road]"))
    ignoring = read_classes_file(write(tmp_path, "classes: [road, sky]\nsource: {ignore: rest}"))
    assert file.digest == moved.digest
    assert len({file.digest, other.digest, ignoring.digest}) == 3


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        (GOOD, "[1, 2]", "the file is a mapping of classes, source, target"),
        ("classes:", "clases:", "'clases', which is none of classes, source, target"),
        ("classes:", "none:\n- 3\nclasses:", "has 'none'"),
        (GOOD, "classes: [road]", "a list of 2 to 249 classes"),
        (GOOD, f"classes: {[f'c{i}' for i in range(250)]}", "a list of 2 to 249 classes"),
        (GOOD, "classes: 5", "a list of 2 to 249 classes"),
        (GOOD, "classes: [road, road]", "class 'road' occurs twice"),
        (GOOD, "classes: [road, 5]", "class 2 is a mapping of name, colour, source, target, not 5"),
        ("name: road", "name: yes", "class 1 has no name"),
        ("name: road", "nam: road", "class 1 has 'nam'"),
        ("name: road", 'name: ""', "class 1 has no name"),
        ("name: road", 'name: "ro\\nad"', "'ro\\nad' is no name"),
        ("name: road", f"name: {'r' * 61}", "class 1 has no name"),
        ('"#804080"', '"#80408"', "class 'road', colour: '#80408' is no colour"),
        ('"#804080"', '"#80 080"', "is no colour"),
        ('"#804080"', "[1, 2, 256]", "[1, 2, 256] is no colour"),
        ('"#804080"', "7", "7 is no colour"),
        ("source: 7", "source: 256", "class 'road', source: 256 is no label id"),
        ("source: 7", "source: -1", "-1 is no label id"),
        ("source: 7", "source: true", "True is no label id"),
        ("source: 7", "source: 7.0", "7.0 is no label id"),
        ("source: 7", 'source: "#000000"', "'#000000' is no label id"),
        ("[0, 1]", "[0, [1]]", "class 'road', target: [1] is no label id"),
        ("[0, 1]", "[0, 2]", "'target': 2 belongs to class 'road' and to ignore"),
        ("[0, 1]", "[0, 1, 0]", "'target': 0 belongs to class 'road' and to class 'road'"),
        ("[2, 254]", "all", "'target', ignore: 'all' is no label id"),
        ("images: rgb", "images: ../rgb", "images '../rgb' is no path below the data set's folder"),
        ("images: rgb", "images: /rgb", "images '/rgb' is no path"),
        ("images: rgb", "images: [rgb]", "images ['rgb'] is no path"),
        ("images: rgb", 'images: "a\\0b"', "is no path"),
        ('"{split}.txt"', "a/../../b.txt", "list 'a/../../b.txt' is no path"),
        ("train: all", "train: ..", "train '..' is no path"),
        ("train: all", 'train: "{split}"', "what {split} stands for"),
        ("_rgb.jpg", "a/b.jpg", "image_suffix 'a/b.jpg' is the end of a file's name"),
        ("_id.png", "_id.jpg", "label_suffix ends in .png"),
        ("source:\n  {", "source:\n  {kind: rgb, ", "kind is 'ids' or 'colours', not 'rgb'"),
        ("source:\n  {", "source:\n  {folder: x, ", "'source' has 'folder'"),
        ("target: {label_suffix: _id.png, ignore: [2, 254]}", "target: []", "'target' is a mapping"),
        ("target: {", "target: {kind: colours, ", "class 'road', target: 0 is no colour"),
        ("classes:", "classes: [", "not a readable YAML file"),
    ],
)
def test_what_is_refused_in_one_line(tmp_path, old, new, word):
    text = GOOD.replace(old, new, 1)
    assert text != GOOD
    path = write(tmp_path, text)
    with pytest.raises(ValueError) as error:
        read_classes_file(path)
    message = str(error.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    assert word in message


def test_drawn_colours_differ():
    colours = [drawn_colour(i) for i in range(60)]
    assert len(set(colours)) == 60 and all(0 <= level <= 255 for colour in colours for level in colour)
    for before, after in pairwise(colours):
        assert sum(abs(a - b) for a, b in zip(before, after, strict=True)) > 100
