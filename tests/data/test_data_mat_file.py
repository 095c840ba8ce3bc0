"""split.mat in all of its forms, against scipy's writer, and files that scipy's reader does not survive."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from data.mat_file import read_matrices
from data.sets.gta5 import gta5

LISTS = {"trainIds": [[9], [1]], "valIds": [[5]], "testIds": [[2]]}


def saved(content: dict, **options: object) -> bytes:
    buffer = io.BytesIO()
    savemat(buffer, content, **options)
    return buffer.getvalue()


@pytest.fixture
def root(tmp_path):
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    return tmp_path


@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"])
@pytest.mark.parametrize("packed", [False, True])
def test_ids_of_every_form(root, dtype, packed):
    assert_read(root, dtype, do_compression=packed)


@pytest.mark.parametrize("dtype", ["i4", "u2", "f4", "f8"])
def test_ids_of_the_format_before(root, dtype):
    assert_read(root, dtype, format="4")


def assert_read(root: Path, dtype: str, **options: object) -> None:
    lists = {name: np.array(ids, dtype=dtype) for name, ids in LISTS.items()}
    (root / "split.mat").write_bytes(saved(lists, **options))
    assert [image.name for image in gta5(root, 19).images] == [f"{i:05d}.png" for i in (1, 2, 5, 9)]


def test_matrices_are_those_that_scipy_wrote():
    rng = np.random.default_rng(0)
    wanted = {"a": rng.normal(size=(3, 4)), "b": rng.integers(0, 9, (5, 1)), "c": np.zeros((0, 2))}
    others = {"text": "abc", "cells": np.array([1, "x"], dtype=object), "struct": {"x": 1}}
    for packed in (False, True):
        found = read_matrices(saved(others | wanted, do_compression=packed), wanted.keys(), 100)
        assert found.keys() == wanted.keys()
        for name, values in wanted.items():
            np.testing.assert_array_equal(found[name], values.ravel(order="F"))


def test_an_unknown_type_of_numbers_is_refused(root):
    """scipy's reader ends the program here."""
    content = saved({name: np.array(ids, dtype=np.uint16) for name, ids in LISTS.items()})
    at = content.index(b"valIds") + 8
    assert struct.unpack("<2H", content[at : at + 4]) == (4, 2)  # a short element of uint16
    (root / "split.mat").write_bytes(content[:at] + struct.pack("<2H", 20, 2) + content[at + 4 :])
    with pytest.raises(ValueError, match=r"split\.mat"):
        gta5(root, 19)


@pytest.mark.parametrize(
    "lists",
    [
        {"valIds": [[0]]},
        {"valIds": [[-3]]},
        {"valIds": [[1.5]]},
        {"valIds": [[np.nan]]},
        {"valIds": [[np.inf]]},
        {"valIds": [[100_000]]},
        {"valIds": [[1 + 2j]]},
        {"valIds": "12"},
        {"valIds": {"x": 1}},
        {"valIds": np.array([[1, "x"]], dtype=object)},
        {"valIds": np.ones((400, 400))},
    ],
    ids=["0", "-3", "1.5", "nan", "inf", "six digits", "complex", "text", "struct", "cells", "too many"],
)
@pytest.mark.parametrize("packed", [False, True])
def test_what_is_no_list_of_ids_is_refused(root, lists, packed):
    (root / "split.mat").write_bytes(saved(LISTS | lists, do_compression=packed))
    with pytest.raises(ValueError, match=r"split\.mat") as raised:
        gta5(root, 19)
    assert "\n" not in str(raised.value)


def test_a_list_twice_or_not_at_all_is_refused(root):
    content = saved({name: np.array(ids) for name, ids in LISTS.items()})
    for changed in (content + content[128:], content.replace(b"valIds", b"valids"), b"x" * 2**21):
        (root / "split.mat").write_bytes(changed)
        with pytest.raises(ValueError, match=r"split\.mat"):
            gta5(root, 19)
