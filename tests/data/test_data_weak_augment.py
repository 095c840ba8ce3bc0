"""Random scale, crop and flip: records and their views; a box of a resized picture against the whole."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from benchmarks.plain_samples import weak as plain_weak
from data.augment.weak import (
    WeakRecord,
    centred_record,
    draw_weak,
    nearest_index,
    needed_box,
    resize_box,
    weak_box,
    weak_image,
    weak_index,
)
from data.sets.dataset import crossings, load_rows

SIZE, CROP = (200, 100), (48, 32)  # (W, H)


def draws(count: int, resize: int = 200, size=SIZE, crop=CROP, flip: float = 0.5) -> list[WeakRecord]:
    rng = np.random.default_rng(0)
    return [draw_weak(rng, size, resize, crop, flip) for _ in range(count)]


def assert_inside(record: WeakRecord, crop: tuple[int, int]) -> None:
    height, width = record.size
    y1, y2, x1, x2 = record.crop
    assert 0 <= y1 < y2 <= height and 0 <= x1 < x2 <= width
    assert (x2 - x1, y2 - y1) == crop


def test_records_stay_inside_the_scaled_image():
    for record in draws(500):
        assert_inside(record, CROP)
    assert draws(10) == draws(10) and len({r.size for r in draws(10)}) > 5


def test_width_is_uniform_from_half_to_one_and_a_half_and_the_height_follows():
    widths = np.array([record.size[1] for record in draws(4000)])
    assert 100 <= widths.min() < 103 and 296 < widths.max() < 300
    assert widths.mean() == pytest.approx(200, abs=4)
    assert widths.std() == pytest.approx(200 / 12**0.5, rel=0.05)
    assert all(r.size[0] == int(r.size[1] * 76 / 128) for r in draws(200, size=(128, 76)))


def test_corners_reach_both_ends():
    """Uniform over all whole positions, the last one included."""
    records = draws(3000, resize=60, size=(60, 30), crop=(56, 24))
    fixed = [r for r in records if r.size[1] == 60]
    assert {r.crop[2] for r in fixed} == set(range(60 - 56 + 1))
    assert {r.crop[0] for r in fixed} == set(range(30 - 24 + 1))


@pytest.mark.parametrize("flip", [0.0, 0.2, 0.5, 1.0])
def test_flip_has_its_probability(flip):
    found = np.mean([r.flip for r in draws(4000, flip=flip)])
    assert found == pytest.approx(flip, abs=0.03 if 0 < flip < 1 else 0)


@pytest.mark.parametrize("size", [(40, 20), (200, 20), (20, 200), (64, 64), (1280, 760), (101, 37)])
def test_an_image_smaller_than_the_crop_is_enlarged_just_enough(size):
    crop = (896, 512)
    for record in draws(20, resize=30, size=size, crop=crop):
        assert_inside(record, crop)
        height, width = record.size
        assert width == crop[0] or height == crop[1]
        assert abs(width * size[1] - height * size[0]) <= max(size) + 1  # the aspect, to a pixel


def noise(size: tuple[int, int], channels: int = 3) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], channels), dtype=np.uint8)
    return Image.fromarray(values[..., 0] if channels == 1 else values)


def view(image: Image.Image, record: WeakRecord) -> np.ndarray:
    """The weak view, of no more of the image than it needs."""
    region = image.crop(weak_box(record, image.size))
    return np.asarray(weak_image(np.asarray(region), record, image.size))


def label_view(label: np.ndarray, record: WeakRecord) -> np.ndarray:
    return label[np.ix_(*weak_index(record, label.shape[::-1]))]


RECORDS = [WeakRecord((50, 120), (5, 37, 60, 108), True), WeakRecord((100, 200), (10, 42, 20, 68), False)]


@pytest.mark.parametrize("record", RECORDS)
def test_image_and_label_are_scaled_cropped_and_mirrored(record):
    picture = noise(SIZE)
    expected = plain_weak(picture, record, Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(view(picture, record), np.asarray(expected))
    label = np.random.default_rng(3).choice(np.array([0, 5, 18, 250], dtype=np.uint8), (100, 200))
    expected = plain_weak(Image.fromarray(label), record, Image.Resampling.NEAREST)
    np.testing.assert_array_equal(label_view(label, record), np.asarray(expected))


def test_centred_record():
    assert centred_record((200, 100), (48, 32)) == WeakRecord((100, 200), (34, 66, 76, 124), False)
    small = centred_record((20, 20), (48, 32))
    assert small == WeakRecord((48, 48), (8, 40, 0, 48), False)


# --- a box of a resized picture ----------------------------------------------------------------------------

SIZES = [
    ((191, 105), (204, 102)),
    ((204, 102), (177, 88)),
    ((204, 102), (330, 164)),
    ((204, 102), (110, 55)),
    ((300, 200), (300, 150)),
    ((64, 32), (200, 100)),
    ((60, 40), (7, 5)),
    ((50, 40), (50, 40)),
]


@pytest.mark.parametrize(("full", "size"), SIZES)
def test_a_box_is_that_of_the_whole(full, size):
    image, rng = noise(full), np.random.default_rng(1)
    whole = np.asarray(image.resize(size, Image.Resampling.BILINEAR))
    for _ in range(20):
        (x1, x2), (y1, y2) = (sorted(rng.choice(side + 1, 2, replace=False).tolist()) for side in size)
        needed = needed_box(full, size, (x1, y1, x2, y2))
        part = resize_box(image.crop(needed), needed[:2], full, size, (x1, y1, x2, y2))
        np.testing.assert_array_equal(np.asarray(part), whole[y1:y2, x1:x2])


@pytest.mark.parametrize(("full", "size"), SIZES)
def test_nearest_index_is_what_pillow_takes(full, size):
    label = noise(full, 1)
    taken = np.asarray(label)[np.ix_(nearest_index(full[1], size[1]), nearest_index(full[0], size[0]))]
    np.testing.assert_array_equal(taken, np.asarray(label.resize(size, Image.Resampling.NEAREST)))


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@pytest.mark.parametrize("rows", [1, 17, 40, 99])
def test_first_rows_are_decoded_as_in_the_whole(suffix, rows, tmp_path):
    path = tmp_path / f"x{suffix}"
    noise((50, 40)).save(path)
    whole = np.asarray(Image.open(path))
    with Image.open(path) as image:
        load_rows(image, rows)
    np.testing.assert_array_equal(np.asarray(image)[:rows], whole[:rows])
    if suffix == ".png" and rows < 40:
        assert not np.asarray(image)[rows:].any()  # so it really stopped there


def test_interlaced_pngs_are_decoded_whole(tmp_path):
    """Their first rows come in seven passes. Pillow writes none: the file is made by hand, one pixel wide."""
    path = tmp_path / "x.png"
    path.write_bytes(interlaced_column(list(range(10, 26))))
    with Image.open(path) as image:
        load_rows(image, 3)
    np.testing.assert_array_equal(np.asarray(image)[:, 0], range(10, 26))


def interlaced_column(values: list[int]) -> bytes:
    """A grey PNG one pixel wide: of Adam7's passes those with column 0 are 1 (rows 0, 8), 3 and 5 and 7."""
    passes = [values[0::8], values[4::8], values[2::4], values[1::2]]
    data = b"".join(bytes([0, value]) for part in passes for value in part)
    header = struct.pack(">IIBBBBB", 1, len(values), 8, 0, 0, 0, 1)

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(data)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_crossings():
    values = np.arange(30).reshape(5, 6)
    for rows, columns in (([1, 2, 3], [0, 1]), ([4, 0, 0], [5, 3, 1]), ([2], [3, 2, 1])):
        rows, columns = np.array(rows), np.array(columns)
        np.testing.assert_array_equal(crossings(values, rows, columns), values[np.ix_(rows, columns)])
