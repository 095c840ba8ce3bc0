"""Only five formats of bounded size are opened."""

from __future__ import annotations

import io
import struct
import zlib

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from utils.files.image_file import LONGEST_SIDE, opened


def png_header(width: int, height: int) -> bytes:
    """The beginning of a PNG, which is all that is read before a size is refused."""
    body = struct.pack(">2I5B", width, height, 8, 0, 0, 0, 0)
    chunks = b""
    for kind, content in ((b"IHDR", body), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")):
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        chunks += struct.pack(">I", len(content)) + kind + content + checksum
    return b"\x89PNG\r\n\x1a\n" + chunks


@pytest.mark.parametrize("form", ["PNG", "JPEG", "BMP", "WEBP", "TIFF"])
def test_five_formats_are_opened_whatever_their_name(tmp_path, form):
    Image.new("RGB", (5, 4), (9, 8, 7)).save(tmp_path / "x", form)
    with opened(tmp_path / "x") as image:
        assert image.format == form and image.size == (5, 4)


@pytest.mark.parametrize("form", ["GIF", "PPM", "ICO", "EPS"])
def test_other_formats_are_refused(tmp_path, form):
    buffer = io.BytesIO()
    Image.new("RGB", (5, 4)).save(buffer, form)
    (tmp_path / "x.png").write_bytes(buffer.getvalue())
    with pytest.raises(ValueError, match=r"x\.png: .*no PNG, JPEG.*; convert"), opened(tmp_path / "x.png"):
        pass


@pytest.mark.parametrize("size", [(10_000, 10_000), (20_000, 20_000), (LONGEST_SIDE + 1, 1), (1, 80_000_000)])
def test_absurd_sizes_are_refused_by_the_header(tmp_path, size):
    """Also between Pillow's limit and twice that, where it only warns."""
    (tmp_path / "x.png").write_bytes(png_header(*size))
    limit = r"x\.png: has more than 89,478,485 pixels, .* raise MAX_PIXELS or LONGEST_SIDE"
    with pytest.raises(ValueError, match=limit), opened(tmp_path / "x.png"):
        pass


def test_the_largest_are_opened(tmp_path):
    (tmp_path / "x.png").write_bytes(png_header(LONGEST_SIDE, 2000))
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


@pytest.mark.parametrize("kind", ["text", "itxt", "icc"])
def test_long_texts_and_profiles_are_passed_over(tmp_path, kind):
    info, text, profile = PngInfo(), "a" * 3 * 10**6, None
    if kind == "icc":
        profile = text.encode()
    else:
        (info.add_text if kind == "text" else info.add_itxt)("note", text, zip=True)
    Image.new("L", (5, 4), 7).save(tmp_path / "x.png", pnginfo=info, icc_profile=profile)
    with opened(tmp_path / "x.png") as image:
        assert image.getextrema() == (7, 7)


def test_a_file_that_may_not_be_read_has_another_remedy(tmp_path, monkeypatch):
    (tmp_path / "x.png").write_bytes(b"")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Image, "open", refuse)
    with (
        pytest.raises(ValueError, match=r"Permission denied.*; see to the rights"),
        opened(tmp_path / "x.png"),
    ):
        pass


def test_a_tiff_has_no_compression(tmp_path):
    """libtiff would print its own words about a damaged file."""
    Image.new("RGB", (5, 4)).save(tmp_path / "x.tif", compression="tiff_lzw")
    with pytest.raises(ValueError, match=r"x\.tif: .*TIFF with compression"), opened(tmp_path / "x.tif"):
        pass
