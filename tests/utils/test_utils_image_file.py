"""PNG and JPEG are opened, whatever their names; tests/fuzz/bombs.py has what is refused."""

from __future__ import annotations

import struct
import zlib

import pytest
from PIL import Image

from utils.files.image_file import LONGEST_SIDE, opened


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_both_formats_are_opened_whatever_their_name(tmp_path, form):
    Image.new("RGB", (5, 4), (9, 8, 7)).save(tmp_path / "x", form)
    with opened(tmp_path / "x") as image:
        assert image.format == form and image.size == (5, 4)


def test_the_largest_are_opened(tmp_path):
    Image.new("1", (LONGEST_SIDE, 2000)).save(tmp_path / "x.png")
    with opened(tmp_path / "x.png") as image:
        assert image.size == (LONGEST_SIDE, 2000)


@pytest.mark.parametrize("at", [33, -12], ids=["before the pixels", "after them"])
def test_a_broken_part_that_is_not_needed_is_passed_over_without_a_word(tmp_path, at):
    """An animation of no frames, of which Pillow warns."""
    Image.new("L", (5, 4), 7).save(tmp_path / "x.png")
    content = (tmp_path / "x.png").read_bytes()
    body = b"acTL" + bytes(8)
    chunk = struct.pack(">I", 8) + body + struct.pack(">I", zlib.crc32(body))
    (tmp_path / "x.png").write_bytes(content[:at] + chunk + content[at:])
    with opened(tmp_path / "x.png") as image:
        image.load()
    assert image.getextrema() == (7, 7)
