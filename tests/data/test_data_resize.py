"""A box of a resized picture against the whole resized picture."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from data.augment.weak import nearest_index, needed_box, resize_box
from data.sets.dataset import crossings, load_rows

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


def noise(size: tuple[int, int], channels: int = 3) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], channels), dtype=np.uint8)
    return Image.fromarray(values[..., 0] if channels == 1 else values)


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
    import struct
    import zlib

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
