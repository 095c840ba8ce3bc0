"""Files appear whole or not at all; pictures of labels."""

from __future__ import annotations

import errno
import json
import math
import os
import subprocess
import sys
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image

from utils.files.image_file import opened
from utils.files.whole import (
    clear_unfinished,
    load_array,
    replace_when_whole,
    save_array,
    save_image,
    save_json,
    save_text,
)
from utils.render import colourise, contact_sheet


def test_a_whole_file_appears_under_its_name(tmp_path):
    path = tmp_path / "a" / "b" / "file.bin"
    with replace_when_whole(path) as file:
        file.write(b"con")
        assert not path.exists()
        file.write(b"tent")
    assert path.read_bytes() == b"content"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [KeyError, KeyboardInterrupt])
def test_an_error_or_interrupt_leaves_the_old_file(tmp_path, error):
    path = tmp_path / "file.bin"
    for before in (None, b"old"):
        if before is not None:
            path.write_bytes(before)
        with pytest.raises(error), replace_when_whole(path) as file:
            file.write(b"new")
            raise error
        assert list(tmp_path.iterdir()) == ([] if before is None else [path])
    assert path.read_bytes() == b"old"


def test_a_full_disk_is_named(tmp_path):
    path = tmp_path / "file.bin"
    with pytest.raises(OSError, match="make room") as raised, replace_when_whole(path):
        raise OSError(28, "No space left on device")
    assert str(path) in str(raised.value) and "No space left" in str(raised.value)


def test_a_target_that_is_a_folder_is_named(tmp_path):
    (tmp_path / "x.npy").mkdir()
    with pytest.raises(OSError) as raised:
        save_array(np.ones(2), tmp_path / "x.npy")
    assert str(tmp_path / "x.npy") in str(raised.value)
    assert list(tmp_path.iterdir()) == [tmp_path / "x.npy"]


def test_arrays_of_objects_are_neither_written_nor_read(tmp_path):
    objects = np.array([{"a": 1}, None])
    with pytest.raises(ValueError):
        save_array(objects, tmp_path / "o.npy")
    assert list(tmp_path.iterdir()) == []
    np.save(tmp_path / "o.npy", objects, allow_pickle=True)
    with pytest.raises(ValueError) as raised:
        load_array(tmp_path / "o.npy")
    assert str(tmp_path / "o.npy") in str(raised.value)


def test_two_writers_of_one_process_id_do_not_meet(tmp_path):
    """As on two machines that share a folder."""
    path = tmp_path / "x"
    with replace_when_whole(path) as first:
        first.write(b"first")
        with replace_when_whole(path) as second:
            second.write(b"second and longer")
        assert path.read_bytes() == b"second and longer"
    assert path.read_bytes() == b"first" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (MemoryError(), MemoryError, None),
        (
            OSError(errno.ESTALE, "Stale file handle"),
            ValueError,
            "see to the rights of the file",
        ),
        (FileNotFoundError(errno.ENOENT, "No such file"), ValueError, "write it anew"),
    ],
)
def test_a_disk_or_a_lack_of_memory_is_no_damaged_file(tmp_path, monkeypatch, error, kind, words):
    np.save(tmp_path / "a.npy", np.arange(20.0))
    Image.fromarray(np.zeros((3, 3), np.uint8)).save(tmp_path / "a.png")
    monkeypatch.setattr(np.lib.format, "open_memmap", Mock(side_effect=error))
    with pytest.raises(kind, match=words):
        load_array(tmp_path / "a.npy")
    if kind is MemoryError:
        with pytest.raises(MemoryError), opened(tmp_path / "a.png"):
            raise error


@pytest.mark.parametrize("keep", [0, 5, 60, -3])
def test_truncated_arrays_are_named(tmp_path, keep):
    path = tmp_path / "a.npy"
    np.save(path, np.arange(20.0))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError) as raised:
        load_array(path)
    assert str(path) in str(raised.value)


def test_pictures_text_and_json(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    save_image(Image.fromarray(picture), tmp_path / "p.png")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "p.png")), picture)
    save_text("größer\n", tmp_path / "t.txt")
    assert (tmp_path / "t.txt").read_text(encoding="utf-8") == "größer\n"
    save_json({"a": [1, 2.5, None]}, tmp_path / "j.json")
    save_json(
        {"a": (math.nan, [math.inf, 2]), "b": {"c": np.float64("-inf"), "d": "NaN"}}, tmp_path / "n.json"
    )
    strict = json.loads((tmp_path / "n.json").read_text(), parse_constant=pytest.fail)
    assert strict == {"a": [None, [None, 2]], "b": {"c": None, "d": "NaN"}}
    assert json.loads((tmp_path / "j.json").read_text()) == {"a": [1, 2.5, None]}


