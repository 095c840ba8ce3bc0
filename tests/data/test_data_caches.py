"""Caches on disk: decoded images and colour statistics."""

from __future__ import annotations

import os
import zlib
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image

from data.augment.colour_transfer import KeptStatistics, colour_statistics
from data.classes import id_format
from data.image_cache import ImageCache
from data.sets.dataset import DataSet, read_label_image

SIZE = (50, 70)  # W, H: more rows than two strips of the cache hold
SHAPE = (SIZE[1], SIZE[0], 3)
LIMIT = 10**9


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "x.png"
    path.write_bytes(b"stands for a picture")
    return path


def whole(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (SIZE[1], SIZE[0], 3), dtype=np.uint8)


def rows(cache: ImageCache, source: Path, start: int = 3, stop: int = 41, seed: int = 0) -> np.ndarray:
    return cache.rows(source, "RGB", SHAPE, start, stop, lambda: whole(seed))


def entries(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.image"))


def test_rows_are_made_once_and_read_again(source, tmp_path):
    cache = ImageCache(tmp_path / "cache", LIMIT)
    np.testing.assert_array_equal(rows(cache, source), whole()[3:41])
    for start, stop in ((0, 70), (3, 41), (31, 33), (64, 70), (69, 70)):
        np.testing.assert_array_equal(rows(cache, source, start, stop, seed=1), whole()[start:stop])
    again = ImageCache(tmp_path / "cache", LIMIT)
    np.testing.assert_array_equal(rows(again, source, seed=1), whole()[3:41])
    assert len(entries(tmp_path / "cache")) == 1
    label = cache.rows(source, "label", SHAPE[:2], 2, 5, lambda: whole()[..., 0])  # another entry
    np.testing.assert_array_equal(label, whole()[2:5, :, 0])
    np.testing.assert_array_equal(rows(cache, source, seed=1), whole()[3:41])


def test_an_entry_of_another_shape_or_of_a_changed_file_is_made_anew(source, tmp_path):
    """Even if it has the same length, as an entry of an older release may."""
    cache = ImageCache(tmp_path / "cache", LIMIT)
    rows(cache, source)
    turned = whole(1).reshape(SHAPE[0], 3, SHAPE[1])
    np.testing.assert_array_equal(cache.rows(source, "RGB", turned.shape, 0, 70, lambda: turned), turned)
    os.utime(source, ns=(1, source.stat().st_mtime_ns + 1))
    np.testing.assert_array_equal(rows(cache, source, seed=2), whole(2)[3:41])


DAMAGE = {
    "cut": lambda b: b[: len(b) // 2],
    "empty": lambda b: b"",
    "a bit of a pixel": lambda b: b[:3000] + bytes([b[3000] ^ 1]) + b[3001:],
    "a bit of a checksum": lambda b: b[:-1] + bytes([b[-1] ^ 128]),
    "other bytes": lambda b: b"\xff" * len(b),
    "a row more": lambda b: b[:150] + b,
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_entry_is_made_anew(damage, source, tmp_path):
    cache = ImageCache(tmp_path / "cache", LIMIT)
    rows(cache, source)
    (entry,) = entries(tmp_path / "cache")
    entry.write_bytes(damage(entry.read_bytes()))
    np.testing.assert_array_equal(rows(cache, source, 0, 70, seed=1), whole(1))
    np.testing.assert_array_equal(rows(cache, source, 0, 70, seed=2), whole(1))  # kept again
    assert int((tmp_path / "cache" / "bytes").read_text()) == entry.stat().st_size


def test_no_more_than_the_limit_is_kept(source, tmp_path, capsys):
    """An image that does not fit any more is not decoded whole: the caller reads its part."""
    rows(ImageCache(tmp_path / "one", LIMIT), source)
    one = entries(tmp_path / "one")[0].stat().st_size
    cache = ImageCache(tmp_path / "cache", int(2.5 * one))
    for _ in range(2):
        taken = [cache.rows(source, kind, SHAPE, 0, 70, whole) for kind in "ab"]
        assert all((rows == whole()).all() for rows in taken)
    np.testing.assert_array_equal(cache.rows(source, "c", SHAPE, 0, 70, whole), whole())  # found out too late
    assert cache.rows(source, "d", SHAPE, 0, 70, forbid) is None
    assert len(entries(tmp_path / "cache")) == 2
    assert capsys.readouterr().err.count("--cache_limit") == 1
    assert int((tmp_path / "cache" / "bytes").read_text()) == 2 * one


def test_an_entry_of_somebody_else_is_passed_over(source, tmp_path, monkeypatch):
    cache = ImageCache(tmp_path / "cache", LIMIT)
    rows(cache, source)
    monkeypatch.setattr("data.image_cache._read", Mock(side_effect=PermissionError))
    np.testing.assert_array_equal(rows(cache, source, seed=1), whole(1)[3:41])


def test_statistics_of_somebody_else_are_passed_over(tmp_path, monkeypatch):
    data, path = pictures(tmp_path), tmp_path / "statistics.txt"
    KeptStatistics(path).get(data, 0)
    monkeypatch.setattr("data.augment.colour_transfer.open", Mock(side_effect=PermissionError), raising=False)
    assert_right(KeptStatistics(path), data)


def test_a_wrong_count_is_put_right_at_the_start(source, tmp_path):
    rows(ImageCache(tmp_path / "cache", LIMIT), source)
    for text in ("999999999999", "nonsense", ""):
        (tmp_path / "cache" / "bytes").write_text(text)
        ImageCache(tmp_path / "cache", LIMIT)
        size = entries(tmp_path / "cache")[0].stat().st_size
        assert int((tmp_path / "cache" / "bytes").read_text()) == size


def test_a_disk_that_refuses_does_not_stop_the_run(source, tmp_path, capsys, monkeypatch):
    (tmp_path / "file").write_text("")
    no_folder = ImageCache(tmp_path / "file", LIMIT)
    assert no_folder.rows(source, "RGB", SHAPE, 0, 70, forbid) is None
    assert capsys.readouterr().err.count("nothing more is cached") == 1
    cache = ImageCache(tmp_path / "cache", LIMIT)
    monkeypatch.setattr("os.replace", raise_disk_full)
    np.testing.assert_array_equal(rows(cache, source), whole()[3:41])
    assert rows(cache, source) is None
    assert capsys.readouterr().err.count("nothing more is cached") == 1
    assert not [p for p in (tmp_path / "cache").iterdir() if p.name != "bytes"]


def raise_disk_full(*_: object) -> None:
    raise OSError(28, "No space left on device")


def fill(folder: Path, source: Path, number: int) -> list[int]:
    cache = ImageCache(folder, LIMIT)
    made = [cache.rows(source, f"{i}", SHAPE, 0, 70, partial(whole, i)) for i in range(12)]
    return [int((x == whole(i)).all()) for i, x in enumerate(made)]


def test_processes_fill_one_cache_together(source, tmp_path):
    with ProcessPoolExecutor(3, mp_context=get_context("spawn")) as pool:
        good = list(pool.map(partial(fill, tmp_path / "cache", source), range(3)))
    assert good == [[1] * 12] * 3
    ImageCache(tmp_path / "cache", LIMIT)
    kept = entries(tmp_path / "cache")
    assert len(kept) == 12
    assert int((tmp_path / "cache" / "bytes").read_text()) == sum(e.stat().st_size for e in kept)


# Colour statistics


def pictures(root: Path, count: int = 6) -> DataSet:
    paths = []
    for i in range(count):
        paths.append(root / f"{i}.png")
        Image.fromarray(whole(i)).save(paths[-1])
    return DataSet("gta5", root, tuple(paths), (), id_format("cityscapes", 19, read_label_image), SIZE)


def assert_right(kept: KeptStatistics, data: DataSet) -> None:
    for i in range(len(data)):
        np.testing.assert_array_equal(kept.get(data, i), colour_statistics(data.read_image(i)))


def forbid(*_: object) -> None:
    raise AssertionError("worked out again")


def test_statistics_are_worked_out_once_by_any_process(tmp_path, monkeypatch):
    data, path = pictures(tmp_path), tmp_path / "logs" / "statistics.txt"
    first, second = KeptStatistics(path), KeptStatistics(path)
    first.get(data, 0)
    second.get(data, 1)
    assert_right(first, data)
    wanted = [KeptStatistics(None).get(data, i) for i in range(len(data))]
    monkeypatch.setattr("data.augment.colour_transfer.colour_statistics", forbid)
    for kept in (first, second, KeptStatistics(path)):
        np.testing.assert_array_equal([kept.get(data, i) for i in range(len(data))], wanted)


def test_statistics_of_another_size_or_file_are_others(tmp_path):
    data, kept = pictures(tmp_path), KeptStatistics(tmp_path / "statistics.txt")
    assert_right(kept, data)
    Image.fromarray(whole(99)).save(data.images[0])
    os.utime(data.images[0], ns=(1, 1))
    assert_right(kept, data)
    smaller = DataSet(
        "gta5", tmp_path, data.images, (), id_format("cityscapes", 19, read_label_image), (20, 30)
    )
    assert_right(kept, smaller)


def with_numbers(number: bytes, content: bytes) -> bytes:
    """Lines of the same keys with other numbers, and a right checksum."""
    keys = [line.split()[1] for line in content.split(b"\n") if line]
    lines = [key + b" " + b" ".join([number] * 6) for key in keys]
    return b"".join(b"%08x %s\n" % (zlib.crc32(line), line) for line in lines)


LINE_DAMAGE = {
    "cut": lambda b: b[: len(b) // 2],
    "begin lost": lambda b: b[len(b) // 3 :],
    "garbage": lambda b: b"\xff\x00garbage\n" + b,
    "other digits": lambda b: b.replace(b"1", b"2"),
    "empty": lambda b: b"",
    "empty lines": lambda b: b"\n\n00000000 \n" + b,
    **{number: partial(with_numbers, number.encode()) for number in ("0x1p99999", "nan", "inf", "x", "0x")},
}


@pytest.mark.parametrize("damage", LINE_DAMAGE.values(), ids=LINE_DAMAGE)
def test_damaged_lines_are_worked_out_again(damage, tmp_path):
    data, path = pictures(tmp_path), tmp_path / "statistics.txt"
    assert_right(KeptStatistics(path), data)
    path.write_bytes(damage(path.read_bytes()))
    assert_right(KeptStatistics(path), data)  # adds what was lost
    assert_right(KeptStatistics(path), data)


def test_a_folder_that_cannot_be_written_does_not_stop_the_run(tmp_path, capsys):
    data = pictures(tmp_path)
    (tmp_path / "file").write_text("")
    kept = KeptStatistics(tmp_path / "file" / "statistics.txt")
    assert_right(kept, data)
    assert capsys.readouterr().err.count("not kept") == 1


def add_all(path: Path, data: DataSet, number: int) -> None:
    kept = KeptStatistics(path)
    for i in np.random.default_rng(number).permutation(len(data)):
        kept.get(data, int(i))


def test_processes_keep_statistics_together(tmp_path, monkeypatch):
    data, path = pictures(tmp_path), tmp_path / "statistics.txt"
    with ProcessPoolExecutor(3, mp_context=get_context("spawn")) as pool:
        list(pool.map(partial(add_all, path, data), range(3)))
    wanted = [colour_statistics(data.read_image(i)) for i in range(len(data))]
    monkeypatch.setattr("data.augment.colour_transfer.colour_statistics", forbid)
    kept = KeptStatistics(path)
    np.testing.assert_array_equal([kept.get(data, i) for i in range(len(data))], wanted)
