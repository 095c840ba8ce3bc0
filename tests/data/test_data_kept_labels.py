"""The record of what made a folder's labels is true of them at every moment."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.kept_labels import DAMAGED, MISSING, WHOLE, KeptLabels, states
from data.labels import palette
from data.pseudo_labels import PseudoLabels, write_hard, write_soft
from utils.distributed import ALONE

NAMES = ["a", "b", "c"]
SIZE = (8, 6)


def kept(folder: Path, soft: bool, model: str) -> KeptLabels:
    sizes, dtype = dict.fromkeys(NAMES, SIZE), "float32" if soft else "float16"
    return KeptLabels(PseudoLabels(folder, 19), soft, sizes, dtype, {"model": model}, palette(19))


def write(folder: Path, soft: bool, name: str) -> None:
    if soft:
        write_soft(folder, name, np.full((19, SIZE[1], SIZE[0]), 1 / 19))
    else:
        label = np.random.default_rng(ord(name)).integers(0, 19, (SIZE[1], SIZE[0]))
        write_hard(folder, name, label, np.ones((SIZE[1], SIZE[0])), palette(19))


@pytest.mark.parametrize("soft", [True, False])
def test_states(tmp_path, soft):
    labels = kept(tmp_path, soft, "one")
    assert labels.begin(NAMES) is None
    for name in NAMES[:2]:
        write(tmp_path, soft, name)
    last = labels.labels.files("b", soft)[0]
    last.write_bytes(last.read_bytes()[:-20])
    for workers in (0, 1):
        assert states(labels, NAMES, workers, ALONE).tolist() == [WHOLE, DAMAGED, MISSING]


def test_colours_are_those_of_the_label_in_rgb(tmp_path):
    """A palette picture, as earlier versions wrote, is made again."""
    labels = kept(tmp_path, False, "one")
    write(tmp_path, False, "a")
    label, colours = labels.labels.files("a", False)[:2]
    assert labels.state("a") == WHOLE
    with Image.open(label) as first, Image.open(colours) as second:
        ids, picture = first.copy(), second.copy()
    as_palette = ids.copy()
    as_palette.putpalette(palette(19).tobytes())
    for other in (as_palette, picture.rotate(180), ids):
        other.save(colours)
        assert labels.state("a") == DAMAGED
    picture.save(colours)
    assert labels.state("a") == WHOLE


@pytest.mark.parametrize("soft", [True, False])
def test_begun_again_by_the_same_nothing_changes(tmp_path, soft):
    labels = kept(tmp_path, soft, "one")
    labels.begin(NAMES)
    write(tmp_path, soft, "a")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert labels.begin(NAMES) is None
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


class Killed(BaseException):
    """An exception that no handler expects."""


@pytest.mark.parametrize("soft", [True, False])
def test_wherever_it_is_killed_no_old_label_passes_for_a_new_one(tmp_path, monkeypatch, soft):
    """Killed before the nth change to the folder, for every n."""
    moments = 0
    while True:
        folder = tmp_path / str(moments)
        old, new = kept(folder, soft, "old"), kept(folder, soft, "new")
        old.begin(NAMES)
        for name in NAMES:
            write(folder, soft, name)
        left = moments

        def counted(change):
            def changed(*words, **named):
                nonlocal left
                if left == 0:
                    raise Killed
                left -= 1
                return change(*words, **named)

            return changed

        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", counted(Path.unlink))
            patch.setattr("data.kept_labels.save_json", counted(lambda value, path: write_plain(value, path)))
            try:
                new.begin(NAMES)
                break
            except Killed:
                pass
        made_by = json.loads(new.record.read_text())
        there = [file for name in NAMES for file in new.labels.files(name, soft) if file.exists()]
        assert made_by == {"model": "old"} or there == []
        assert new.begin(NAMES) is not None or there == []
        assert states(new, NAMES, 0, ALONE).tolist() == [MISSING] * 3
        moments += 1
    assert moments == (4 if soft else 10)  # the files of three labels and the record


def write_plain(value: object, path: Path) -> None:
    """Without the removal of a temporary file, which is counted."""
    path.write_text(json.dumps(value))


@pytest.mark.parametrize("content", ["", "[]", "{", '{"model": "two"}'])
def test_a_record_that_says_something_else_or_nothing(tmp_path, content):
    labels = kept(tmp_path, True, "one")
    labels.begin(NAMES)
    write(tmp_path, True, "a")
    labels.record.write_text(content)
    assert "all are made anew" in labels.begin(NAMES)
    assert list(tmp_path.iterdir()) == [labels.record]
    assert json.loads(labels.record.read_text()) == {"model": "one"}