def test_colours_of_classes_and_black_for_the_rest():
    colours = np.array([[1, 2, 3], [4, 5, 6]], dtype=np.uint8)
    picture = colourise(np.array([[0, 1], [250, 2]], dtype=np.uint8), colours)
    assert picture.tolist() == [[[1, 2, 3], [4, 5, 6]], [[0, 0, 0], [0, 0, 0]]]
    assert picture.dtype == np.uint8


def test_a_contact_sheet_shows_every_panel_once():
    shades = [[40, 80, 120], [160, 200, 240]]
    rows = [[np.full((8, 16, 3), s, dtype=np.uint8) for s in row] for row in shades]
    sheet = contact_sheet(["a", "b", "c"], rows, width=32)
    pixels = np.asarray(sheet)
    for shade in (s for row in shades for s in row):
        mask = (pixels == shade).all(axis=2)
        ys, xs = np.nonzero(mask)
        panel = mask[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]
        if panel.all():
            assert panel.shape == (16, 32)
    centres = [[np.argwhere((pixels == s).all(axis=2)).mean(axis=0) for s in row] for row in shades]
    assert centres[0][0][1] < centres[0][1][1] < centres[0][2][1]
    assert centres[0][0][0] < centres[1][0][0]


def test_what_killed_processes_had_begun_is_removed(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    gone = [f".x.npy.{dead.pid}.tmp", f".x.npy.{os.getpid()}.tmp"]
    kept = [f".x.npy.{os.getppid()}.tmp", ".x.npy.tmp", ".x.npy.word.tmp", "x.npy"]
    for name in gone + kept:
        (tmp_path / name).write_text("")
    clear_unfinished([tmp_path, tmp_path / "none"])
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)
    clear_unfinished([tmp_path], alone=True)
    assert [path.name for path in tmp_path.iterdir()] == ["x.npy"]


def npy(descr: str, shape: object, body: bytes = b"") -> bytes:
    """A .npy file with any claims."""
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + body


@pytest.mark.parametrize(
    "content",
    [
        npy("'<f4'", (10**12,), bytes(64)),
        npy("'<f4'", (2**62, 16), bytes(64)),
        npy("'<f4'", (-1, -16), bytes(64)),
        npy("'<f4'", (5,), bytes(16)),
        npy("'|O'", (1,), bytes(64)),
        npy("'V8'", (1,), bytes(64)),
        npy("'<c8'", (1,), bytes(64)),
        npy("'<M8[s]'", (1,), bytes(64)),
        npy("('<f4', (10000, 10000))", (1,), bytes(64)),
        npy("'<f4'", "(" * 300, bytes(64)),
        npy("'<f4'", "-" * 9000 + "1", bytes(64)),
        b"\x93NUMPY\x02\x00\xff\xff\xff\xff{}",
        b"PK\x03\x04",
    ],
)
def test_claims_of_arrays_are_refused(tmp_path, content):
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.npy") as raised:
        load_array(tmp_path / "a.npy")
    assert "\n" not in str(raised.value)
    assert not isinstance(raised.value.__context__, MemoryError)


def test_a_file_of_many_zeros_is_refused(tmp_path):
    """One that is as long as it says and takes no room on the disk."""
    path = tmp_path / "a.npy"
    path.write_bytes(npy("'<f8'", (19, 10**6, 200)))
    os.truncate(path, 31 * 10**9)
    with pytest.raises(ValueError, match=r"a\.npy"):
        load_array(path)


@pytest.mark.parametrize("dtype", ["?", "u1", "<i8", ">f4", "<f2", "<f8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_plain_numbers_of_every_type_are_read(tmp_path, dtype, order):
    array = np.asarray(np.arange(24).reshape(2, 3, 4) % 7, dtype=dtype, order=order)
    for values in (array, array[:0], array[0, 0, 0]):
        save_array(values, tmp_path / "no_ending")
        read = load_array(tmp_path / "no_ending")
        assert read.dtype == values.dtype and read.shape == values.shape
        np.testing.assert_array_equal(read, values)
